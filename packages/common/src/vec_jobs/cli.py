"""`vec-jobs`: what one does with runs besides launching them."""

from pathlib import Path
from typing import Annotated

import typer

from common.errors import UserError
from vec_jobs.drill import SIGNALS, Drill

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def vec_jobs() -> None:
    """Jobs of the training templates."""


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
    try:
        equal = Drill(template, overrides or [], stops, seed, signal, folder).run()
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if equal else 1)
