"""What a checkpoint costs: against writing the same bytes, and how long the training stands still for it.

    uv run python -m benchmarks.checkpoint

A pair is one raw write with fsync and one save of the same bytes, in turns, in one process and one folder; only ratios
within a pair count. Reads start from a cold page cache. The seed is that of the tensors; their values do not matter.
"""

import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from common.checkpoint import Checkpointer
from common.config import Paths
from common.storage import DELETING
from mlp.single.schema import Config, Trainer

SIZES_MIB = (256, 1024)
PAIRS = 7
SEED = 0
TENSORS = 16


class State:
    """A part of a run of a given size: what a model and its optimizer are to a checkpointer."""

    def __init__(self, mib: int) -> None:
        draw = torch.Generator().manual_seed(SEED)
        each = mib * 2**20 // 4 // TENSORS
        self.tensors = {f"weight{n}": torch.randn(each, generator=draw) for n in range(TENSORS)}

    def state_dict(self) -> dict[str, Any]:
        return self.tensors

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(state_dict[name])


def main() -> None:
    print(
        "| state | save / raw write with fsync | background: stall / save | stall / copy in memory "
        "| its memory / state | resume / raw read |"
    )
    print("|---|---|---|---|---|---|")
    print("| goal | <= 1.15 | <= 0.08 |  | one copy, <= 1.05 | <= 1.2 |")
    for mib in SIZES_MIB:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            report(mib, Path(folder))


def report(mib: int, folder: Path) -> None:
    state = State(mib)
    data = b"".join(tensor.numpy().tobytes() for tensor in state.tensors.values())
    saving, stalling = checkpointer(folder / "sync", state, False), checkpointer(folder / "async", state, True)
    before = resident_mib()
    stalling.save_or_leave(0)
    stalling.save(0)
    copies = (resident_mib() - before) / mib
    sync_ratios: list[float] = []
    stall_ratios: list[float] = []
    copy_ratios: list[float] = []
    copied = {name: tensor.clone() for name, tensor in state.tensors.items()}
    for pair in range(1, PAIRS + 2):
        raw_s = timed(lambda: write_raw(folder / "raw", data))
        save_s = timed(lambda step=pair: saving.save(step))
        stall_s = timed(lambda step=pair: stalling.save_or_leave(step))
        stalling.save(pair)  # wait for it: here only the stall is of interest
        if pair > 1:  # the first one warms up
            sync_ratios.append(save_s / raw_s)
            stall_ratios.append(stall_s / save_s)
            copy_ratios.append(stall_s / timed(lambda: [copied[n].copy_(t) for n, t in state.tensors.items()]))
    read_ratios = [resume_ratio(folder, state) for _ in range(PAIRS)]
    medians = (statistics.median(ratios) for ratios in (sync_ratios, stall_ratios, copy_ratios, read_ratios))
    sync, stall, copy, read = medians
    print(
        f"| {mib} MiB | {sync:.2f} {met(sync <= 1.15)} | {stall:.3f} {met(stall <= 0.08)} "
        f"| {copy:.2f} | {copies:.2f} {met(copies <= 1.05)} | {read:.2f} {met(read <= 1.2)} |",
        flush=True,
    )


def met(reached: bool) -> str:
    return "met" if reached else "MISSED"


def resident_mib() -> float:
    """Memory of this process, MiB (proc(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def resume_ratio(folder: Path, state: State) -> float:
    wait_for_deletions()
    forget_cached(folder)
    raw_s = timed(lambda: (folder / "raw").read_bytes())
    forget_cached(folder)
    return timed(lambda: checkpointer(folder / "sync", state, False).resume()) / raw_s


def forget_cached(folder: Path) -> None:
    """As on another node: read from the disk again."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def checkpointer(out_dir: Path, state: State, in_background: bool, save_every_min: float = 1e-9) -> Checkpointer:
    out_dir.mkdir(exist_ok=True)
    cfg = Config(
        template="benchmark", experiment_name="benchmark", paths=Paths(*[str(out_dir)] * 3),
        trainer=Trainer(10, 64, 3, 1024, 32, 1e-3, 1, 50, SEED),
    )  # fmt: skip
    cfg.requeue.async_save = in_background
    cfg.requeue.save_every_min = save_every_min
    return Checkpointer(cfg, state=state)


def write_raw(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def timed(work: Any) -> float:
    wait_for_deletions()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def wait_for_deletions() -> None:
    """Of the older checkpoint, which go on beside the training."""
    for thread in threading.enumerate():
        if thread.name == DELETING:
            thread.join()


if __name__ == "__main__":
    main()
