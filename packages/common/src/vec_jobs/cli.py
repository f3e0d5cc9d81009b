"""`vec-jobs`: what one does with runs besides launching them."""

import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from common import board, runs, watch
from common.board import one_line
from common.errors import UserError
from common.runs import Run
from common.sweep import common_overrides
from vec_jobs import act, sweeps, tables
from vec_jobs.clean import Cleaning
from vec_jobs.diff import Diff
from vec_jobs.drill import SIGNALS, Drill
from vec_jobs.why import why as why_of

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False)
_FORGOTTEN_S = 600  # a run that was submitted so long ago, and that nobody knows, does not turn up any more


def _names(ctx: typer.Context, incomplete: str) -> list[str]:
    with suppress(UserError):
        return [folder.name for folder in sweeps.find_all(ctx.params["root"]) if folder.name.startswith(incomplete)]
    return []


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
def list_sweeps(
    root: Root = Path("."),
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, help="how many, the newest")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="however many there are")] = False,
) -> None:
    """The sweeps under the work root, newest first. COMPLETED is what their folders tell; about the other runs Slurm is
    asked once."""
    with _errors():
        folders = sweeps.find_all(root)
    found: list[tuple[sweeps.Sweep, list[Run]]] = []
    for folder in folders if everything else folders[:limit]:
        with _skipped(folder):
            sweep = sweeps.Sweep(folder)
            found.append((sweep, runs.of(folder, sweep.submissions)))
    runs.ask(run for _, of_sweep in found for run in of_sweep if run.state.state != "COMPLETED")
    rows: list[dict[str, Any]] = []
    for sweep, of_sweep in found:
        with _skipped(sweep.folder):
            rows.append(tables.sweep_row(sweep, of_sweep))
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    tables.table_of_sweeps(rows).print()
    if not everything and len(folders) > limit:
        typer.echo(f"and {len(folders) - limit} older: --all shows them")


@app.command()
def status(
    name: Name = None,
    root: Root = Path("."),
    as_json: AsJson = False,
    follow: Annotated[bool, typer.Option("--watch", help="live, until all runs have ended or ctrl-C")] = False,
) -> None:
    """A row per run: state, attempts, progress, time left, productive share of its time, final or last metrics."""
    with _errors():
        if follow and as_json:
            raise UserError("--watch shows a table: leave out --json, or ask again and again without --watch.")
        sweep = sweeps.find(name, root)
        all_runs = sweep.runs()
        if follow:
            _watch(sweep, all_runs)
            return
        common = common_overrides([run.point for run in all_runs])
        if as_json:
            typer.echo(json.dumps([board.row(run, common) for run in all_runs], indent=1))
        else:
            board.table(all_runs, common).print()


def _watch(sweep: sweeps.Sweep, all_runs: list[Run]) -> None:
    old = [run for run in all_runs if run.state.state == "UNKNOWN" and time.time() - run.submitted_at > _FORGOTTEN_S]
    try:
        watch.Watch(sweep.folder, sweep.submissions, frozenset(run.point.index for run in old)).until_done()
    except KeyboardInterrupt:
        typer.echo("Stopped watching. Nothing else is stopped: the runs go on.")


@app.command()
def logs(
    name: SweepName,
    index: Annotated[int, typer.Argument(help="of the run")] = 0,
    root: Root = Path("."),
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on as it grows")] = False,
    err: Annotated[bool, typer.Option("--err", help="what its processes wrote to stderr, tracebacks among it")] = False,
    as_json: AsJson = False,
) -> None:
    """The log of one run."""
    with _errors():
        if follow and as_json:
            raise UserError("--follow never ends: leave out --json.")
        run = sweeps.find(name, root).run(index)
        files = sorted(run.logs.glob("*_log.err") if err else run.out_dir.parent.glob("*.log"))
        if not files:
            raise UserError(f"Run {index} of {name} has written no log yet: it is {run.state.state}.")
    if follow:
        raise typer.Exit(subprocess.run(["tail", "-n", "50", "-F", *map(str, files)]).returncode)
    texts = {str(path): path.read_text(encoding="utf-8", errors="replace") for path in files}
    typer.echo(json.dumps(texts, indent=1) if as_json else "".join(texts.values()), nl=as_json)


