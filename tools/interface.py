"""The public interface of common: what stands in the `__all__` of its modules, one line per name, in a file.

    uv run python -m tools.interface   # renew packages/common/interface.txt; refuses to break what is written there

A template that was copied a year ago runs with today's common, as long as the major version is the same: no name of the
interface disappears, and no signature changes but for new parameters that have a default.
"""

import re
import sys
import tomllib
from pathlib import Path

import griffe

from common.errors import UserError

ROOT = Path(__file__).parents[1]
COMMON = ROOT / "packages/common"
FILE = COMMON / "interface.txt"
REMEDY = "a new major version of common, or keep it"


def describe(src: Path, package: str = "common") -> list[str]:
    """The public names of a package with their signatures, read without importing it.

    Args:
        src: the folder that holds the package.
    """
    lines: list[str] = []
    modules = [griffe.load(package, search_paths=[src], allow_inspection=False)]
    for module in modules:
        modules += [one for one in module.modules.values() if not one.is_alias]
        for name in module.exports or []:
            lines += _lines(module[str(name)])
    return sorted(lines, key=lambda line: _name(line))


def _lines(thing: griffe.Object) -> list[str]:
    """A function or value is a line; a class is one of its own and one for each public method and field."""
    if isinstance(thing, griffe.Class):
        constructor = thing.members.get("__init__")
        word = "dataclass" if "dataclass" in thing.labels else "class"
        made_from = f"({', '.join(map(str, thing.bases))})" if thing.bases else ""
        lines = [f"{word} {thing.path}{made_from}"]
        if word == "class" and isinstance(constructor, griffe.Function):
            lines.append(_signature(constructor))
        public = [member for name, member in thing.members.items() if not name.startswith("_")]
        return lines + [line for member in public for line in _lines(member)]  # pyright: ignore[reportArgumentType]
    if isinstance(thing, griffe.Function):
        return [_signature(thing)]
    assert isinstance(thing, griffe.Attribute)
    if "property" in thing.labels:
        return [f"property {thing.path}: {thing.annotation}"]
    kind = f": {thing.annotation}" if thing.annotation else ""
    set_in_init = thing.labels == {"instance-attribute"}
    default = f" = {thing.value}" if thing.value is not None and not set_in_init else ""
    return [f"{thing.path}{kind}{default}"]


def _signature(function: griffe.Function) -> str:
    return "def " + function.signature(name=function.path)


def _name(line: str) -> str:
    """`def common.launch.launch(...)` -> `common.launch.launch`"""
    found = re.match(r"(?:(?:def|class|dataclass|property) )?([\w.]+)", line)
    assert found, line
    return found[1]


def names(lines: list[str]) -> set[str]:
    """The dotted names of an interface, without signatures."""
    return {_name(line) for line in lines}


def broken(old: list[str], new: list[str]) -> list[str]:
    """What a user of `old` can no longer rely on in `new`, a sentence each."""
    was, now = ({_name(line): line for line in lines} for lines in (old, new))
    gone = [f"gone: {line}" for name, line in was.items() if name not in now]
    changed = [
        f"changed: {line} -> {now[name]}"
        for name, line in was.items()
        if name in now and now[name] != line and not _only_more_options(line, now[name])
    ]
    asked = [
        f"asked for, without a default: {line}"
        for name, line in now.items()
        if name not in was and _must_be_given(was.get(name.rpartition(".")[0], ""), line)
    ]
    return gone + changed + asked


def _only_more_options(old: str, new: str) -> bool:
    """Whether a signature has only got parameters more, each with a default, behind the others."""
    before, after = _parameters(old), _parameters(new)
    if not before or not after or old.rpartition(" -> ")[2] != new.rpartition(" -> ")[2]:
        return False
    by_name = {one.name: one for one in after}
    kept = all(by_name.get(one.name) == one for one in before)
    more = [one for one in after if one.name not in {one.name for one in before}]
    places, places_now = ([one.name for one in them if "positional" in str(one.kind)] for them in (before, after))
    return kept and all(not one.required for one in more) and places_now[: len(places)] == places


def _parameters(line: str) -> list[griffe.Parameter]:
    if not line.startswith("def "):
        return []
    source = "def f" + line.removeprefix("def ").removeprefix(_name(line)) + ": ..."
    function = griffe.visit("interface", Path("interface.py"), source)["f"]
    return list(function.parameters)


def _must_be_given(owner: str, line: str) -> bool:
    """Whether those fail who construct, configure or implement a class as it was, for it has got a new member."""
    without_default = " = " not in line or line.endswith(" = MISSING")
    is_field = line.startswith(_name(line))
    return "(Protocol)" in owner or (owner.startswith("dataclass ") and is_field and without_default)


def version(common: Path) -> str:
    """The version in its pyproject.toml."""
    return tomllib.loads((common / "pyproject.toml").read_text())["project"]["version"]


def read(text: str) -> tuple[str, list[str]]:
    """Version and lines of an interface.txt."""
    first, *lines = text.splitlines()
    return first.removeprefix("common "), lines


def refuse_broken(recorded: str, present: list[str], present_version: str) -> None:
    """Compare a recorded interface.txt with what is there now.

    Raises:
        UserError: something is gone or changed, and the major version is the same.
    """
    of_version, lines = read(recorded)
    found = broken(lines, present)
    if found and of_version.split(".")[0] == present_version.split(".")[0]:
        raise UserError(f"The interface of common {of_version} is broken: {REMEDY}.\n" + "\n".join(found))


def main() -> None:
    """Write interface.txt anew."""
    present, present_version = describe(COMMON / "src"), version(COMMON)
    try:
        if FILE.exists():
            refuse_broken(FILE.read_text(), present, present_version)
    except UserError as error:
        sys.exit(str(error))
    FILE.write_text("\n".join([f"common {present_version}", *present]) + "\n")


if __name__ == "__main__":
    main()
