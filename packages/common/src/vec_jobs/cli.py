"""`vec-jobs`: what one does with runs besides launching them."""

import json
import os
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from common.errors import UserError
from vec_jobs import act, sweeps, tables
from vec_jobs.drill import SIGNALS, Drill
from vec_jobs.why import why as why_of

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False)


def _names(incomplete: str) -> list[str]:
    root = Path(os.environ.get("VEC_WORK_ROOT", "."))
    return [folder.name for folder in sweeps.find_all(root) if folder.name.startswith(incomplete)]


Root = Annotated[Path, typer.Option("--root", envvar="VEC_WORK_ROOT", help="work root, in which vec_jobs/ is")]
Name = Annotated[
    str | None, typer.Argument(help="name or folder of a sweep; the newest if left out", autocompletion=_names)
]
SweepName = Annotated[str, typer.Argument(help="name or folder of a sweep", autocompletion=_names)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.callback()
def vec_jobs() -> None:
    """Jobs of the training templates."""


@app.command("list")
def list_sweeps(root: Root = Path("."), as_json: AsJson = False) -> None:
    """The sweeps under the work root, newest first; from their folders alone."""
    rows: list[dict[str, Any]] = []
    for folder in sweeps.find_all(root):
        try:
            rows.append(tables.sweep_row(sweeps.Sweep(folder)))
        except UserError as error:
            typer.echo(f"Skipped: {error}", err=True)
    _show(rows, as_json, tables.table_of_sweeps)


@app.command()
def status(name: Name = None, root: Root = Path("."), as_json: AsJson = False) -> None:
    """A row per run: state, attempts, step, productive share of its time, last metrics."""
    with _errors():
        runs = sweeps.find(name, root).runs()
        _show([tables.run_row(run, runs) for run in runs], as_json, tables.table_of_runs)


@app.command()
def logs(
    name: SweepName,
    index: Annotated[int, typer.Argument(help="of the run")] = 0,
    root: Root = Path("."),
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on as it grows")] = False,
    err: Annotated[bool, typer.Option("--err", help="what its processes wrote to stderr, tracebacks among it")] = False,
) -> None:
    """The log of one run."""
    with _errors():
        run = sweeps.find(name, root).run(index)
        files = sorted(run.logs.glob("*_log.err") if err else run.out_dir.parent.glob("*.log"))
        if not files:
            raise UserError(f"Run {index} of {name} has written no log yet: it is {run.state.state}.")
    if follow:
        raise typer.Exit(subprocess.run(["tail", "-n", "50", "-F", *map(str, files)]).returncode)
    for path in files:
        typer.echo(path.read_text(encoding="utf-8", errors="replace"), nl=False)


@app.command()
def why(
    name: SweepName, index: Annotated[int, typer.Argument()] = 0, root: Root = Path("."), as_json: AsJson = False
) -> None:
    """One paragraph: what ended a run, or what it waits for."""
    with _errors():
        run = sweeps.find(name, root).run(index)
        text = why_of(run)
        typer.echo(json.dumps({"run": index, "state": run.state.state, "why": text}) if as_json else text)


@app.command()
def cancel(
    name: SweepName,
    indices: Annotated[list[int] | None, typer.Argument(help="of single runs; all, if none is given")] = None,
    root: Root = Path("."),
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Tell runs to save and end."""
    with _errors():
        sweep = sweeps.find(name, root)
        runs = sweep.runs()
        chosen = sweep.choose(runs, indices) if indices else runs
        count = sum(run.state.live for run in chosen)
        if count == 0:
            typer.echo(f"Nothing to cancel: no run of {sweep.name} waits or runs.")
            return
        if not yes and not typer.confirm(f"Cancel {count} run(s) of {sweep.name}?"):
            raise typer.Exit(1)
        told = act.cancel(sweep, runs, chosen)
        typer.echo(f"Told to end: run {', '.join(str(run.point.index) for run in told)}.")


@app.command(context_settings={"ignore_unknown_options": True})
def retry(
    name: SweepName,
    indices: Annotated[list[int] | None, typer.Argument(help="of single runs")] = None,
    root: Root = Path("."),
    failed: Annotated[bool, typer.Option("--failed", help="those that ended, but not well (default)")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="those that were never submitted")] = False,
) -> None:
    """Submit runs again: same indices, same folders; they go on from their checkpoints."""
    with _errors():
        sweep = sweeps.find(name, root)
        runs = sweep.runs()
        runs = act.to_retry(runs, failed or not (missing or indices), missing, sweep.choose(runs, indices or []))
        if not runs:
            typer.echo(f"Nothing to retry in {sweep.name}.")
            return
        raise typer.Exit(act.retry(sweep, runs))


@app.command(context_settings={"ignore_unknown_options": True})
def drill(
    template: Annotated[str, typer.Argument(help="package/template, e.g. mlp/single")],
    overrides: Annotated[list[str] | None, typer.Argument(help="as for the launcher: compute=local key=value")] = None,
    stops: Annotated[int, typer.Option(min=1, help="how often the second run is stopped")] = 5,
    seed: Annotated[int, typer.Option(help="of the moments at which it is stopped")] = 0,
    signal: Annotated[str, typer.Option(help=f"one of {', '.join(SIGNALS)}")] = "USR2",
    folder: Annotated[Path | None, typer.Option(help="where both runs go; on a cluster: on shared scratch")] = None,
) -> None:
    """Run a template straight and again, stopped by real signals; exit 0 if both end the same, bit for bit."""
    with _errors():
        equal = Drill(template, overrides or [], stops, seed, signal, folder).run()
    raise typer.Exit(0 if equal else 1)


@contextmanager
def _errors() -> Generator[None]:
    """One line for the user, exit code 1."""
    try:
        yield
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None


def _show(rows: list[dict[str, Any]], as_json: bool, table: Callable[[list[dict[str, Any]]], Table]) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        console = Console()
        Console(width=None if console.is_terminal else 160).print(table(rows))