@app.command()
def why(
    name: SweepName, index: Annotated[int, typer.Argument()] = 0, root: Root = Path("."), as_json: AsJson = False
) -> None:
    """One paragraph: what ended a run, or what it waits for."""
    with _errors():
        run = sweeps.find(name, root).run(index)
        text = why_of(run)
        typer.echo(json.dumps({"run": index, "state": run.state.state, "why": text}) if as_json else one_line(text))


@app.command()
def diff(
    name: SweepName,
    a: Annotated[str, typer.Argument(help="index of a run, or SWEEP:index")],
    b: Annotated[str, typer.Argument(help="of the other one")],
    root: Root = Path("."),
    as_json: AsJson = False,
) -> None:
    """What differs between two runs: configuration, code, environment; and their results side by side."""
    with _errors():
        both = [sweeps.find_run(text, name, root) for text in (a, b)]
        runs.ask(both)
        difference = Diff(*both)
    if as_json:
        typer.echo(json.dumps(difference.row(), indent=1))
        return
    for line in difference.text():
        typer.echo(line)
    difference.table().print()


@app.command()
def clean(
    name: Name = None,
    root: Root = Path("."),
    days: Annotated[float | None, typer.Option("--older-than", min=0, help="days: all sweeps of that age")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove; otherwise nothing is, it is only shown")] = False,
    as_json: AsJson = False,
) -> None:
    """Free the disk of what no resume needs: older checkpoints and unfinished saves of runs that have ended.

    The newest whole checkpoint of a run stays, and so does everything of a run that is live or UNKNOWN.
    """
    with _errors():
        if name and days is not None:
            raise UserError("Name a sweep, or give --older-than <days> for all of that age, not both.")
        folders = [sweeps.find(name, root).folder] if days is None else sweeps.find_older(days, root)
    all_runs: list[Run] = []
    for folder in folders:
        with _skipped(folder):
            all_runs += runs.of(folder, sweeps.Sweep(folder).submissions)
    runs.ask(all_runs)
    cleaning = Cleaning(all_runs)
    if yes:
        cleaning.remove()
    for sentence in cleaning.left_alone:
        typer.echo(f"Left alone: {sentence}", err=True)
    if as_json:
        typer.echo(json.dumps({"removed": yes, "bytes": cleaning.size_bytes, "runs": cleaning.rows()}, indent=1))
    elif not cleaning.finds:
        typer.echo("Nothing to remove." if not yes else "Nothing was removed.")
    else:
        cleaning.table().print()
        total = f"{board.size(cleaning.size_bytes)} in {len(cleaning.finds)} run(s)"
        typer.echo(f"Removed: {total}." if yes else f"This would free {total}. Nothing is removed yet: --yes does it.")


@app.command()
def report(
    name: Name = None,
    root: Root = Path("."),
    out: Annotated[Path | None, typer.Option(help="folder for it; <sweep>/report if left out")] = None,
    as_json: AsJson = False,
) -> None:
    """One HTML file on a sweep: table, curves, importances, goodput, failures; and its charts as PNGs."""
    with _errors():
        sweep = sweeps.find(name, root)
        try:
            from vec_jobs.report import write
        except ModuleNotFoundError as error:
            raise UserError(
                f"A report needs libraries that are not installed here ({error.name}). In the checkout: "
                "uv run --package common --extra report vec-jobs report"
            ) from error
        written = write(sweep, out or sweep.folder / "report")
        typer.echo(json.dumps(written, indent=1) if as_json else written["report"])


@app.command()
def cancel(
    name: SweepName,
    indices: Annotated[list[int] | None, typer.Argument(help="of single runs; all, if none is given")] = None,
    root: Root = Path("."),
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell runs to save and end."""
    with _errors():
        sweep = sweeps.find(name, root)
        runs = sweep.runs()
        chosen = sweep.choose(runs, indices) if indices else runs
        count = sum(run.state.live for run in chosen)
        if count and not yes and not typer.confirm(one_line(f"Cancel {count} run(s) of {sweep.name}?"), err=as_json):
            raise typer.Exit(1)
        told = [run.point.index for run in act.cancel(sweep, runs, chosen)]
        if as_json:
            typer.echo(json.dumps({"told": told}))
        elif told:
            typer.echo(f"Told to end: run {', '.join(map(str, told))}.")
        else:
            typer.echo(one_line(f"Nothing to cancel: no run of {sweep.name} waits or runs."))


@app.command(context_settings={"ignore_unknown_options": True})
def retry(
    name: SweepName,
    indices: Annotated[list[int] | None, typer.Argument(help="of single runs")] = None,
    root: Root = Path("."),
    failed: Annotated[bool, typer.Option("--failed", help="those that ended, but not well (default)")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="those that were never submitted")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit runs again: same indices, same folders; they go on from their checkpoints."""
    with _errors():
        sweep = sweeps.find(name, root)
        runs = sweep.runs()
        runs = act.to_retry(runs, failed or not (missing or indices), missing, sweep.choose(runs, indices or []))
        code = act.retry(sweep, runs, quiet=as_json) if runs else 0
        if as_json:
            typer.echo(json.dumps({"runs": [run.point.index for run in runs], "exit_code": code}))
        elif not runs:
            typer.echo(one_line(f"Nothing to retry in {sweep.name}."))
        raise typer.Exit(code)


@app.command(context_settings={"ignore_unknown_options": True})
def extend(
    name: SweepName,
    overrides: Annotated[list[str], typer.Argument(help="key=value,... as for the launcher")],
    root: Root = Path("."),
    as_json: AsJson = False,
) -> None:
    """Add points to a sweep: its own command with other values; the runs are numbered on."""
    with _errors():
        sweep = sweeps.find(name, root)
        before = sweep.indices
        code = act.extend(sweep, overrides, quiet=as_json)
        if as_json:
            added = sorted(sweeps.Sweep(sweep.folder).indices - before)
            typer.echo(json.dumps({"runs": added, "exit_code": code}))
        raise typer.Exit(code)


@app.command(context_settings={"ignore_unknown_options": True})
def drill(
    template: Annotated[str, typer.Argument(help="package/template, e.g. mlp/single")],
    overrides: Annotated[list[str] | None, typer.Argument(help="as for the launcher: compute=local key=value")] = None,
    stops: Annotated[int, typer.Option(min=1, help="how often the second run is stopped")] = 5,
    seed: Annotated[int, typer.Option(help="of the moments at which it is stopped")] = 0,
    signal: Annotated[str, typer.Option(help=f"one of {', '.join(SIGNALS)}")] = "USR2",
    folder: Annotated[Path | None, typer.Option(help="where both runs go; on a cluster: on shared scratch")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a template straight and again, stopped by real signals; exit 0 if both end the same, bit for bit."""
    with _errors(), redirect_stdout(sys.stderr if as_json else sys.stdout):
        equal = Drill(template, overrides or [], stops, seed, signal, folder).run()
    if as_json:
        typer.echo(json.dumps({"equal": equal, "stops": stops, "seed": seed, "signal": signal}))
    raise typer.Exit(0 if equal else 1)


@app.command()
def doctor(
    cluster: Annotated[str | None, typer.Argument(help="name of a profile; the one that fits if left out")] = None,
    write: Annotated[str | None, typer.Option("--write", metavar="NAME", help="draft a profile and presets")] = None,
    as_json: AsJson = False,
) -> None:
    """Where a cluster's profile and presets (configs/cluster, configs/compute) differ from the site at hand, and the
    remedy of each; exit 1 if there is any."""
    with _errors():
        from vec_jobs import doctor, draft, profiles, site  # Hydra, which no other verb waits for

        if write is not None:
            if cluster is not None:
                raise UserError(f"Give a name to --write, or a profile to compare ({cluster}), not both.")
            files = draft.write(write, site.ask(), profiles.folder())
            typer.echo(json.dumps([str(file) for file in files], indent=1) if as_json else draft.told(write, files))
            return
        diagnosis = doctor.diagnose(profiles.Configs(), site.ask(), cluster)
        for line in [json.dumps(diagnosis.row(), indent=1)] if as_json else diagnosis.text():
            typer.echo(line)
    raise typer.Exit(1 if diagnosis.differences else 0)


@contextmanager
def _errors() -> Generator[None]:
    """One line for the user, exit code 1."""
    try:
        yield
    except (UserError, OSError) as error:
        typer.echo(f"Error: {_told(error)}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _skipped(folder: Path) -> Generator[None]:
    """One line for a sweep that cannot be read; the others go on."""
    try:
        yield
    except (UserError, OSError) as error:
        typer.echo(one_line(f"Skipped {folder.name}: {_told(error)}"), err=True)


def _told(error: Exception) -> str:
    """In one line."""
    if isinstance(error, OSError):
        return one_line(f"{error.filename}: {error.strerror}.")
    return one_line(str(error))
