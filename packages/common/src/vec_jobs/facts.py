"""What a report tells of a sweep, as plain data: hyperparameters that differ, final metrics, curves. Only reads."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import attempts, board
from common.paths import read_lines
from common.runs import Run
from common.sweep import common_overrides
from vec_jobs.sweeps import Sweep
from vec_jobs.why import why

_POINTS_OF_A_CURVE = 500
_POINTS_IN_ALL = 100_000  # which a browser still draws in a second or two
_METRICS_DRAWN = 6


@dataclass
class RunFacts:
    """One run: `values` are those of its hyperparameters that differ in the sweep, `final` its final metrics."""

    index: int
    out_dir: Path
    state: str
    row: dict[str, Any]  # as `status` prints it
    values: dict[str, Any]
    final: dict[str, float]
    ledger: attempts.Ledger | None  # None before its first attempt
    why: str  # empty unless it ended, and not well

    @property
    def label(self) -> str:
        """Its number and what sets it apart: `3: hidden_dim=64 learning_rate=0.01`."""
        return " ".join([f"{self.index}:", *(f"{name}={brief(value)}" for name, value in self.values.items())])


@dataclass
class Curve:
    """A logged metric over steps, as (run, step, value)."""

    metric: str
    points: list[tuple[int, int, float]]


@dataclass
class SweepFacts:
    """A sweep as it is now."""

    runs: list[RunFacts]
    names: list[str]  # of the hyperparameters that differ
    objective: str
    minimize: bool

    @property
    def scored(self) -> list[RunFacts]:
        """The completed runs that have the objective, best first."""
        found = [run for run in self.runs if self.objective in run.final]
        return sorted(found, key=lambda run: run.final[self.objective] * (1 if self.minimize else -1))

    @property
    def best(self) -> RunFacts | None:
        """The first of these; None without any."""
        return self.scored[0] if self.scored else None

    @property
    def final_metrics(self) -> list[str]:
        """Their names, the objective first."""
        names = dict.fromkeys(name for run in self.runs for name in run.final)
        return sorted(names, key=lambda name: name != self.objective)


def gather(sweep: Sweep) -> SweepFacts:
    """Read all that is known of the runs of a sweep now."""
    runs = sweep.runs()
    keys = _differing([run.point.config for run in runs])
    names = _short_names(keys)
    common = common_overrides([run.point for run in runs])
    facts = [_facts(run, common, {names[key]: run.point.config[key] for key in keys if key in run.point.config})
             for run in runs]  # fmt: skip
    return SweepFacts(facts, list(names.values()), sweep.last.objective, sweep.last.direction != "maximize")


def curves(facts: SweepFacts) -> tuple[list[Curve], list[str]]:
    """The logged metrics of all runs, the objective first.

    Returns:
        The curves, and sentences on what was left out of them.
    """
    series: dict[str, dict[int, list[tuple[int, float]]]] = {}
    for run in facts.runs:
        for line in read_lines(run.out_dir / "metrics.jsonl"):
            for name, value in line.items():
                if name not in ("step", "time_s", "attempt") and is_number(value):
                    series.setdefault(name, {}).setdefault(run.index, []).append((line["step"], value))
    order = sorted(series, key=lambda name: (name != facts.objective, not name.startswith("eval")))
    drawn, others = order[:_METRICS_DRAWN], order[_METRICS_DRAWN:]
    count = sum(len(series[name]) for name in drawn)
    most = max(20, min(_POINTS_OF_A_CURVE, _POINTS_IN_ALL // max(1, count)))
    longest = max((len(points) for name in drawn for points in series[name].values()), default=0)
    notes: list[str] = []
    if longest > most:
        notes.append(f"Long curves are thinned to {most} points each; metrics.jsonl of each run has all.")
    if others:
        notes.append(f"Logged, but not drawn: {', '.join(others)}.")
    drawings = [
        Curve(name, [(run, *point) for run, points in series[name].items() for point in _thin(points, most)])
        for name in drawn
    ]
    return drawings, notes


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def shown(value: Any) -> str:
    """A value of a configuration as one writes it in an override."""
    return value if isinstance(value, str) else json.dumps(value)


def brief(value: Any) -> str:
    """The same, numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def distinct(values: list[Any]) -> list[Any]:
    """The values that occur, once each: numbers by size, then the others by name."""
    known = {shown(value): value for value in values}
    return sorted(known.values(), key=lambda value: (0, value, "") if is_number(value) else (1, 0, shown(value)))


def _facts(run: Run, common: set[str], values: dict[str, Any]) -> RunFacts:
    state = run.state.state
    final = {name: value for name, value in run.metrics.items() if state == "COMPLETED" and is_number(value)}
    ended_badly = not run.state.live and state != "COMPLETED"
    row = board.row(run, common)
    return RunFacts(
        run.point.index, run.out_dir, state, row, values, final, run.ledger, why(run) if ended_badly else ""
    )


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    """The keys whose value is not the same in all of them."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]


def _short_names(keys: list[str]) -> dict[str, str]:
    """`trainer.seed` is shown as `seed`, unless another key ends the same."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _thin(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most that many, evenly chosen, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
