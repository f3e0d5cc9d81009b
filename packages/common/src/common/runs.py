"""The runs of a sweep: what their folders tell, and their states, for which Slurm is asked once."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from common import attempts, jobs, pack, slurm, sweep
from common.paths import last_line
from common.slurm import JobState
from common.sweep import Point, Submission

_ENDED = ("end", "requeue")  # the last words of an attempt


@dataclass
class Run:
    """One run, as it was submitted last. What its folder tells is read once."""

    point: Point
    submission: Submission
    sweep_dir: Path
    state: JobState

    @property
    def out_dir(self) -> Path:
        return self.sweep_dir / str(self.point.index) / "outputs"

    @property
    def logs(self) -> Path:
        """Of its processes, by submitit."""
        return self.sweep_dir / "submitit_logs" / str(self.point.job_id)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """All of attempts.jsonl."""
        return attempts.read(self.out_dir)

    @cached_property
    def result(self) -> dict[str, Any]:
        """result.json; empty before the end of the run."""
        try:
            return json.loads((self.out_dir / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    @property
    def completed(self) -> bool:
        """Whether it has ended well since it was submitted last, as its folder tells."""
        return bool(self.result) and (self.out_dir / "result.json").stat().st_mtime >= self.submitted_at

    @cached_property
    def last_metrics(self) -> dict[str, Any]:
        """The last line of metrics.jsonl; empty before the first."""
        return last_line(self.out_dir / "metrics.jsonl")

    @property
    def metrics(self) -> dict[str, Any]:
        """The final metrics of a run that is complete, else the last ones."""
        if self.state.state == "COMPLETED" and self.result:
            return self.result["metrics"]
        return {name: value for name, value in self.last_metrics.items() if name not in ("step", "time_s", "attempt")}

    @property
    def reason(self) -> str:
        """How its last attempt ended, in its own words; empty while it runs, or where it could not write."""
        return str(self.events[-1]["reason"]) if self.events and self.events[-1]["event"] == "end" else ""

    @property
    def step(self) -> int | None:
        """The last one that it has told."""
        return self.result["step"] if self.state.state == "COMPLETED" and self.result else self.last_metrics.get("step")

    @property
    def total_steps(self) -> int | None:
        """How many it is to take; None before its first attempt has begun to train."""
        return next((event["total_steps"] for event in reversed(self.events) if event["event"] == "train"), None)

    @property
    def eta_s(self) -> float | None:
        """Seconds to its last step, at the pace of its present attempt, saves and evaluations included; None where
        that cannot be told."""
        begun = next((event for event in reversed(self.events) if event["event"] == "train"), None)
        if self.state.state != "RUNNING" or begun is None:
            return None
        last = self.last_metrics.get("step", 0)
        done = last - begun["step"]  # 0 or less while the last line is of an earlier attempt
        if done <= 0:
            return None
        pace_s = (self._last_metrics_at - begun["time"]) / done
        return max(0.0, (begun["total_steps"] - last) * pace_s - (time.time() - self._last_metrics_at))

    @property
    def ledger(self) -> attempts.Ledger | None:
        """Where its time went; None before its first attempt."""
        if not self.events:
            return None
        if self.state.state == "RUNNING" and self.events[-1]["event"] not in _ENDED:
            return attempts.account(self.events, time.time())
        ended = self.events[-1]["event"] in _ENDED or not self.last_metrics
        return attempts.account(self.events, self.events[-1]["time"] if ended else self._last_metrics_at)

    @property
    def _last_metrics_at(self) -> float:
        started = next(event["time"] for event in self.events if event["event"] == "start")
        return started + self.last_metrics["time_s"]

    def state_on_disk(self) -> JobState:
        """What the folder tells where no scheduler does; never more than it knows."""
        if self.completed:
            return JobState("COMPLETED")
        if (self.point.job_id is None or self.submission.state == "submitting") and not self.events:
            return JobState("NOT SUBMITTED")
        return JobState("UNKNOWN")

    @property
    def submitted_at(self) -> float:
        """Seconds since the epoch."""
        return datetime.fromisoformat(self.submission.time).timestamp()


def of(sweep_dir: Path, submissions: list[Submission]) -> list[Run]:
    """All runs by index. Nobody is asked for their states: they are what the folders tell."""
    newest = {point.index: (point, one) for one in submissions for point in one.points}
    runs = [Run(point, one, sweep_dir, JobState("UNKNOWN")) for _, (point, one) in sorted(newest.items())]
    for run in runs:
        run.state = run.state_on_disk()
    return runs


def ask(runs: Iterable[Run]) -> None:
    """Give runs, of one or more sweeps, the states that their schedulers know: one question to Slurm for all."""
    runs = list(runs)
    left = _find_on_hold(runs)
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        executor = run.submission.executor
        if run.point.job_id and executor != "inprocess":
            alone = executor == "slurm" and pack.SEPARATOR not in run.point.job_id  # nothing but Slurm need be asked
            folder = "" if alone else f"{run.sweep_dir}/submitit_logs/%j"
            groups.setdefault((executor, folder), []).append(run)
    for (executor, folder), group in groups.items():
        answer = jobs.states(executor, folder, [str(run.point.job_id) for run in group])
        for run in group:
            known = answer[str(run.point.job_id)]
            if known.state != "UNKNOWN":  # else the scheduler has forgotten it
                run.state = known
            if slurm.base(str(run.point.job_id)) in left:
                run.state = JobState("ON HOLD")


def _find_on_hold(runs: list[Run]) -> set[str]:
    """Give the jobs of a launcher that was killed before it wrote down their ids back to their runs.

    Returns:
        The ids of these jobs, and of those that it wrote down, but did not let start.
    """
    found: set[str] = set()
    for run in {id(run.submission): run for run in runs}.values():
        if run.submission.state != "submitting" or sweep.is_being_submitted(run.sweep_dir):
            continue
        for request, job_id in jobs.left_on_hold(run.submission).items():
            found.add(job_id)
            for point in run.submission.points:
                if point.request == request:
                    point.job_id = f"{job_id}{point.suffix}"
    return found


def look(sweep_dir: Path, submissions: list[Submission]) -> list[Run]:
    """All runs by index, with the states that their scheduler gives now."""
    runs = of(sweep_dir, submissions)
    ask(runs)
    return runs
