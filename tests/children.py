"""What child processes run; and the tiny run of mlp.single that most tests use."""

import hashlib
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from common import distributed, ownership, preempt
from common.checkpoint import Checkpointer, parameters_sha256
from common.config import Paths
from common.errors import UserError
from common.paths import write_atomic
from hydra_plugins.vec_launcher import _deadline
from mlp.single.schema import Config, Trainer
from mlp.single.train import train

torch.set_num_threads(1)


def tiny(out_dir: Path, save_every_min: float = 5.0, **trainer: int | float) -> Config:
    """A run of mlp.single of 24 steps: 3 epochs of 8 batches, each step logged."""
    values: dict[str, int | float] = {
        "input_dim": 4, "hidden_dim": 8, "num_classes": 3, "num_samples": 64, "batch_size": 8,
        "learning_rate": 1e-2, "num_epochs": 3, "log_every": 1, "seed": 42,
    }  # fmt: skip
    out_dir.mkdir(parents=True, exist_ok=True)
    cfg = Config(
        template="mlp.single",
        experiment_name="tiny",
        objective="eval_loss",
        direction="minimize",
        paths=Paths(str(out_dir), str(out_dir), str(out_dir)),
        trainer=Trainer(**(values | trainer)),  # pyright: ignore[reportArgumentType]
    )
    cfg.requeue.save_every_min = save_every_min
    return cfg


def write_for_ever(path: Path) -> None:
    """Replace a file by 300,000 a's, b's, a's, ... until killed."""
    while True:
        for letter in "ab":
            write_atomic(path, letter * 300_000)


def save_for_ever(out_dir: Path, committed: Connection) -> None:
    """Resume, then save step after step until killed; say each step once it is committed."""
    model = torch.nn.Linear(300, 300)  # 0.36 MB: long enough to be killed in
    checkpointer = Checkpointer(tiny(out_dir), model=model)
    step = checkpointer.resume()
    assert step == 0 or bool((model.weight == step).all()), "another step's weights"
    while True:
        step += 1
        with torch.no_grad():
            model.weight.fill_(step)
        checkpointer.save(step)
        committed.send(step)


def tell_signal(connection: Connection) -> None:
    """When asked: the signal that this process noted, if any."""
    connection.send("ready")
    connection.recv()
    connection.send(preempt.requested())


def train_slowly(cfg: Config, seconds_per_step: float) -> None:
    """The real `train`, slowed down so that it can be killed somewhere in the middle."""
    register_optimizer_step_post_hook(lambda *_: time.sleep(seconds_per_step))
    train(cfg)


def train_sharded(rank: int, cfg: Config, world: int, port: int, until: int, connection: Connection) -> None:
    """One rank of an FSDP run: resume, train until a step, save; says (first step, hash, parameters) or the error.
    12 samples a step, shared among the ranks; in the background a checkpoint at each step."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    distributed.start()
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
    if world > 1:
        fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    try:
        checkpointer = Checkpointer(cfg, model=model, optimizer=optimizer)
        resumed = step = checkpointer.resume()
        while step < until:
            x = torch.randn(12, 4, generator=torch.Generator().manual_seed(step))[rank::world]
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            step += 1
            if cfg.requeue.async_save:
                time.sleep(0.3)  # slow enough for the ranks to talk at each step
            checkpointer.save_or_leave(step)
        checkpointer.save(step)
        values = [distributed_tensor_as_list(parameter) for parameter in model.parameters()]
        connection.send((resumed, parameters_sha256(model.named_parameters()), values))
    except Exception as error:
        connection.send(error if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {error}")
    distributed.stop()


def distributed_tensor_as_list(parameter: torch.Tensor) -> list[float]:
    whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return whole.flatten().tolist()


def hold_as(job_id: str, out_dir: Path, connection: Connection) -> None:
    """Take a run directory for a job of Slurm; say "held" or why not; keep it until told to go."""
    os.environ |= {"VEC_JOB_ID": job_id, "SUBMITIT_EXECUTOR": "slurm"}
    try:
        ownership.hold(out_dir)
        connection.send("held")
    except UserError as error:
        connection.send(str(error))
    connection.recv()


def save_when_told(job_id: str, out_dir: Path, connection: Connection) -> None:
    """Save step 1 for a job of Slurm; when told, try to save step 2, and say what came of it."""
    os.environ |= {"VEC_JOB_ID": job_id, "SUBMITIT_EXECUTOR": "slurm"}
    checkpointer = Checkpointer(tiny(out_dir), model=torch.nn.Linear(2, 2))
    checkpointer.save(1)
    connection.send("saved")
    connection.recv()
    try:
        checkpointer.save(2)
        connection.send("saved")
    except ownership.NotOwnerError as error:
        connection.send(str(error))


def busy_in_c(ends_at: float, connection: Connection) -> None:
    """One call of C that no signal interrupts, about a minute long; says which signal came too late to be seen."""
    preempt.install()
    _deadline.watch(ends_at, lambda sig: connection.send(sig.name))
    connection.send("busy")
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 100_000_000)
