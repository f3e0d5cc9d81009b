"""`vec-new`: a copy of a template under a name of one's own, which later changes of its source can be brought into."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from common.errors import UserError
from vec_new import checkout
from vec_new.rename import Name, shared_modules

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False)
From = Annotated[str, typer.Option("--from", help="the template that is copied, e.g. mlp/single")]


@app.callback()
def vec_new() -> None:
    """Copies of the training templates."""


@app.command()
def template(
    name: Annotated[str, typer.Argument(help="package/template, e.g. llm/my_task")],
    source: From,
) -> None:
    """A template of one's own, beside the one that it is a copy of."""
    with _errors():
        from vec_new import copies, workspace

        root = checkout.find(Path.cwd())
        old = checkout.source(root, source)
        new = checkout.new_template(root, name, old)
        overrides, test = checkout.smallest(root, old), workspace.test_file(root, new)
        if test.exists():
            raise UserError(f"{test.relative_to(root)} exists: take another name.")
        folder = checkout.folder(root, new)
        with copies.all_or_nothing(folder, test, root / "packages" / new.package / "pyproject.toml"):
            commit = _make_in(root, folder, "template", old, new)
            workspace.add_smallest(root, new, overrides)
            workspace.add_test(root, new, overrides)
    _say_made(folder.relative_to(root), old, commit)
    typer.echo(
        f"Run it:     uv run --package {new.package} {new.package}-launch {new.template} compute=local {overrides}"
    )
    typer.echo(f"Test it:    uv run pytest {test.relative_to(root)}")
    typer.echo(f"Update it:  uv run vec-new update {new}   (when it is committed)")


@app.command()
def package(
    name: Annotated[str, typer.Argument(help="e.g. audio")],
    source: From = "mlp/single",
) -> None:
    """A new package of the workspace, with dependencies, launcher, tests and changelog of its own, and one template."""
    with _errors():
        from vec_new import copies, workspace

        root = checkout.find(Path.cwd())
        old = checkout.source(root, source)
        new = checkout.new_package(root, name, old)
        overrides, tests = checkout.smallest(root, old), root / "tests" / name
        if tests.exists():
            raise UserError(f"tests/{name} exists: take another name.")
        folder = root / "packages" / name
        with copies.all_or_nothing(folder, tests, root / "pyproject.toml"):
            commit = _make_in(root, folder, "package", old, new)
            workspace.add_package(root, new, old)
            workspace.add_test(root, new, overrides)
    _say_made(folder.relative_to(root), old, commit)
    typer.echo("Install it: make lock && uv sync")
    typer.echo(f"Run it:     uv run --package {name} {_job(new, overrides)}")
    typer.echo(f"Test it:    uv run pytest tests/{name}")
    typer.echo(f"Update it:  uv run vec-new update packages/{name}   (when it is committed)")


@app.command()
def project(
    folder: Annotated[Path, typer.Argument(help="is made, e.g. ~/my-project", metavar="FOLDER")],
    source: From,
    wheels: Annotated[Path, typer.Option(help="folder with the wheel of common, and of the package of the template")],
    repository: Annotated[
        str | None, typer.Option("--source", help="of the templates: path or address; the checkout at hand if left out")
    ] = None,
) -> None:
    """A repository of one's own with a copy of a template; `common` is a wheel that it depends on."""
    with _errors():
        from vec_new import copies
        from vec_new.fill import WHEELS

        folder = Path(os.path.abspath(folder.expanduser()))
        word = folder.name.replace("-", "_")
        checkout.check_package(word, str(folder))
        if folder.exists():
            raise UserError(f"{folder} exists: take another name.")
        if not folder.parent.is_dir():
            raise UserError(f"{folder.parent} does not exist: make it first.")
        checkout.git(folder.parent, "var", "GIT_AUTHOR_IDENT")  # a commit needs a name: told now, not half way
        with _repository(repository) as (root, address), copies.all_or_nothing(folder):
            old = checkout.source(root, source)
            new = Name(word, old.template)
            needed = [
                "common",
                *([old.package] if shared_modules(checkout.folder(root, old).parent, old.template) else []),
            ]
            files = [file for name in needed for file in _wheels(wheels, name)]
            commit = checkout.git(root, "rev-parse", "HEAD")
            overrides = checkout.smallest(root, old)
            copies.make(address, commit, folder, _answers("project", old, new, overrides))
            (folder / WHEELS).mkdir()
            for file in files:
                shutil.copy(file, folder / WHEELS)
            for words in (
                ["init", "--quiet"],
                ["add", "--all"],
                ["commit", "--quiet", "--message", f"A copy of {old}"],
            ):
                checkout.git(folder, *words)
    _say_made(folder, old, commit)
    typer.echo(f"Run it:     cd {folder} && uv run {_job(new, overrides)}")
    typer.echo(f"Test it:    cd {folder} && uv run pytest")
    typer.echo(f"Update it:  vec-new update {folder}")


