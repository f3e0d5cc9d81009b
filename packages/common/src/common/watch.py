"""Watching runs until they end: a live table on a terminal, plain lines in a log."""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from common import board, runs, slurm
from common.runs import Run
from common.sweep import Point, Submission, common_overrides

_SECOND_INTERRUPT_S = 1.0


class Watch:
    """What is known of the runs of some submissions into one folder.

    Args:
        forgotten: indices of runs whose state nobody knows any more: they are shown, not waited for.
    """

    def __init__(self, sweep_dir: Path, submissions: list[Submission], forgotten: frozenset[int] = frozenset()) -> None:
        self._sweep_dir = sweep_dir
        self._submissions = submissions
        self._forgotten = forgotten
        # seconds between two questions, at first and at most: it grows, to spare the site's database
        self._poll_s = (2.0, 30.0) if submissions[-1].executor == "slurm" else (0.3, 2.0)
        self.runs: list[Run] = []

    def until_done(self) -> bool:
        """Block until every run has ended, then print them all.

        Returns:
            Whether all of them are COMPLETED.

        Raises:
            KeyboardInterrupt: ctrl-C; the jobs go on.
        """
        console = Console()
        pause, longest = self._poll_s
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                changed = self._look()
                if console.is_terminal:
                    live.update(board.live_table(self.runs, *console.size), refresh=True)
                else:
                    for run in changed:
                        say(f"run {run.point.index} (job {run.point.job_id}): {run.state.state}")
                if not any(self._awaited(run) for run in self.runs):
                    break
                time.sleep(pause)
                pause = min(longest, pause * 1.2)
        board.table(self.runs, common_overrides([run.point for run in self.runs])).print()
        if len(self.runs) > 1:
            say(f"{len(self.runs)} runs: {board.counts(self.runs)}")
        return all(run.state.state == "COMPLETED" for run in self.runs)

    def _look(self) -> list[Run]:
        """Returns the runs whose state has changed."""
        before = {run.point.index: run.state.state for run in self.runs}
        self.runs = runs.look(self._sweep_dir, self._submissions)
        return [run for run in self.runs if before.get(run.point.index, "UNKNOWN") != run.state.state]

    def _awaited(self, run: Run) -> bool:
        unknown = run.state.state == "UNKNOWN" and run.point.index not in self._forgotten
        return run.state.live or unknown


def detach(sweep_dir: Path, points: list[Point], executor: str) -> None:
    """After ctrl-C: tell that the jobs go on, how to come back, and how to stop them; who presses it again within a
    second is asked whether to."""
    what, command = ("jobs", "scancel") if executor == "slurm" else ("runs", "kill")
    stop = [command, *sorted({slurm.base(str(point.job_id)) for point in points})]
    back = f"vec-jobs status {shlex.quote(str(sweep_dir))} --watch"
    say(f"Detached; the {what} go on. Come back: {back}   stop them: {' '.join(stop)}")
    try:
        time.sleep(_SECOND_INTERRUPT_S)
    except KeyboardInterrupt:
        asked = f"Cancel the {len(points)} run(s)? Those that run save before they leave. [y/N] "
        if sys.stdin.isatty() and input(asked).strip().lower() in ("y", "yes"):
            subprocess.run(stop)
            say("Cancelled.")


def say(line: str) -> None:
    """A line for the person who submits; stderr stays for errors."""
    print(line, file=sys.stdout, flush=True)
