"""Frees the disk of what no resume needs: older checkpoints, and what killed writers left behind.

The newest whole checkpoint of a run and all that is newer stay, as do results, metrics, logs and configurations, and
submitit's files, which Slurm reads when a job is requeued by hand.
"""

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ownership, storage
from common.board import Table, counts, one_line, size
from common.errors import UserError
from common.runs import Run
from common.storage import CheckpointError

_ENDED = {
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE",
}  # fmt: skip


@dataclass
class Find:
    """What a run can do without."""

    run: Run
    folders: list[Path]
    size_bytes: int  # that their removal frees


class Cleaning:
    """Of some sweeps.

    Args:
        runs: of all of them, with their states: those that are live or of which nobody knows are left alone.
    """

    def __init__(self, runs: list[Run]) -> None:
        self.finds: list[Find] = []
        self.left_alone: list[str] = []  # sentences
        for run in runs:
            if run.state.state in _ENDED:
                self._look(run)
        for sweep_dir in dict.fromkeys(run.sweep_dir for run in runs):
            others = [run for run in runs if run.sweep_dir == sweep_dir and run.state.state not in _ENDED]
            if others:
                self.left_alone.append(one_line(f"{sweep_dir.name}: {counts(others)}"))

    @property
    def size_bytes(self) -> int:
        return sum(find.size_bytes for find in self.finds)

    def remove(self) -> None:
        """Hide all at once, run by run, then delete: a kill at any moment leaves no checkpoint in part, and what is
        left is found the next time."""
        for find in list(self.finds):
            try:
                with ownership.nobody(find.run.out_dir):  # a run that would start now waits for the renames
                    hidden = [storage.take_away(folder) for folder in find.folders if folder.exists()]
                for folder in hidden:
                    shutil.rmtree(folder)
            except (UserError, OSError) as error:
                self._leave(find.run, error)
                self.finds.remove(find)

    def rows(self) -> list[dict[str, Any]]:
        """One for each run that has something to remove."""
        return [
            {
                "sweep": find.run.sweep_dir.name,
                "run": find.run.point.index,
                "folders": [folder.name for folder in find.folders],
                "bytes": find.size_bytes,
            }
            for find in self.finds
        ]

    def table(self) -> Table:
        """The same for people."""
        cells = [
            [one_line(row["sweep"]), str(row["run"]), size(row["bytes"]), " ".join(row["folders"])]
            for row in self.rows()
        ]
        return Table(("sweep", "run", "size", "folders"), cells)

    def _look(self, run: Run) -> None:
        try:
            folders = storage.superfluous(run.out_dir) if run.out_dir.exists() else []
            if folders and not os.access(run.out_dir, os.W_OK | os.X_OK):
                raise UserError(f"{run.out_dir} is not writable for you")
            if folders:
                self.finds.append(Find(run, folders, _freed_by(folders)))
        except (UserError, CheckpointError, OSError) as error:
            self._leave(run, error)

    def _leave(self, run: Run, error: Exception) -> None:
        self.left_alone.append(one_line(f"{run.sweep_dir.name}: run {run.point.index}: {error}"))


def _freed_by(folders: list[Path]) -> int:
    """Bytes; of a file with several links (a replay buffer's) only if all of them go."""
    links: Counter[tuple[int, int]] = Counter()
    facts: dict[tuple[int, int], os.stat_result] = {}
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        stat = path.stat()
        links[stat.st_dev, stat.st_ino] += 1
        facts[stat.st_dev, stat.st_ino] = stat
    return sum(stat.st_size for key, stat in facts.items() if links[key] == stat.st_nlink)