@app.command()
def update(name: Annotated[str, typer.Argument(help="package/template, or the folder of a copy")]) -> None:
    """Bring what has changed in the source of a copy into it. What was changed in the copy stays."""
    with _errors():
        from vec_new import copies

        folder = Path(os.path.abspath(Path(name).expanduser()))
        if not folder.exists() and re.fullmatch(r"\w+/\w+", name):
            folder = checkout.folder(checkout.find(Path.cwd()), Name.parse(name))
        done = copies.update(folder)
        for file in done.changed:
            typer.echo(f"{'conflict' if file in done.conflicts else 'changed':9} {file}")
        if done.conflicts:
            raise UserError(
                f"{done.source} and {name} have changed the same lines: choose between the marks <<<<<<< and >>>>>>>, "
                "test it, and commit."
            )
    typer.echo("Test it, and commit." if done.changed else f"Nothing has changed in {done.source} since.")


def _make_in(root: Path, folder: Path, kind: str, old: Name, new: Name) -> str:
    """A copy inside of its own source, which it therefore knows as `.`; returns the commit that it is of."""
    from vec_new import copies

    commit = checkout.git(root, "rev-parse", "HEAD")
    with chdir(root):
        copies.make(".", commit, folder, _answers(kind, old, new, checkout.smallest(root, old)))
    return commit


def _answers(kind: str, old: Name, new: Name, smallest: str) -> dict[str, str]:
    return {
        "kind": kind, "source": str(old), "package": new.package, "template": new.template, "smallest": smallest,
    }  # fmt: skip


@contextmanager
def _repository(given: str | None) -> Generator[tuple[Path, str]]:
    """(a checkout to look into, what a copy writes down as its source)."""
    if given is None or Path(given).expanduser().is_dir():
        root = checkout.find(Path(given).expanduser().absolute() if given else Path.cwd())
        yield root, str(root)
        return
    with tempfile.TemporaryDirectory() as temporary:
        checkout.git(Path(temporary), "clone", "--quiet", "--depth=1", given, "templates")
        address = given if given.endswith(".git") else f"git+{given}"  # how copier is told that it is git's
        yield checkout.find(Path(temporary) / "templates"), address


def _wheels(folder: Path, package: str) -> list[Path]:
    found = sorted(folder.expanduser().glob(f"{package}-*.whl"))
    if not found:
        raise UserError(
            f"--wheels {folder}: there is no {package}-*.whl. In a checkout: "
            f"uv build --wheel --package {package} --out-dir {folder}"
        )
    return found


def _job(name: Name, overrides: str) -> str:
    extra = "--extra embedded " if "assets=embedded" in overrides else ""
    return f"{extra}{name.package}-launch {name.template} compute=local {overrides}"


def _say_made(folder: Path, old: Name, commit: str) -> None:
    typer.echo(f"{folder}: a copy of {old} at {commit[:10]}")


@contextmanager
def _errors() -> Generator[None]:
    """One line for the user, exit code 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        typer.echo(f"Error: vec-new needs {error.name}: install common[new], or use a plain uv sync.", err=True)
        raise typer.Exit(1) from None
    except (UserError, OSError, subprocess.SubprocessError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
