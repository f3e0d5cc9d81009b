"""Ranks, devices and the few collectives that we need. One process is the world of size 1; nothing is set up for it.

`common.launch` puts RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT into the environment of each of several
processes (the names that torch, accelerate and others read); `start()` joins them.
"""

import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=10)


def rank() -> int:
    """Number of this process, 0 to world_size() - 1."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Number of this process on its node."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def device() -> torch.device:
    """The device of this process: its own GPU where there are any.

    Works with and without Slurm's own GPU binding: a process that sees a single GPU takes it, whatever its rank.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank() % torch.cuda.device_count())


def start() -> None:
    """Join the process group: nccl on GPUs, gloo on CPUs. Does nothing for a single process."""
    if world_size() == 1 or dist.is_initialized():
        return
    here = device()
    if here.type == "cuda":
        torch.cuda.set_device(here)
    dist.init_process_group("nccl" if here.type == "cuda" else "gloo", timeout=_TIMEOUT)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def agree(values: list[float]) -> list[float]:
    """The maximum over all ranks of each value: what one rank knows, all act on."""
    if not dist.is_initialized():
        return values
    agreed = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return [float(value) for value in agreed.tolist()]


def mean(value: torch.Tensor) -> float:
    """The mean of a scalar over all ranks."""
    average = value.detach().to(torch.float64)
    if dist.is_initialized():
        dist.all_reduce(average, op=dist.ReduceOp.SUM)
        average /= world_size()
    return float(average.item())


def gather(value: T) -> list[T]:
    """One picklable value from every rank, in rank order."""
    if not dist.is_initialized():
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def from_rank_0(value: T) -> T:
    """Rank 0's picklable value, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
