"""Watching the jobs of a submission until they end: a live table on a terminal, plain lines in a log."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from common import attempts
from common.slurm import JobState
from common.sweep import Point

Ask = Callable[[list[str]], dict[str, JobState]]


class Watch:
    """What is known of the runs of one submission.

    Args:
        ask: states of jobs by id, e.g. common.slurm.states.
        poll_s: seconds between two questions, at first and at most (it grows, to spare the site's database).
    """

    def __init__(self, sweep_dir: Path, points: list[Point], ask: Ask, poll_s: tuple[float, float]) -> None:
        self._sweep_dir = sweep_dir
        self._points = points
        self._ask = ask
        self._poll_s = poll_s
        self.states: dict[int, JobState] = {point.index: JobState("UNKNOWN") for point in points}

    def until_done(self) -> bool:
        """Block until every job has ended.

        Returns:
            Whether all runs are COMPLETED.

        Raises:
            KeyboardInterrupt: ctrl-C; the jobs go on.
        """
        console = Console(width=None if sys.stdout.isatty() else 140)
        pause, longest = self._poll_s
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                changed = self._look()
                if console.is_terminal:
                    live.update(self.table(), refresh=True)
                else:
                    for line in changed:
                        print(line, flush=True)
                if not any(state.live or state.state == "UNKNOWN" for state in self.states.values()):
                    break
                time.sleep(pause)
                pause = min(longest, pause * 1.2)
        console.print(self.table())
        return all(state.state == "COMPLETED" for state in self.states.values())

    def _look(self) -> list[str]:
        answer = self._ask([str(point.job_id) for point in self._points])
        changed: list[str] = []
        for point in self._points:
            state = answer[str(point.job_id)]
            if state.state != self.states[point.index].state:
                changed.append(f"run {point.index} (job {point.job_id}): {state.state}")
            self.states[point.index] = state
        return changed

    def table(self) -> Table:
        """A row per run: what it is, its state, and its final metrics or the reason of its end."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("run", "job", "state", "step", "overrides", "result"):
            table.add_column(name, overflow="fold")
        for point in self._points:
            state = self.states[point.index].state
            out_dir = self._sweep_dir / str(point.index) / "outputs"
            step, result = outcome(out_dir, state)
            colour = {"COMPLETED": "green", "RUNNING": "cyan", "PENDING": "default"}.get(state, "red")
            overrides = " ".join(o for o in point.overrides if not all(o in p.overrides for p in self._points))
            table.add_row(
                str(point.index),
                str(point.job_id),
                f"[{colour}]{state}[/]",
                step,
                overrides.replace("[", r"\["),
                result,
            )
        return table


def outcome(out_dir: Path, state: str) -> tuple[str, str]:
    """(last step, final metrics or reason of the end) of a run, as far as its folder tells."""
    if state == "COMPLETED" and (out_dir / "result.json").exists():
        result = json.loads((out_dir / "result.json").read_text())
        return str(result["step"]), "  ".join(f"{name} {value:.4g}" for name, value in result["metrics"].items())
    ends = [event for event in attempts.read(out_dir) if event["event"] == "end"]
    if ends and state not in ("RUNNING", "PENDING"):
        return str(ends[-1].get("step", "")), str(ends[-1]["reason"])
    return "", ""


def detached_line(points: list[Point], sweep_dir: Path, executor: str) -> str:
    """What to tell someone who stops waiting: the jobs go on, and how to see or stop them."""
    base = str(points[0].job_id).split("_")[0]
    if executor == "slurm":
        return (
            f"Detached; the jobs go on. See them: squeue --me -j {base}   stop them: scancel {base}   in: {sweep_dir}"
        )
    return (
        f"Detached; the runs go on. Follow: tail -f {sweep_dir}/submitit_logs/{base}_*/*.err   stop them: kill {base}"
    )


def say(line: str) -> None:
    """A line for the person who submits; stderr stays for errors."""
    print(line, file=sys.stdout, flush=True)
