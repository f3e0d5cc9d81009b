"""What the workspace has to know of a new template or package: lines in pyproject.toml, and a test."""

from pathlib import Path
from typing import Any, cast

import jinja2
import tomlkit
from tomlkit.items import Array

from vec_new.rename import Name


def add_smallest(root: Path, name: Name, overrides: str) -> None:
    """The smallest job of a new template, into the table of its package."""
    file = root / "packages" / name.package / "pyproject.toml"
    toml = cast(Any, tomlkit.parse(file.read_text(encoding="utf-8")))
    toml["tool"]["vec"]["smallest"][name.template] = overrides
    file.write_text(tomlkit.dumps(toml), encoding="utf-8")


def add_package(root: Path, name: Name, source: Name) -> None:
    """A new package, into every list of the workspace that the package of its source is in."""
    file = root / "pyproject.toml"
    toml = cast(Any, tomlkit.parse(file.read_text(encoding="utf-8")))
    tool = toml["tool"]
    own = cast(Any, tomlkit.parse((root / "packages" / name.package / "pyproject.toml").read_text(encoding="utf-8")))
    extras = [extra for extra in own["project"].get("optional-dependencies", {}) if extra != "wandb"]
    workspace = tomlkit.inline_table()
    workspace["workspace"] = True
    tool["uv"]["sources"].append(name.package, workspace)
    _append(toml["dependency-groups"]["dev"], name.package + (f"[{','.join(extras)}]" if extras else ""))
    _append(tool["ruff"]["lint"]["isort"]["known-first-party"], name.package)
    for key in ("include", "extraPaths"):
        _append(tool["basedpyright"][key], f"packages/{name.package}/src")
    _append(tool["importlinter"]["root_packages"], name.package)
    for contract in tool["importlinter"]["contracts"]:
        for names in contract.values():
            if isinstance(names, list) and source.package in names:
                _append(cast(Array, names), name.package)
    file.write_text(tomlkit.dumps(toml), encoding="utf-8")


def _append(values: Array, value: str) -> None:
    """On a line of its own where the others are."""
    if "\n" in values.as_string():
        values.add_line(value, indent="  ")
    else:
        values.append(value)


def test_file(root: Path, name: Name) -> Path:
    return root / "tests" / name.package / f"test_{name.template}.py"


def add_test(root: Path, name: Name, overrides: str) -> None:
    """A test that runs the smallest job; from now on it belongs to whoever copied."""
    file = test_file(root, name)
    file.parent.mkdir(exist_ok=True)
    (file.parent / "__init__.py").touch()
    blueprint = jinja2.Template(
        (root / "blueprints" / "test.py.jinja").read_text(encoding="utf-8"), keep_trailing_newline=True
    )
    text = blueprint.render(package=name.package, template=name.template, smallest=overrides)
    file.write_text(text, encoding="utf-8")
