"""`vec-jobs report`: one HTML file about a sweep that needs nothing beside it, no network either; its charts as PNGs.

Needs the extra `common[report]`: no other module imports this one, or those it is made of, before they are asked for.
"""

import io
from collections import Counter
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import itables
import jinja2
import pandas as pd
import vl_convert
from itables.javascript import generate_init_offline_itables_html

from common.attempts import Ledger
from common.errors import UserError
from common.paths import write_atomic
from vec_jobs import charts
from vec_jobs.facts import SweepFacts, curves, gather, is_number, shown
from vec_jobs.importance import importances
from vec_jobs.sweeps import Sweep

_ROWS = 25  # of a table, on a page
# How a number is shown: four digits. What is missing is shown empty and sorted to the end that is given.
_NUMBER = """function(value, type) {
  if (Number.isNaN(value)) return type === 'display' ? '' : %s;
  return type !== 'display' || Number.isInteger(value) ? value : Number(value.toPrecision(4));
}"""


def write(sweep: Sweep, folder: Path) -> dict[str, Any]:
    """Write `report.html` and the PNGs into a folder, in place of those of an earlier report.

    Returns:
        What `--json` prints: where the report and the pictures are, the states of the runs, and the best run.

    Raises:
        UserError: the folder cannot be written to.
    """
    facts = gather(sweep)
    lines, notes = curves(facts)
    shares, about_shares = importances(facts)
    drawn = {
        "curves": charts.learning_curves(facts, lines, first=next(iter(shares), "")),
        "parallel": charts.parallel_coordinates(facts),
        "importance": charts.importance(shares),
        "goodput": charts.goodput(facts),
    }
    best = facts.best
    states = dict(Counter(run.state for run in facts.runs).most_common())
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page.filters["shown"] = shown
    text = page.get_template("report.html.j2").render(
        sweep=sweep,
        facts=facts,
        states=states,
        specs={name: chart.to_dict() for name, chart in drawn.items() if chart},
        curve_notes=notes,
        about_importance=about_shares,
        goodput=_goodput(facts),
        runs=_table_of_runs(facts),
        failures=_table_of_failures(facts),
        now=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        vega=vl_convert.javascript_bundle(),  # pyright: ignore[reportCallIssue] the argument has a default
        datatables=generate_init_offline_itables_html(itables.options.dt_bundle),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, chart in drawn.items():
            (folder / f"{name}.png").unlink(missing_ok=True)
            if chart:
                write_atomic(folder / f"{name}.png", _png(chart))
        write_atomic(folder / "report.html", text)
    except OSError as error:
        raise UserError(f"The report cannot be written ({error}): say where with --out <folder>.") from error
    return {
        "report": str(folder / "report.html"),
        "pictures": [str(folder / f"{name}.png") for name, chart in drawn.items() if chart],
        "states": states,
        "best": best and {"run": best.index, "values": best.values, "metrics": best.final},
    }


def _goodput(facts: SweepFacts) -> str:
    ledgers = [run.ledger for run in facts.runs if run.ledger]
    names = [field.name for field in fields(Ledger)]
    total = Ledger(**{name: sum(getattr(ledger, name) for ledger in ledgers) for name in names})
    drawn = charts.LEAST_PRODUCTIVE
    note = f" Drawn are the {drawn} least productive of {len(ledgers)}." if len(ledgers) > drawn else ""
    return f"All runs together: {total}.{note}"


def _png(chart: charts.Chart) -> bytes:
    picture = io.BytesIO()
    chart.save(picture, format="png", scale_factor=1.5)
    return picture.getvalue()


def _table_of_runs(facts: SweepFacts) -> str:
    """The best one first, and marked."""
    columns: dict[str, list[Any]] = {"run": [run.index for run in facts.runs]}
    columns["state"] = [run.state for run in facts.runs]
    for name in facts.final_metrics:
        columns[name] = [run.final.get(name) for run in facts.runs]
    for name in facts.names:
        columns[_free(name, columns)] = [run.values.get(name, "") for run in facts.runs]
    for name in ("step", "attempt"):
        columns[_free(name, columns)] = [run.row[name] for run in facts.runs]
    columns["goodput, %"] = [run.ledger and round(100 * run.ledger.goodput, 1) for run in facts.runs]
    if facts.best is None:
        return _table("runs", columns, order=[[0, "asc"]])
    marked = facts.runs.index(facts.best)
    if facts.minimize:
        return _table("runs", columns, order=[[2, "asc"]], marked=marked)
    return _table("runs", columns, order=[[2, "desc"]], marked=marked, last="-Infinity")


def _table_of_failures(facts: SweepFacts) -> str:
    failed = [run for run in facts.runs if run.why]
    columns = {
        "run": [run.index for run in failed],
        "state": [run.state for run in failed],
        "overrides": [" ".join(run.row["overrides"]) for run in failed],
        "why": [run.why for run in failed],
    }
    return _table("failures", columns, order=[[0, "asc"]]) if failed else ""


def _table(name: str, columns: dict[str, list[Any]], *, order: Any, marked: int = -1, last: str = "Infinity") -> str:
    """A table that sorts and searches.

    Args:
        marked: number of the row that stands out.
        last: what an empty cell counts as when a column of numbers is sorted.
    """
    table = pd.DataFrame({name: _column(values) for name, values in columns.items()})
    numbers = [i for i, name in enumerate(table) if table[name].dtype == float]
    mark = f"function(cell, value, row, index) {{ if (index === {marked}) cell.classList.add('best') }}"
    return itables.to_html_datatable(
        table,
        table_id=name,
        connected=False,  # the script is in the page
        display_logo_when_loading=False,
        showIndex=False,
        maxBytes=0,  # all rows
        format_floats_in_python=False,
        classes="display compact",
        style="width: 100%",
        layout={"topStart": "search", "topEnd": "pageLength", "bottomStart": "info", "bottomEnd": "paging"},
        text_in_header_can_be_selected=False,  # or a click on it would not sort
        paging=len(table) > _ROWS,
        lengthMenu=[_ROWS, 100, 1000],
        pageLength=_ROWS,
        order=order,
        columnDefs=[
            {"targets": numbers, "render": itables.JavascriptFunction(_NUMBER % last)},
            {"targets": "_all", "createdCell": itables.JavascriptFunction(mark)},
        ],
    )


def _column(values: list[Any]) -> pd.Series:
    """Numbers, where all are; else text."""
    if all(value in (None, "") or is_number(value) for value in values):
        return pd.Series([None if value == "" else value for value in values], dtype=float)
    return pd.Series([shown(value) for value in values], dtype=str)


def _free(name: str, taken: dict[str, list[Any]]) -> str:
    """A column's name that no other has: a hyperparameter may be called like a metric."""
    return name if name not in taken else _free(f"{name} (set)", taken)
