"""What mlp.single costs over a hand-written loop: samples per CPU second, on one thread, with the default config.

    uv run python -m benchmarks.mlp_single

Both train the same model on the same data in the same order and end with bit-identical parameters, which is checked.
mlp.single.train.train is timed as a job runs it: with its checkpointer, metrics.jsonl and result.json. They take turns
in one process, and only the ratio within a pair counts: what else the machine does slows both, if not quite alike.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

import mlp.single
from common.checkpoint import parameters_sha256
from common.config import Paths
from mlp.single.schema import Config, Trainer
from mlp.single.train import build_data, train

EPOCHS = 100  # of 32 steps: 1 to 3 s; many short pairs are less noisy than few long ones
PAIRS = 30  # report() counts on it
GOAL = 0.95


def main() -> None:
    torch.set_num_threads(1)
    defaults: Any = OmegaConf.to_container(OmegaConf.load(Path(mlp.single.__file__).with_name("config.yaml")))
    cfg = Trainer(**defaults["trainer"] | {"num_epochs": EPOCHS})
    samples = EPOCHS * cfg.num_samples

    template(cfg)  # warm-up
    by_hand(cfg)
    rates: list[tuple[float, float]] = []
    for number in range(PAIRS):
        # who comes first alternates: a drift of the clock speed then cancels
        if number % 2:
            hand_s, hand_sha256 = timed(by_hand, cfg)
            template_s, template_sha256 = timed(template, cfg)
        else:
            template_s, template_sha256 = timed(template, cfg)
            hand_s, hand_sha256 = timed(by_hand, cfg)
        assert template_sha256 == hand_sha256, "the two loops do not compute the same"
        rates.append((samples / template_s, samples / hand_s))
    report(rates)


def timed(run: Callable[[Trainer], str], cfg: Trainer) -> tuple[float, str]:
    started = time.process_time()
    sha256 = run(cfg)
    return time.process_time() - started, sha256


def template(cfg: Trainer) -> str:
    with tempfile.TemporaryDirectory(prefix="vec-bench-") as folder:
        train(Config(template="mlp.single", paths=Paths(folder, folder, folder), trainer=cfg))
        checkpoint = next(Path(folder).glob("checkpoint-*"))
        return parameters_sha256(torch.load(checkpoint / "state.pt")["model"].items())


def by_hand(cfg: Trainer) -> str:
    """What one would write without any of the template's machinery."""
    torch.manual_seed(cfg.seed)
    model = nn.Sequential(
        nn.Linear(cfg.input_dim, cfg.hidden_dim),
        nn.ReLU(),
        nn.Linear(cfg.hidden_dim, cfg.hidden_dim),
        nn.ReLU(),
        nn.Linear(cfg.hidden_dim, cfg.num_classes),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.learning_rate)
    x, y, _, _ = build_data(cfg)
    for epoch in range(cfg.num_epochs):
        # seeded as the template does, to end with the same parameters
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(cfg.seed + 1_000_003 * epoch))
        for batch in order.split(cfg.batch_size):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return parameters_sha256(model.state_dict().items())


def report(rates: list[tuple[float, float]]) -> None:
    ratios = [ours / theirs for ours, theirs in rates]
    lower, middle, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    verdict = "met" if middle >= GOAL else "MISSED"
    print("| | samples per CPU s, median |\n|---|---|")
    print(f"| hand-written loop | {statistics.median(theirs for _, theirs in rates):,.0f} |")
    print(f"| `mlp.single.train.train` | {statistics.median(ours for ours, _ in rates):,.0f} |")
    print(f"| ratio, median of {len(rates)} pairs (goal >= {GOAL}) | {middle:.3f}, {verdict} |")
    # ranks 10 and 21 of 30 enclose the true median with 95 % (sign test)
    low, high = sorted(ratios)[9], sorted(ratios)[20]
    print(f"| ratio, 95 % interval of the median | {low:.3f} to {high:.3f} |")
    print(f"| ratio, interquartile range | {lower:.3f} to {upper:.3f} |")


if __name__ == "__main__":
    main()
