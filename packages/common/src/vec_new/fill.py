"""Bring the code of a template into a copy: what copier runs, in copier.yml, after it has written the blueprint.

    python -Pm vec_new.fill <checkout> template|package|project <source> <name>     # in the copy's folder

`<checkout>` is copier's clone of this repository, at the version that the copy is made of, or updated to. For an update
copier makes the copy of then and the copy of now in this way, and merges the difference.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

import tomlkit
from tomlkit.items import Array, Table

from vec_new.rename import LINE_LENGTH, Name, rename, shared_modules

WHEELS = "wheels"  # of a project: the folder with the wheels of `common` and of packages of templates


def fill(checkout: Path, kind: str, source: Name, name: Name) -> None:
    """Write the code, and for a package or a project its pyproject.toml, into the present folder."""
    package = checkout / "packages" / source.package
    code = package / "src" / source.package
    if not (code / source.template / "config.yaml").is_file():
        sys.exit(f"Error: {source} is no template any more, in {checkout}.")
    here = Path() if kind == "template" else Path("src") / name.package / name.template
    _copy(code / source.template, here, source, name, kind)
    if kind == "template":
        return
    launcher = re.sub(rf"\b{source.package}\b", name.package, (code / "launch.py").read_text(encoding="utf-8"))
    here.with_name("launch.py").write_text(launcher, encoding="utf-8")
    shared = shared_modules(code, source.template)
    text = (package / "pyproject.toml").read_text(encoding="utf-8")
    Path("pyproject.toml").write_text(_pyproject(text, checkout, kind, source, name, bool(shared)), encoding="utf-8")
    if kind == "project":
        Path("configs").mkdir(exist_ok=True)
        shutil.copy(checkout / "configs" / "user.yaml", "configs")


def _copy(folder: Path, here: Path, source: Name, name: Name, kind: str) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_dir() or "__pycache__" in file.parts:
            continue
        target = here / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".py", ".yaml", ".md"):
            text = file.read_text(encoding="utf-8")
            target.write_text(rename(text, source, name, kind != "project"), encoding="utf-8")
        else:
            shutil.copy(file, target)
    _sort_imports(here, [name.package] if kind == "project" else ["common", source.package, name.package])


def _sort_imports(folder: Path, first_party: list[str]) -> None:
    """By the new names; without the settings of wherever the copy is, for each copy of a version must be the same."""
    ruff = [sys.executable, "-Pm", "ruff", "check", "--isolated", "--quiet", "--no-cache", "--select=I", "--fix"]
    options = [f"--line-length={LINE_LENGTH}", f"--config=lint.isort.known-first-party={first_party}"]
    subprocess.run([*ruff, *options, folder], check=True)


def _pyproject(text: str, checkout: Path, kind: str, source: Name, name: Name, shared: bool) -> str:
    """That of the source's package, under another name."""
    toml = tomlkit.parse(text)
    project = cast(Table, toml["project"])
    version = project["version"]
    project["name"] = name.package.replace("_", "-") if kind == "project" else name.package
    project["version"] = "0.1.0"
    project["description"] = f"Training templates: {name.template}."
    project["scripts"] = {f"{name.package}-launch": f"{name.package}.launch:main"}
    smallest = cast(Any, toml)["tool"]["vec"]["smallest"]
    for template in list(smallest):
        if template != source.template:
            del smallest[template]
    smallest[name.template] = smallest.pop(source.template)
    extras = cast(Table, project.get("optional-dependencies", {}))
    for extra in _in_conflict(checkout, source.package):
        extras.pop(extra, None)
    if kind == "project":
        del project["license"]  # that is for its owner to say
        needed = cast(Array, project["dependencies"])
        wheels = ["common"]
        if shared:
            needed.insert(1, f"{source.package}~={version}")
            wheels.append(source.package)
        _take_from_wheels(toml, wheels)
    return tomlkit.dumps(toml)


def _in_conflict(checkout: Path, package: str) -> list[str]:
    """Extras that the workspace locks apart from everything else: a copy cannot have them beside its other ones."""
    uv = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]
    members = [member for conflict in uv.get("conflicts", []) for member in conflict]
    return [member["extra"] for member in members if member.get("package") == package and "extra" in member]


def _take_from_wheels(toml: tomlkit.TOMLDocument, packages: list[str]) -> None:
    """Others own the name `common` on the public index: these packages come from the project's own folder, only."""
    index = tomlkit.table()
    index.update({"name": WHEELS, "url": WHEELS, "format": "flat", "explicit": True})
    tool = cast(Table, toml["tool"])
    tool["uv"] = {"index": tomlkit.aot(), "sources": {package: {"index": WHEELS} for package in packages}}
    cast(Any, tool)["uv"]["index"].append(index)
    toml["dependency-groups"] = {"dev": ["pytest>=8.3"]}


if __name__ == "__main__":
    fill(Path(sys.argv[1]), sys.argv[2], Name.parse(sys.argv[3]), Name.parse(sys.argv[4]))
