"""What a checkpoint costs: against writing the same bytes, and how long the training stands still for it.

    uv run python -m benchmarks.checkpoint

A pair is one raw write with fsync and one save of the same bytes, in turns, in one process and one folder; only ratios
within a pair count. The seed is that of the tensors; their values do not matter to the time.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from common.checkpoint import Checkpointer
from common.config import Paths
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
    print("| state | save / raw write with fsync | goal | background: stall / save | goal | resume / raw read |")
    print("|---|---|---|---|---|---|")
    for mib in SIZES_MIB:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            report(mib, Path(folder))


def report(mib: int, folder: Path) -> None:
    state = State(mib)
    data = b"".join(tensor.numpy().tobytes() for tensor in state.tensors.values())
    saving, stalling = checkpointer(folder / "sync", state, False), checkpointer(folder / "async", state, True)
    sync_ratios: list[float] = []
    stall_ratios: list[float] = []
    for pair in range(PAIRS + 1):
        raw_s = timed(lambda: write_raw(folder / "raw", data))
        save_s = timed(lambda step=pair: saving.save(step))
        stall_s = timed(lambda step=pair: stalling.save_or_leave(step))
        stalling.save(pair)  # wait for it: here only the stall is of interest
        if pair > 0:  # the first one allocates the buffers and warms up
            sync_ratios.append(save_s / raw_s)
            stall_ratios.append(stall_s / save_s)
    read_ratios = [resume_ratio(folder, state) for _ in range(3)]
    sync, stall, read = (statistics.median(ratios) for ratios in (sync_ratios, stall_ratios, read_ratios))
    print(
        f"| {mib} MiB | {sync:.2f} | <= 1.15, {'met' if sync <= 1.15 else 'MISSED'} | {stall:.3f} "
        f"| <= 0.08, {'met' if stall <= 0.08 else 'MISSED'} | {read:.2f} |",
        flush=True,
    )


def resume_ratio(folder: Path, state: State) -> float:
    """Both from the page cache."""
    raw_s = timed(lambda: (folder / "raw").read_bytes())
    return timed(lambda: checkpointer(folder / "sync", state, False).resume()) / raw_s


def checkpointer(out_dir: Path, state: State, in_background: bool) -> Checkpointer:
    out_dir.mkdir(exist_ok=True)
    cfg = Config(
        template="benchmark", experiment_name="benchmark", paths=Paths(*[str(out_dir)] * 3),
        trainer=Trainer(10, 64, 3, 1024, 32, 1e-3, 1, 50, SEED),
    )  # fmt: skip
    cfg.requeue.async_save = in_background
    cfg.requeue.save_every_min = 1e-9
    return Checkpointer(cfg, state=state)


def write_raw(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
