"""Runs that a test submits to the real Slurm, looks at and stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.paths import last_line

from .cluster import SlurmCluster, wait_until

ASK_SLURM_EVERY_S = 0.5  # its commands take CPU time from the runs
LIMIT_S = 300.0  # for one thing to happen; two cores are shared by several ranks that train or import torch


class Runs:
    """The runs of one work directory; run 0 unless an index is given."""

    def __init__(
        self, slurm: SlurmCluster, work_root: Path, template: str, name: str, overrides: tuple[str, ...]
    ) -> None:
        self.slurm = slurm
        self.template = template
        self.overrides = overrides
        self.work_root = work_root
        self.work_dir = work_root / "vec_jobs" / name

    # --- submitting -----------------------------------------------------------------------------------------------

    def command(self, *more: str) -> subprocess.CompletedProcess[str]:
        """The command line a user would type, in this work directory."""
        return launch(
            self.slurm,
            self.template,
            f"paths.work_root={self.work_root}",
            f"paths.work_dir={self.work_dir}",
            *self.overrides,
            *more,
        )

    def submit(self, *more: str) -> None:
        done = self.command(*more)
        assert done.returncode == 0, done.stderr

    # --- looking --------------------------------------------------------------------------------------------------

    def job_ids(self) -> list[str]:
        """Of the newest submission, in the order of the runs."""
        submissions = json.loads((self.work_dir / "sweep.json").read_text())["submissions"]
        return [point["job_id"] for point in submissions[-1]["points"]]

    def out_dir(self, index: int = 0) -> Path:
        return self.work_dir / str(index) / "outputs"

    def metrics(self, index: int = 0) -> list[dict[str, Any]]:
        path = self.out_dir(index) / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def series(self, index: int = 0) -> list[tuple[int, float, float]]:
        """(step, loss, accuracy) of every log step."""
        return [(line["step"], line["loss"], line["accuracy"]) for line in self.metrics(index)]

    def step(self, index: int = 0) -> int:
        """The last logged step; 0 before the first."""
        return int(last_line(self.out_dir(index) / "metrics.jsonl").get("step", 0))

    def result(self, index: int = 0) -> dict[str, Any]:
        return json.loads((self.out_dir(index) / "result.json").read_text())

    def attempts(self, event: str, index: int = 0) -> list[dict[str, Any]]:
        path = self.out_dir(index) / "attempts.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in events if line["event"] == event]

    def first_steps(self, index: int = 0) -> list[int]:
        """The step at which each attempt began: 0, or that of the checkpoint it resumed from."""
        return [event["step"] for event in self.attempts("resume", index)]

    def checkpoints(self, index: int = 0) -> list[int]:
        return sorted(int(path.name.split("-")[1]) for path in self.out_dir(index).glob("checkpoint-*"))

    def logs(self, index: int = 0) -> str:
        job_id = self.job_ids()[index]
        return "".join(path.read_text() for path in sorted((self.work_dir / "submitit_logs" / job_id).glob("*_log.*")))

    def state(self, index: int = 0) -> str:
        """What sacct says, e.g. COMPLETED."""
        job_id = self.job_ids()[index].partition(".")[0]  # of the job that it may share
        asked = self.slurm.run("sacct", "-n", "-P", "-X", "-o", "State", "-j", job_id)
        return (asked.stdout.split() or ["UNKNOWN"])[0]

    # --- waiting --------------------------------------------------------------------------------------------------

    def wait_for(self, ready: Callable[[], bool], what: str, pause_s: float = 0.1) -> None:
        if not wait_until(ready, LIMIT_S, pause_s):
            raise AssertionError(f"{what}: not within {LIMIT_S:.0f} s; {self.state()}\n{self.logs()[-3000:]}")

    def wait_state(self, *states: str, index: int = 0) -> None:
        self.wait_for(lambda: self.state(index) in states, " or ".join(states), ASK_SLURM_EVERY_S)

    def wait_step(self, step: int, index: int = 0) -> None:
        self.wait_for(lambda: self.step(index) >= step, f"step {step}")

    def wait_attempts(self, count: int, event: str = "start", index: int = 0) -> None:
        self.wait_for(lambda: len(self.attempts(event, index)) >= count, f"{count} attempts ({event})")

    def wait_attempt(self, number: int, event: str) -> None:
        """Until attempt `number` has written this event; one that is stopped early does not resume."""
        found = lambda: any(line["attempt"] == number for line in self.attempts(event))  # noqa: E731
        self.wait_for(found, f"{event} of attempt {number}")

    # --- stopping -------------------------------------------------------------------------------------------------

    def task_pids(self, index: int = 0) -> dict[int, int]:
        """Process id of every rank of the running job."""
        wanted = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_CONF": self.slurm.env()["SLURM_CONF"]}
        base, _, task = self.job_ids()[index].partition("_")
        wanted |= {"SLURM_ARRAY_JOB_ID": base, "SLURM_ARRAY_TASK_ID": task} if task else {"SLURM_JOB_ID": base}
        ranks: dict[int, tuple[int, int]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(") ")[2].split()[1])
                environment = dict(
                    pair.split("=", 1) for pair in (folder / "environ").read_text().split("\0") if "=" in pair
                )
                command = (folder / "cmdline").read_text()
            except (OSError, UnicodeDecodeError):
                continue
            if "common.node" in command and "srun" not in command and wanted.items() <= environment.items():
                ranks[int(folder.name)] = int(environment["SLURM_PROCID"]), parent
        # not what a rank has forked: until it calls exec, it looks the same
        return {rank: pid for pid, (rank, parent) in ranks.items() if parent not in ranks}

    def send(self, sig: signal.Signals, index: int = 0) -> None:
        """To all ranks, as `scancel --signal` does it."""
        done = self.slurm.run("scancel", f"--signal={sig.name.removeprefix('SIG')}", self.job_ids()[index])
        assert done.returncode == 0, done.stderr

    def cancel(self) -> None:
        """All that is queued or runs."""
        if (self.work_dir / "sweep.json").exists():
            self.slurm.run("scancel", *{str(job_id).split("_")[0] for job_id in self.job_ids() if job_id})

    def release(self, index: int = 0) -> None:
        """Start a run that has left and waits in the queue without the rest of the hold, unless it runs already; of a
        job that several runs share, all."""
        job_id = self.job_ids()[index].partition(".")[0]
        left = sum(end["reason"] != "completed" for end in self.attempts("end", index))

        def queued() -> bool:
            return self.slurm.run("squeue", "-h", "-j", job_id, "-o", "%T").stdout.strip() == "PENDING"

        self.wait_for(lambda: queued() or len(self.attempts("start", index)) > left, "the requeue", 0.2)
        if queued():
            self.slurm.release(job_id)


def launch(slurm: SlurmCluster | None, template: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m <template>.launch ...` as on a login node."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "PYTEST_"))}
    clean |= {"USER": "root"} | (slurm.env() if slurm else {}) | env
    command = [sys.executable, "-m", f"{template}.launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=clean)
