"""Sweeps on disk: finding them, and what is known of their runs. Only reads; scheduler and folders are asked once."""

import difflib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import attempts, jobs, sweep
from common.errors import UserError
from common.paths import last_line
from common.slurm import JobState
from common.sweep import Point, Submission

FOLDER = "vec_jobs"  # in a work root


@dataclass
class Run:
    """One run, as it was submitted last."""

    point: Point
    submission: Submission
    out_dir: Path
    logs: Path
    state: JobState

    @property
    def last_metrics(self) -> dict[str, Any]:
        """The last line of metrics.jsonl; empty before the first."""
        return last_line(self.out_dir / "metrics.jsonl")

    @property
    def reason(self) -> str:
        """How its last attempt ended, in its own words; empty while it runs, or where it could not write."""
        events = attempts.read(self.out_dir)
        return str(events[-1]["reason"]) if events and events[-1]["event"] == "end" else ""


class Sweep:
    """A sweep folder.

    Raises:
        UserError: its sweep.json is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.submissions = sweep.read(folder)
        if not self.submissions:
            raise UserError(f"{folder} has no {sweep.SWEEP_FILE}: it is no sweep, or its submission never began.")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def last(self) -> Submission:
        return self.submissions[-1]

    def runs(self) -> list[Run]:
        """All runs by index, each with the state that its scheduler gives now: one query for all."""
        newest = {point.index: (point, one) for one in self.submissions for point in one.points}
        states: dict[str, JobState] = {}
        for executor in {one.executor for _, one in newest.values()}:
            ids = [str(point.job_id) for point, one in newest.values() if one.executor == executor and point.job_id]
            if executor != "inprocess":
                states |= jobs.states(executor, f"{self.folder}/submitit_logs/%j", ids)
        return [self._run(point, one, states) for _, (point, one) in sorted(newest.items())]

    def _run(self, point: Point, one: Submission, states: dict[str, JobState]) -> Run:
        out_dir = self.folder / str(point.index) / "outputs"
        state = states.get(str(point.job_id), JobState("UNKNOWN"))
        if state.state == "UNKNOWN":  # forgotten by the scheduler, or run in the launching process
            state = JobState(_state_on_disk(out_dir, point))
        return Run(point, one, out_dir, self.folder / "submitit_logs" / str(point.job_id), state)

    def choose(self, runs: list[Run], indices: list[int]) -> list[Run]:
        """Those of all runs that have these indices.

        Raises:
            UserError: there is no such run.
        """
        known = {run.point.index: run for run in runs}
        for index in indices:
            if index not in known:
                raise UserError(f"{self.name} has no run {index}: it has {min(known)} to {max(known)}.")
        return [known[index] for index in indices]

    def run(self, index: int) -> Run:
        """One of them; raises as `choose`."""
        return self.choose(self.runs(), [index])[0]


def find_all(work_root: Path) -> list[Path]:
    """The sweep folders under a work root, newest first."""
    files = (work_root / FOLDER).glob(f"*/{sweep.SWEEP_FILE}")
    return [path.parent for _, path in sorted(((_changed(path), path) for path in files), reverse=True)]


def find(name: str | None, work_root: Path) -> Sweep:
    """The sweep of that name or folder; the newest, if none is named.

    Raises:
        UserError: there is none; the nearest names.
    """
    if name and (Path(name) / sweep.SWEEP_FILE).exists():
        return Sweep(Path(name))
    folders = find_all(work_root)
    if not folders:
        raise UserError(
            f"There is no sweep in {(work_root / FOLDER).resolve()}: say where with --root <work root>, or export "
            "VEC_WORK_ROOT."
        )
    if name is None:
        return Sweep(folders[0])
    found = next((folder for folder in folders if folder.name == name), None)
    if found is None:
        near = difflib.get_close_matches(name, [folder.name for folder in folders], n=3)
        names = f"near it: {', '.join(near)}" if near else f"the newest is {folders[0].name}"
        raise UserError(f"There is no sweep {name} in {(work_root / FOLDER).resolve()}; {names}.")
    return Sweep(found)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0


def _state_on_disk(out_dir: Path, point: Point) -> str:
    """What the run's own folder tells where no scheduler does; never more than it knows."""
    if (out_dir / "result.json").exists():
        return "COMPLETED"
    if point.job_id is None and not attempts.read(out_dir):
        return "NOT SUBMITTED"
    return "UNKNOWN"


def age(seconds_since_epoch: float) -> str:
    """How long ago, in the largest unit that fits: 42 s, 5 min, 3 h, 2 d."""
    seconds = max(0.0, time.time() - seconds_since_epoch)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
