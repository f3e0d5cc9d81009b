"""What `list` and `status` show: rows as plain data, and as tables."""

from typing import Any

from rich.table import Table

from common import attempts
from vec_jobs.sweeps import Run, Sweep, age

_COLOURS = {"COMPLETED": "green", "RUNNING": "cyan", "PENDING": "default", "UNKNOWN": "yellow"}
_SHOWN_METRICS = 3  # of a run that has not ended


def sweep_row(sweep: Sweep) -> dict[str, Any]:
    """One sweep, from its folder alone: no scheduler is asked."""
    indices = {point.index for one in sweep.submissions for point in one.points}
    done = sum((sweep.folder / str(index) / "outputs" / "result.json").exists() for index in indices)
    return {
        "sweep": sweep.name,
        "template": sweep.last.template,
        "preset": sweep.last.preset,
        "runs": len(indices),
        "completed": done,
        "submitted": sweep.last.time,
        "age": age(sweep.folder.joinpath("sweep.json").stat().st_mtime),
    }


def run_row(run: Run, others: list[Run]) -> dict[str, Any]:
    """One run; overrides that all runs have in common are left out."""
    events = attempts.read(run.out_dir)
    last = run.last_metrics
    started = sum(event["event"] == "start" for event in events)
    metrics = {name: value for name, value in last.items() if name not in ("step", "time_s", "attempt")}
    state = run.state.state
    ended = state not in ("RUNNING", "PENDING")
    return {
        "run": run.point.index,
        "job": run.point.job_id,
        "state": state,
        "node": run.state.node,
        "attempt": started,
        "step": last.get("step"),
        "overrides": [o for o in run.point.overrides if not all(o in other.point.overrides for other in others)],
        "metrics": metrics,
        "goodput": round(attempts.ledger(run.out_dir).goodput, 3) if started else None,
        "reason": run.reason if ended and state != "COMPLETED" else "",
    }


def table_of_sweeps(rows: list[dict[str, Any]]) -> Table:
    table = _table("sweep", "template", "preset", "completed", "age")
    for row in rows:
        done = f"{row['completed']} of {row['runs']}"
        table.add_row(row["sweep"], row["template"], row["preset"], done, row["age"])
    return table


def table_of_runs(rows: list[dict[str, Any]]) -> Table:
    table = _table("run", "job", "state", "attempt", "step", "goodput", "overrides", "last")
    for row in rows:
        shown = list(row["metrics"].items())[:_SHOWN_METRICS]
        last = row["reason"] or "  ".join(f"{name} {value:.4g}" for name, value in shown)
        colour = _COLOURS.get(row["state"], "red")
        table.add_row(
            str(row["run"]),
            row["job"] or "",
            f"[{colour}]{row['state']}[/]",
            str(row["attempt"]),
            "" if row["step"] is None else str(row["step"]),
            "" if row["goodput"] is None else f"{row['goodput']:.0%}",
            _plain(" ".join(row["overrides"])),
            _plain(last),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _plain(text: str) -> str:
    """Brackets are no mark-up here."""
    return text.replace("[", r"\[")
