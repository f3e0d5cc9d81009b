"""The table of a sweep's runs, for `vec-jobs status` and for a launcher that waits: rows as data, and as tables."""

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import rich.table
from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

from common.runs import Run
from common.sweep import common_overrides

_COLOURS = {
    "COMPLETED": "green",
    "RUNNING": "cyan",
    "PENDING": "default",
    "UNKNOWN": "yellow",
    "NOT SUBMITTED": "yellow",
    "ON HOLD": "yellow",
}
_SHOWN_METRICS = 3
# columns that are never broken
_WHOLE = ("run", "job", "state", "node", "attempt", "progress", "eta", "goodput", "age")
_EXPENDABLE = ("goodput", "node", "attempt", "job")  # left out, one after the other, where a terminal is too narrow
_LEAST = 12  # cells that each other column gets
_FRAME = 3  # lines of a terminal that hold no run: header, what is left out, cursor


@dataclass
class Table:
    """Text in columns; the words in a column `state` have colours on a terminal."""

    columns: tuple[str, ...]
    rows: list[list[str]]

    def print(self) -> None:
        """On a terminal long cells are folded; elsewhere a row is a line, which takes a tenth of the time."""
        if sys.stdout.isatty():
            console = Console()
            console.print(self.drawn(console.width))
            return
        widths = self._widths()
        for cells in (self.columns, *self.rows):
            padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
            print("  ".join(padded).rstrip())

    def drawn(self, width: int, cut: bool = False) -> rich.table.Table:
        """For a terminal of that width.

        Args:
            cut: shorten what does not fit into the width, instead of folding it.
        """
        widths = zip(self.columns, self._widths(), strict=True)
        taken = {name: needed if name in _WHOLE else _LEAST for name, needed in widths}
        for name in _EXPENDABLE:
            if name in taken and sum(taken.values()) + 2 * len(taken) > width:
                del taken[name]
        shown = rich.table.Table(box=None, pad_edge=False, header_style="bold")
        for name in taken:
            shown.add_column(name, overflow="ellipsis" if cut else "fold", no_wrap=name in _WHOLE)
        for cells in self.rows:
            named = {name: cell for name, cell in zip(self.columns, cells, strict=True) if name in taken}
            colour = _COLOURS.get(named.get("state", ""), "red")
            texts = (Text(cell, colour if name == "state" else "", no_wrap=cut or None) for name, cell in named.items())
            shown.add_row(*texts)
        return shown

    def _widths(self) -> list[int]:
        return [max(map(cell_len, column)) for column in zip(self.columns, *self.rows, strict=True)]


def row(run: Run, common: set[str]) -> dict[str, Any]:
    """One run.

    Args:
        common: overrides that are left out.
    """
    state, ledger = run.state.state, run.ledger
    return {
        "run": run.point.index,
        "job": run.point.job_id,
        "state": state,
        "node": run.state.node,
        "attempt": ledger.attempts if ledger else 0,
        "step": run.step,
        "total_steps": run.total_steps,
        "eta_s": None if run.eta_s is None else round(run.eta_s),
        "overrides": [override for override in run.point.overrides if override not in common],
        "metrics": run.metrics,
        "goodput": round(ledger.goodput, 3) if ledger else None,
        "reason": "" if run.state.live or state == "COMPLETED" else run.reason,
    }


def table(runs: list[Run], common: set[str]) -> Table:
    """A line per run."""
    columns = ("run", "job", "state", "node", "attempt", "progress", "eta", "goodput", "overrides", "result")
    return Table(columns, [_cells(row(run, common)) for run in runs])


def _cells(one: dict[str, Any]) -> list[str]:
    metrics = list(one["metrics"].items())[:_SHOWN_METRICS]
    return [
        str(one["run"]),
        one["job"] or "",
        one["state"],
        one["node"],
        str(one["attempt"]),
        _progress(one["step"], one["total_steps"]),
        "-" if one["eta_s"] is None else duration(one["eta_s"]),
        "-" if one["goodput"] is None else f"{one['goodput']:.0%}",
        one_line(" ".join(one["overrides"])),
        one_line(one["reason"] or "  ".join(f"{name} {value:.4g}" for name, value in metrics)),
    ]


def live_table(runs: list[Run], width: int, height: int) -> Group:
    """As many runs as a terminal of `height` lines holds: all by index, or those that run, then those that failed, then
    the others, and how many are left out."""
    room = max(1, height - _FRAME)
    shown = runs if len(runs) <= room else sorted(runs, key=_urgency)[:room]
    lines: list[rich.table.Table | Text] = [
        table(shown, common_overrides([run.point for run in runs])).drawn(width, cut=True)
    ]
    if len(shown) < len(runs):
        indices = {run.point.index for run in shown}
        rest = [run for run in runs if run.point.index not in indices]
        lines.append(Text(f"and {len(rest)} more: {counts(rest)}"))
    return Group(*lines)


def counts(runs: list[Run]) -> str:
    """`900 PENDING, 50 COMPLETED`."""
    return ", ".join(f"{count} {state}" for state, count in Counter(run.state.state for run in runs).most_common())


def one_line(text: str) -> str:
    """Line breaks and other control characters as Python writes them: a name may hold any."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def duration(seconds: float) -> str:
    """In the largest unit that fits: 42 s, 5 min, 3.2 h, 12 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            number = seconds / size
            return f"{number:.1f} {unit}" if number < 10 and unit != "min" else f"{number:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(size_bytes: float) -> str:
    """In the largest unit that fits: 512 B, 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.4g} TiB"


def _progress(step: int | None, total: int | None) -> str:
    if step is None:
        return "-"
    return f"{step}/{total} ({step / total:.0%})" if total else str(step)


def _urgency(run: Run) -> int:
    if run.state.state == "RUNNING":
        return 0
    failed = not run.state.live and run.state.state not in ("COMPLETED", "UNKNOWN", "NOT SUBMITTED", "ON HOLD")
    return 1 if failed else 2
