"""A multi-layer perceptron on one process, with exact resume.

uv run --package mlp mlp-launch single compute=local
uv run --package mlp mlp-launch single compute=killarney/l40s_1x trainer.learning_rate=1e-2,1e-3
uv run --package mlp mlp-launch single compute=inprocess trainer.num_epochs=3   # in a debugger
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import distributed
from common.checkpoint import Checkpointer, parameters_sha256
from common.metrics import MetricsLog
from mlp.single.schema import Config, Trainer


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
    """The sample numbers of each batch of an epoch: a function of seed and epoch, so a resume needs no replay."""
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
    batches_per_epoch = len(epoch_batches(cfg, 0))
    steps = cfg.num_epochs * batches_per_epoch

    # ----- resume -----
    checkpointer = Checkpointer(config, model=model, optimizer=optimizer)
    step = checkpointer.resume()
    log = MetricsLog(config, step, steps)

    # ----- train -----
    batches: tuple[Tensor, ...] = ()
    while step < steps:
        epoch, position = divmod(step, batches_per_epoch)
        if position == 0 or not batches:
            batches = epoch_batches(cfg, epoch)
        batch = batches[position].to(device)

        logits = model(x[batch])
        loss = F.cross_entropy(logits, y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1

        if step % cfg.log_every == 0:
            accuracy = (logits.argmax(dim=1) == y[batch]).float().mean()
            log.write(step, loss=loss.item(), accuracy=accuracy.item())
        checkpointer.save_or_leave(step)

    # ----- finish -----
    checkpointer.save(step)
    with torch.no_grad():
        logits = model(eval_x)
        eval_loss = F.cross_entropy(logits, eval_y).item()
        eval_accuracy = (logits.argmax(dim=1) == eval_y).float().mean().item()
    sha256 = parameters_sha256(model.named_parameters())
    return log.finish(step, sha256, eval_loss=eval_loss, eval_accuracy=eval_accuracy)
