"""Ranks, devices and the few collectives that we need. One process is the world of size 1; nothing is set up for it.

The launcher puts RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT into the environment of each of several
processes (the names that torch, accelerate and others read); `start()` joins them.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from common import preempt
from common.errors import SilentRankError

__all__ = [
    "agree",
    "device",
    "from_rank_0",
    "gather",
    "local_rank",
    "mean",
    "on_rank_0",
    "rank",
    "start",
    "stop",
    "world_size",
]

T = TypeVar("T")

_START_TIMEOUT = timedelta(minutes=10)  # until the last process has started and imported torch
_CONNECT_TIMEOUT = timedelta(seconds=5)  # how often a rank that waits for rank 0 looks at the signals
_ROLL_CALL_S = 10.0  # ranks that wait in the same operation give up at about the same moment
_store: dist.TCPStore | None = None  # in the process of rank 0; outlives a process group that hangs


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
    """Join the process group: gloo for CPU tensors, nccl for those on GPUs. Does nothing for a single process.

    Raises:
        SilentRankError: a process has not come.
        Preempted: TERM came while this one waited for the others.
    """
    global _store
    if world_size() == 1 or dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
        backend = "cpu:gloo,cuda:nccl"
    _store = _rendezvous()
    limit_s = os.environ.get("VEC_RANK_TIMEOUT_S")  # compute.rank_timeout_min; without our launcher torch's default
    timeout = timedelta(seconds=float(limit_s)) if limit_s else None
    dist.init_process_group(backend, store=_store, rank=rank(), world_size=world_size(), timeout=timeout)


def _rendezvous() -> dist.TCPStore:
    """A store to which all ranks have come. They do not come at the same moment, and TERM may come in between."""
    give_up = time.monotonic() + _START_TIMEOUT.total_seconds()
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store, missing = None, set(range(world_size()))
    while missing:
        if preempt.requested() == preempt.TERM:  # rank 0 may have left already
            raise preempt.Preempted(preempt.TERM, None)
        if time.monotonic() > give_up:
            raise SilentRankError(
                f"rank {', '.join(map(str, sorted(missing)))} has not started within {_START_TIMEOUT}"
            )
        try:
            store = store or dist.TCPStore(address, port, is_master=rank() == 0, timeout=_CONNECT_TIMEOUT)
            store.set(f"started/{rank()}", "")
            missing = {other for other in missing if not store.check([f"started/{other}"])}
        except dist.DistError:
            if rank() == 0:  # the port is in use
                raise
        time.sleep(0.05)
    assert store is not None
    store.set_timeout(_START_TIMEOUT)
    return store


def silent_ranks(error: Exception) -> list[int]:
    """Which ranks are to blame when an operation of several ranks failed: those that do not answer a roll call.

    Args:
        error: what this rank's training raised; an error of its own blames nobody else.
    """
    if _store is None or not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
        return []
    answered: set[int] = set()
    # in a thread: where rank 0 hangs its store does, too, and no time-out of the client ends that
    call = threading.Thread(target=_roll_call, args=(_store, answered), daemon=True)
    call.start()
    call.join(_ROLL_CALL_S + 2)
    return [other for other in range(world_size()) if other not in answered] if answered else [0]


def _roll_call(store: dist.TCPStore, answered: set[int]) -> None:
    give_up = time.monotonic() + _ROLL_CALL_S
    with suppress(RuntimeError):  # the store has gone, and rank 0 with it
        store.set(f"failed/{rank()}", "")
        while len(answered) < world_size() and time.monotonic() < give_up:
            answered.update(other for other in range(world_size()) if store.check([f"failed/{other}"]))
            time.sleep(0.1)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def agree(values: list[float]) -> list[float]:
    """The maximum over all ranks of each value: what one rank knows, all act on."""
    if not dist.is_initialized():
        return values
    agreed = torch.tensor(values, dtype=torch.float64)  # on the CPU: no GPU has to finish its step for it
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


def on_rank_0(work: Callable[[], T]) -> T:
    """Do it on rank 0; all ranks get what it returns (picklable), or raise what it raises."""
    outcome, error = None, None
    if rank() == 0:
        try:
            outcome = work()
        except Exception as raised:
            error = raised
    outcome, error = from_rank_0((outcome, error))
    if error is not None:
        raise error
    return cast(T, outcome)
