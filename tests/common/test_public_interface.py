"""common follows semantic versioning: what a copied template calls stays as it is until the next major version."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from common.errors import UserError
from tools import interface

SOURCE = """
from dataclasses import dataclass
from typing import Protocol
from omegaconf import MISSING

__all__ = ["KINDS", "Log", "Options", "Part", "load"]

KINDS = ("hub", "local")

def load(path: str, strict: bool = True) -> int: ...

def helper() -> None: ...

class Log:
    def __init__(self, step: int) -> None:
        self.shown = step
    def write(self, step: int, **values: float) -> None: ...
    def _flush(self) -> None: ...

@dataclass
class Options:
    keep: int = 2
    name: str = MISSING

class Part(Protocol):
    def state(self) -> str: ...
"""


@pytest.fixture
def described(tmp_path: Path):
    """described(old, new, ...): the interface of a package `toy` whose source has these replacements."""

    def describe(*replacements: tuple[str, str]) -> list[str]:
        source = SOURCE
        for old, new in replacements:
            assert old in source
            source = source.replace(old, new)
        (tmp_path / "toy").mkdir(exist_ok=True)
        (tmp_path / "toy/__init__.py").write_text(source)
        return interface.describe(tmp_path, "toy")

    return describe


def test_interface_of_common_is_the_one_that_is_written_down() -> None:
    recorded = interface.FILE.read_text()
    present, version = interface.describe(interface.COMMON / "src"), interface.version(interface.COMMON)
    interface.refuse_broken(recorded, present, version)
    remedy = "uv run python -m tools.interface writes it down"
    assert interface.read(recorded) == (version, present), remedy


def test_everything_that_templates_import_from_common_is_in_the_interface() -> None:
    known = interface.names(interface.read(interface.FILE.read_text())[1])
    used: dict[str, str] = {}
    for path in interface.ROOT.glob("packages/*/src/**/*.py"):
        if interface.COMMON not in path.parents:
            used |= dict.fromkeys(_names_of_common(ast.parse(path.read_text())), str(path))
    assert "common.checkpoint.Checkpointer" in used
    assert {name: path for name, path in used.items() if name not in known} == {}


def _names_of_common(tree: ast.Module) -> set[str]:
    """`from common.config import require` and, of `from common import distributed`, each `distributed.mean`."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    modules = {alias.asname or alias.name for node in imports if node.module == "common" for alias in node.names}
    names = {f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    attributes = {
        f"common.{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    return {name for name in names if re.match(r"common\.\w+\.", name)} | attributes


def test_everything_in_the_readmes_first_table_is_in_the_interface() -> None:
    table = (interface.COMMON / "README.md").read_text().partition("## ")[0]
    known = interface.names(interface.read(interface.FILE.read_text())[1])
    everything = known | {name.rpartition(".")[0] for name in known}
    named = set(re.findall(r"`(common\.[\w.]+)`", table))
    assert "common.metrics.MetricsLog" in named
    assert named - everything == set()


def test_lines_are_what_stands_in_all_with_signatures_defaults_and_fields(described) -> None:
    assert described() == [
        "toy.KINDS = ('hub', 'local')",
        "class toy.Log",
        "def toy.Log.__init__(step: int) -> None",
        "toy.Log.shown",
        "def toy.Log.write(step: int, **values: float) -> None",
        "dataclass toy.Options",
        "toy.Options.keep: int = 2",
        "toy.Options.name: str = MISSING",
        "class toy.Part(Protocol)",
        "def toy.Part.state() -> str",
        "def toy.load(path: str, strict: bool = True) -> int",
    ]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('"Log", ', "", "gone: class toy.Log"),
        ("def write(", "def put(", "gone: def toy.Log.write(step: int, **values: float) -> None"),
        ("keep: int = 2", "kept: int = 2", "gone: toy.Options.keep: int = 2"),
        ("keep: int = 2", "keep: int = 3", "changed: toy.Options.keep: int = 2 -> toy.Options.keep: int = 3"),
        ("path: str, strict", "file: str, strict", "changed: def toy.load("),
        ("strict: bool = True", "strict: bool = False", "changed: def toy.load("),
        ("strict: bool = True", "strict: bool", "changed: def toy.load("),
        ("strict: bool = True", "strict: bool = True, *, how: str", "changed: def toy.load("),
        ("path: str, strict", "path: str, how: str, strict", "changed: def toy.load("),
        ("path: str, strict: bool = True", "path: str, how: int = 1, strict: bool = True", "changed: def toy.load("),
        (") -> int", ") -> str", "changed: def toy.load("),
        ("keep: int = 2", "keep: int = 2\n    more: int = MISSING", "asked for, without a default: toy.Options.more"),
        (
            "def state(self)",
            "def more(self): ...\n    def state(self)",
            "asked for, without a default: def toy.Part.more",
        ),
        ("class Log:", "class Log(Part):", "changed: class toy.Log -> class toy.Log(Part)"),
    ],
)
def test_break_needs_a_new_major_version(described, old: str, new: str, found: str) -> None:
    recorded = "\n".join(["common 1.4.0", *described()])
    present = described((old, new))
    with pytest.raises(UserError, match=re.escape(found)) as refusal:
        interface.refuse_broken(recorded, present, "1.5.0")
    assert "a new major version of common, or keep it" in str(refusal.value)
    interface.refuse_broken(recorded, present, "2.0.0")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("strict: bool = True", "strict: bool = True, how: str = 'r'"),
        ("strict: bool = True", "strict: bool = True, *, how: str = 'r'"),
        ("keep: int = 2", "keep: int = 2\n    more: int = 1"),
        ("def _flush", "def flush"),
        ('"load"]', '"helper", "load"]'),
        ("def helper() -> None: ...", ""),
    ],
)
def test_what_is_added_or_private_breaks_nothing(described, old: str, new: str) -> None:
    interface.refuse_broken("\n".join(["common 1.4.0", *described()]), described((old, new)), "1.4.1")
