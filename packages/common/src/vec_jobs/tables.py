"""What `list` shows: rows as plain data, and as a table. The table of runs is common.board's."""

import time
from collections import Counter
from typing import Any

from common.board import Table, duration, one_line
from common.runs import Run
from vec_jobs.sweeps import Sweep


def sweep_row(sweep: Sweep, runs: list[Run]) -> dict[str, Any]:
    """One sweep."""
    objective, best = sweep.last.objective, _best(sweep, runs)
    states = Counter(run.state.state for run in runs)
    return {
        "sweep": sweep.name,
        "template": sweep.last.template,
        "preset": sweep.last.preset,
        "runs": len(runs),
        "completed": states["COMPLETED"],
        "states": dict(states.most_common()),
        "objective": objective,
        "best": best.result["metrics"][objective] if best else None,
        "best_run": best.point.index if best else None,
        "submitted": sweep.last.time,
        "age": duration(max(0.0, time.time() - sweep.folder.joinpath("sweep.json").stat().st_mtime)),
    }


def table_of_sweeps(rows: list[dict[str, Any]]) -> Table:
    lines: list[list[str]] = []
    for row in rows:
        states = ", ".join(f"{count} {state}" for state, count in row["states"].items())
        best = "-" if row["best"] is None else f"{row['objective']} {row['best']:.4g} (run {row['best_run']})"
        lines.append([one_line(row["sweep"]), row["template"], row["preset"], states, best, row["age"]])
    return Table(("sweep", "template", "preset", "states", "best", "age"), lines)


def _best(sweep: Sweep, runs: list[Run]) -> Run | None:
    """The run with the best final value of the sweep's objective; None where none has one."""
    done = [run for run in runs if sweep.last.objective in run.result.get("metrics", {})]
    choose = max if sweep.last.direction == "maximize" else min
    return choose(done, key=lambda run: run.result["metrics"][sweep.last.objective], default=None)
