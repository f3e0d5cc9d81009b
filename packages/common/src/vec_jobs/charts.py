"""The charts of a report, in Altair; None where there is nothing to draw.

Lines have a strokeOpacity, no opacity: for that, a PNG with a thousand of them takes half a minute.
"""

import itertools
import json
import warnings
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from vec_jobs.facts import Curve, SweepFacts, brief, distinct, is_number, shown

alt.data_transformers.disable_max_rows()  # curves are thinned already, and their data are in the file

Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart

_WIDTH = 1060
_COLOURS_TOLD_APART = 12
_GROUPS = 6  # of numbers, where there are more than that
LEAST_PRODUCTIVE = 25  # runs whose goodput is drawn
# From dark to light, without the yellow that nobody sees on white.
_PALETTE = alt.SchemeParams("plasma", extent=[0, 0.85])
# In a legend of what took the time of a run; the fields of attempts.Ledger.
_TIMES = {"steps that count": "productive_s", "starting": "starting_s", "saving": "saves_s", "lost": "lost_s"}
_UNITS = {"hours": 3600, "minutes": 60, "seconds": 1}


def learning_curves(facts: SweepFacts, curves: list[Curve], first: str) -> Chart | None:
    """A panel for each metric, a line for each run, coloured by the hyperparameter that the reader chooses.

    Args:
        first: the hyperparameter chosen at first; by run, if there is no such one.
    """
    if not curves:
        return None
    table, columns = _colours(facts)
    fields = [str(name) for name in table.columns if name != "run"]
    choices = list(columns.values())
    chosen = alt.param(
        name="colour_by",
        value=columns.get(first, choices[-1]),
        bind=alt.binding_select(options=choices, labels=list(columns), name="Colour by "),
    )
    picked = alt.selection_point(fields=["colour"], bind="legend", name="picked")
    pointed = alt.selection_point(fields=["run"], on="pointerover", clear="pointerout", empty=False, name="pointed")
    panels = [
        alt.Chart(pd.DataFrame(curve.points, columns=["run", "step", "value"]), title=curve.metric)
        .transform_lookup("run", alt.LookupData(table, "run", fields))
        .transform_calculate(colour="datum[colour_by]", order="datum[colour_by + '_order']")
        .mark_line()
        .encode(
            x=alt.X("step:Q", axis=alt.Axis(tickCount=6), scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", title=None, scale=_scale_of(curve.metric, [value for _, _, value in curve.points])),
            detail="run:N",
            color=alt.Color(
                "colour:O", sort=alt.EncodingSortField("order", op="min"), scale=alt.Scale(scheme=_PALETTE), title=None
            ),
            strokeOpacity=alt.when(picked).then(alt.value(0.9)).otherwise(alt.value(0.06)),
            strokeWidth=alt.when(pointed).then(alt.value(4)).otherwise(alt.value(1.6)),
            tooltip=alt.Tooltip("label:N", title="run"),
        )
        .properties(width=_WIDTH // 2 - 90 if len(curves) > 1 else _WIDTH - 160, height=260)
        for curve in curves
    ]
    rows = [alt.hconcat(*panels[i : i + 2]) for i in range(0, len(panels), 2)]
    heading = alt.expr(f"'coloured by ' + {json.dumps(list(columns))}[indexof({json.dumps(choices)}, colour_by)]")
    title = alt.Title(heading, fontWeight="normal", fontSize=12)
    with warnings.catch_warnings():  # that a selection reaches over all panels: it is to
        warnings.filterwarnings("ignore", "Automatically deduplicated")
        return alt.vconcat(*rows, title=title).add_params(chosen, picked, pointed)


def parallel_coordinates(facts: SweepFacts) -> Chart | None:
    """A line for each completed run through its hyperparameters to its objective, which colours it."""
    runs = facts.scored[::-1]  # the best is drawn last, over the others
    if not facts.names or len(runs) < 2:
        return None
    scores = [run.final[facts.objective] for run in runs]
    axes = [(name, [run.values.get(name) for run in runs]) for name in facts.names] + [(facts.objective, scores)]
    lines: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for i, (name, values) in enumerate(axes):
        positions, texts = _axis(values, _scale_of(name, scores) if values is scores else _scale(values))
        marks += [{"axis": i, "position": position, "text": text} for text, position in texts.items()]
        lines += [
            {"run": run.index, "label": run.label, "axis": i, "position": position, "score": score}
            for run, position, score in zip(runs, positions, scores, strict=True)
        ]
    names = [{"axis": i, "position": 1.1, "text": name} for i, (name, _) in enumerate(axes)]
    x = alt.X("axis:Q", axis=None, scale=alt.Scale(domain=[-0.1, len(axes) - 0.6], nice=False, zero=False))
    y = alt.Y("position:Q", axis=None, scale=alt.Scale(domain=[-0.04, 1.14], nice=False, zero=False))
    pointed = alt.selection_point(fields=["run"], on="pointerover", clear="pointerout", empty=False, name="pointed")
    scale = alt.Scale(scheme=_PALETTE, reverse=not facts.minimize, type=_scale_of(facts.objective, scores)["type"])
    drawn = (
        alt.Chart(pd.DataFrame(lines))
        .mark_line(strokeOpacity=0.75 if len(runs) <= 100 else 0.3)
        .encode(
            x=x,
            y=y,
            detail="run:N",
            order="axis:Q",
            color=alt.Color("score:Q", title=facts.objective, scale=scale),
            strokeWidth=alt.when(pointed).then(alt.value(5)).otherwise(alt.value(2)),
            tooltip=[alt.Tooltip("label:N", title="run"), alt.Tooltip("score:Q", title=facts.objective)],
        )
        .add_params(pointed)
    )
    posts = alt.Chart(pd.DataFrame({"axis": range(len(axes))})).mark_rule(color="#666").encode(x=x)
    texts = alt.Chart(pd.DataFrame(marks)).encode(x=x, y=y, text="text:N")
    room = (_WIDTH - 90) // len(axes) - 16
    halo = texts.mark_text(align="left", dx=6, limit=room, stroke="white", strokeWidth=4, strokeJoin="round")
    heads = (
        alt.Chart(pd.DataFrame(names))
        .mark_text(fontWeight="bold", align="left", fontSize=12)
        .encode(x=x, y=y, text="text:N")
    )
    layers = alt.layer(posts, drawn, halo, texts.mark_text(align="left", dx=6), heads)
    return layers.properties(width=_WIDTH - 90, height=340, view=alt.ViewConfig(stroke=None))


def importance(shares: dict[str, float]) -> Chart | None:
    """A bar for each hyperparameter."""
    if not shares:
        return None
    table = pd.DataFrame({"name": shares.keys(), "share": shares.values()})
    bars = alt.Chart(table).encode(
        x=alt.X("share:Q", title="importance", axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("name:N", sort=None, title=None),
    )
    numbers = bars.mark_text(align="left", dx=4).encode(text=alt.Text("share:Q", format=".0%"))
    return alt.layer(bars.mark_bar(color="#3b528b"), numbers).properties(width=_WIDTH - 260, height=alt.Step(26))


def goodput(facts: SweepFacts) -> Chart | None:
    """What took the time of each run, the least productive on top."""
    known = sorted(((run, run.ledger) for run in facts.runs if run.ledger), key=lambda pair: pair[1].goodput)
    if not known:
        return None
    known = known[:LEAST_PRODUCTIVE]
    longest_s = max(sum(getattr(ledger, field) for field in _TIMES.values()) for _, ledger in known)
    unit, size = next((unit, size) for unit, size in _UNITS.items() if longest_s >= 2 * size or size == 1)
    parts = [
        {"run": f"run {run.index}", "part": name, "order": i, unit: getattr(ledger, field) / size}
        for run, ledger in known
        for i, (name, field) in enumerate(_TIMES.items())
    ]
    colours = alt.Scale(domain=list(_TIMES), range=["#21918c", "#b8c4cc", "#e0a82e", "#c44536"])
    return (
        alt.Chart(pd.DataFrame(parts))
        .mark_bar()
        .encode(
            x=alt.X(f"{unit}:Q", title=f"{unit} on the node, all attempts together"),
            y=alt.Y("run:N", sort=None, title=None),
            color=alt.Color("part:N", scale=colours, title=None, sort=None),
            order="order:Q",
            tooltip=["run:N", "part:N", alt.Tooltip(f"{unit}:Q", format=".2f")],
        )
        .properties(width=_WIDTH - 260, height=alt.Step(16))
    )


def _colours(facts: SweepFacts) -> tuple[pd.DataFrame, dict[str, str]]:
    """What curves can be coloured by.

    Returns:
        A row for each run with the text and the rank of each choice, and the column of each choice.
    """
    choices = {name: _groups([run.values.get(name) for run in facts.runs]) for name in facts.names}
    if len(facts.runs) <= _COLOURS_TOLD_APART:
        choices["single runs"] = [(run.label, run.index) for run in facts.runs]
    if not choices:
        choices["nothing"] = [("all runs", 0) for _ in facts.runs]
    columns = {name: f"c{i}" for i, name in enumerate(choices)}
    table = pd.DataFrame({"run": [run.index for run in facts.runs], "label": [run.label for run in facts.runs]})
    for name, column in columns.items():
        table[column] = [text for text, _ in choices[name]]
        table[f"{column}_order"] = [order for _, order in choices[name]]
    return table, columns


def _groups(values: list[Any]) -> list[tuple[str, int]]:
    """(text, rank) of each value; of many numbers, of the range into which it falls."""
    known = distinct(values)
    if len(known) > _COLOURS_TOLD_APART and all(is_number(value) for value in known):
        edges = np.unique(np.quantile(values, np.linspace(0, 1, _GROUPS + 1)))
        texts = [f"{low:.3g} to {high:.3g}" for low, high in itertools.pairwise(edges)]
        return [(texts[group], group) for group in np.digitize(values, edges[1:-1], right=True).tolist()]
    ranks = {shown(value): rank for rank, value in enumerate(known)}
    return [(brief(value), ranks[shown(value)]) for value in values]


def _axis(values: list[Any], scale: alt.Scale) -> tuple[list[float], dict[str, float]]:
    """(where each value stands between 0 and 1, the marks); what is no number stands in its order."""
    known = distinct(values)
    if len(known) > 1 and all(is_number(value) for value in known):
        scaled, even = (np.log, np.geomspace) if scale["type"] == "log" else (np.array, np.linspace)
        low, high = scaled(known[0]), scaled(known[-1])
        place = {value: float((scaled(value) - low) / (high - low)) for value in known}
        if any(place[after] - place[before] < 0.05 for before, after in itertools.pairwise(known)):  # no room to write
            marks = {f"{value:.3g}": i / 4 for i, value in enumerate(even(known[0], known[-1], 5).tolist())}
        else:
            marks = {brief(value): place[value] for value in known}
        return [place[value] for value in values], marks
    ranks = {shown(value): rank / max(1, len(known) - 1) for rank, value in enumerate(known)}
    few = known[:: max(1, len(known) // 16)]
    return [ranks[shown(value)] for value in values], {brief(value): ranks[shown(value)] for value in few}


def _scale(values: list[Any]) -> alt.Scale:
    """Logarithmic where numbers spread over orders of magnitude."""
    numbers = [value for value in values if is_number(value)]
    if numbers and min(numbers) > 0 and max(numbers) / min(numbers) >= 50:
        return alt.Scale(type="log")
    return alt.Scale(type="linear", zero=False)


def _scale_of(metric: str, values: list[float]) -> alt.Scale:
    """The same, but not for accuracies and other shares."""
    share = max(values) <= 1 and "loss" not in metric
    return alt.Scale(type="linear", zero=False) if share else _scale(values)
