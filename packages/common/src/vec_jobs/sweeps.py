"""Sweeps on disk: finding them, and their runs. Only reads."""

import difflib
import os
import time
from pathlib import Path

from common import runs, sweep
from common.errors import UserError
from common.runs import Run
from common.sweep import Submission

FOLDER = "vec_jobs"  # in a work root


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

    @property
    def indices(self) -> set[int]:
        """Of its runs."""
        return {point.index for one in self.submissions for point in one.points}

    def runs(self) -> list[Run]:
        """All runs by index, each with the state that its scheduler gives now: one query for all."""
        return runs.look(self.folder, self.submissions)

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
    """The sweep folders under a work root, newest first; last those that cannot be looked into.

    Raises:
        UserError: the folder of sweeps itself cannot.
    """
    found: list[tuple[float, Path]] = []
    try:
        with os.scandir(work_root / FOLDER) as entries:
            folders = [Path(entry.path) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{(work_root / FOLDER).resolve()} cannot be read: {error.strerror}.") from error
    for folder in folders:
        try:
            found.append(((folder / sweep.SWEEP_FILE).stat().st_mtime, folder))
        except (FileNotFoundError, NotADirectoryError):  # no sweep
            continue
        except OSError:  # of another user
            found.append((0.0, folder))
    return [folder for _, folder in sorted(found, reverse=True)]


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


def find_older(days: float, work_root: Path) -> list[Path]:
    """The folders of sweeps into which nothing was submitted for so many days; raises as `find_all`."""
    latest = time.time() - days * 86400
    return [path for path in find_all(work_root) if _submitted_before(path / sweep.SWEEP_FILE, latest)]


def find_run(text: str, name: str, work_root: Path) -> Run:
    """A run by its index in the sweep `name`, or by `SWEEP:index`; nobody is asked for its state yet.

    Raises:
        UserError: there is no such sweep or run.
    """
    other, _, index = text.rpartition(":")
    if not index.isdigit():
        raise UserError(f"{text} names no run: give its index, or SWEEP:index for one of another sweep.")
    found = find(other or name, work_root)
    return found.choose(runs.of(found.folder, found.submissions), [int(index)])[0]


def _submitted_before(path: Path, seconds_since_epoch: float) -> bool:
    try:
        return path.stat().st_mtime <= seconds_since_epoch
    except OSError:
        return True  # it is named when it is read
