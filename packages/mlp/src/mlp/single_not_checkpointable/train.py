"""A multi-layer perceptron on one process, without checkpoints: for runs of a few minutes.

    uv run --package mlp mlp-launch single_not_checkpointable compute=local
    uv run --package mlp mlp-launch single_not_checkpointable compute=bon_echo/a40_1x requeue=off

A preempted run starts again at step 0. Compare with mlp/single/train.py: the difference is what a checkpoint costs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import distributed
from common.checkpoint import parameters_sha256
from common.metrics import MetricsLog
from mlp.single_not_checkpointable.schema import Config, Trainer


def build_model(cfg: Trainer) -> nn.Module:
    return nn.Sequential(
        nn.Linear(cfg.input_dim, cfg.hidden_dim),
        nn.ReLU(),
        nn.Linear(cfg.hidden_dim, cfg.hidden_dim),
        nn.ReLU(),
        nn.Linear(cfg.hidden_dim, cfg.num_classes),
    )


def build_data(cfg: Trainer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two overlapping Gaussian clusters per class: (x, y) to train on, (x, y) held out.

    x is (samples, input_dim), y is (samples,) of class numbers.
    """
    draw = torch.Generator().manual_seed(cfg.seed)
    held_out = max(1, cfg.num_samples // 4)
    centres = torch.randn(2 * cfg.num_classes, cfg.input_dim, generator=draw)
    cluster = torch.randint(len(centres), (cfg.num_samples + held_out,), generator=draw)
    x = centres[cluster] + torch.randn(len(cluster), cfg.input_dim, generator=draw)
    y = cluster % cfg.num_classes
    return x[held_out:], y[held_out:], x[:held_out], y[:held_out]


def epoch_batches(cfg: Trainer, epoch: int) -> tuple[Tensor, ...]:
    """The sample numbers of each batch of an epoch, a function of seed and epoch."""
    order = torch.randperm(cfg.num_samples, generator=torch.Generator().manual_seed(cfg.seed + 1_000_003 * epoch))
    return order.split(cfg.batch_size)


def train(config: Config) -> dict[str, float]:
    cfg = config.trainer

    # ----- build -----
    torch.set_num_threads(1)  # on a CPU, a model this small is fastest on one thread
    torch.manual_seed(cfg.seed)
    device = distributed.device()
    model = build_model(cfg).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.learning_rate)
    x, y, eval_x, eval_y = (tensor.to(device) for tensor in build_data(cfg))
    steps = cfg.num_epochs * len(epoch_batches(cfg, 0))

    # ----- train -----
    log = MetricsLog(config, 0, steps)
    step = 0
    for epoch in range(cfg.num_epochs):
        for batch in epoch_batches(cfg, epoch):
            batch = batch.to(device)
            logits = model(x[batch])
            loss = F.cross_entropy(logits, y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1

            if step % cfg.log_every == 0:
                accuracy = (logits.argmax(dim=1) == y[batch]).float().mean()
                log.write(step, loss=loss.item(), accuracy=accuracy.item())

    # ----- finish -----
    with torch.no_grad():
        logits = model(eval_x)
        eval_loss = F.cross_entropy(logits, eval_y).item()
        eval_accuracy = (logits.argmax(dim=1) == eval_y).float().mean().item()
    sha256 = parameters_sha256(model.named_parameters())
    return log.finish(step, sha256, eval_loss=eval_loss, eval_accuracy=eval_accuracy)
