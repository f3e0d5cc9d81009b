"""Sweeps as the launcher and its runs leave them on disk, without running any; and a Slurm that only answers."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from common import attempts, sweep
from common.paths import append_line
from common.sweep import Point, Submission

JOB = 4711


def write_sweep(
    folder: Path,
    count: int = 2,
    *,
    job: int = JOB,
    executor: str = "slurm",
    age_s: float = 60,
    config: dict[str, Any] | None = None,
    **facts: Any,
) -> list[Path]:
    """One submission of `count` runs; returns their outputs folders.

    Args:
        config: that all runs have in common.
        facts: of the Submission, besides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    submitted = datetime.fromtimestamp(time.time() - age_s).astimezone().isoformat(timespec="seconds")
    points = [
        Point(
            index,
            ["compute=bon_echo/cpu_1x", f"trainer.seed={index}"],
            (config or {}) | {"trainer.seed": index},
            f"{job}_{index}",
        )
        for index in range(count)
    ]
    words = {"points": points, "objective": "eval_loss", "direction": "minimize"} | facts
    submission = Submission(submitted, ["mlp-launch", "single"], "mlp.single", "bon_echo/cpu_1x", executor, **words)
    submission.state = "submitted"
    sweep.write(folder, [*sweep.read(folder), submission])
    return [folder / str(index) / "outputs" for index in range(count)]


def write_run(out_dir: Path, *, step: int = 50, total: int = 100, result: dict[str, float] | None = None) -> None:
    """An attempt that has logged a loss at `step`; with `result` it has ended well."""
    out_dir.mkdir(parents=True, exist_ok=True)
    attempts.start(out_dir, "4711_0")
    attempts.resume(out_dir, 0, restore_s=0.1)
    attempts.train(out_dir, 0, total)
    append_line(out_dir / "metrics.jsonl", {"step": step, "time_s": 1.0, "attempt": 1, "loss": 0.5})
    if result is not None:
        record = {"status": "COMPLETED", "step": total, "metrics": result, "parameters_sha256": "0", "attempts": 1}
        (out_dir / "result.json").write_text(json.dumps(record | {"seconds": 1.0}))
        attempts.end(out_dir, "completed")


@dataclass
class FakeSlurm:
    """An sacct that answers with the lines of a file, and an scancel; they count how often they are asked."""

    folder: Path

    def env(self) -> dict[str, str]:
        return {"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}"}

    def knows(self, **states: str) -> None:
        """`knows(_0="RUNNING")`: the state of job 4711_0."""
        self.answers([f"{JOB}{task}|{state}|kn1|0:0" for task, state in states.items()])

    def answers(self, lines: list[str]) -> None:
        temporary = self.folder / "answer.new"
        temporary.write_text("".join(f"{line}\n" for line in lines))
        temporary.replace(self.folder / "answer")

    @property
    def asked(self) -> list[str]:
        """The command lines so far."""
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


def fake_slurm(folder: Path) -> FakeSlurm:
    folder.mkdir()
    (folder / "answer").touch()
    for name in ("sacct", "squeue", "scancel"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho {name} \"$@\" >> '{folder}/calls'\ncat '{folder}/answer'\n")
        program.chmod(0o755)
    return FakeSlurm(folder)


@contextmanager
def somebody_else() -> Iterator[None]:
    """This process as another user. It is not forked for that: libraries of the report have threads, which a forked
    process may wait for without end."""
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
