"""The names of a template in its code, and what a copy of it is called instead."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

LINE_LENGTH = 120  # as in pyproject.toml


@dataclass(frozen=True)
class Name:
    """`mlp/single`: a template and the package that it is in."""

    package: str
    template: str

    @classmethod
    def parse(cls, text: str) -> "Name":
        """
        Raises:
            ValueError: the text is not two words with a slash between them.
        """
        package, template = text.split("/")
        return cls(package, template)

    def __str__(self) -> str:
        return f"{self.package}/{self.template}"


def rename(text: str, old: Name, new: Name, workspace: bool = True) -> str:
    """Module, path and command of `old` become those of `new`; other names stay.

    Args:
        workspace: the copy is a member of a uv workspace, so that its commands say `--package`.
    """
    option = f" --package {new.package}" if workspace else ""
    text = re.sub(rf"\b{old.package}([./]){old.template}\b", rf"{new.package}\1{new.template}", text)
    text = re.sub(rf"\buv run --package {old.package}\b", f"uv run{option}", text)
    text = re.sub(rf"\b{old.package}-launch\b", f"{new.package}-launch", text)
    text = re.sub(rf"\b{new.package}-launch {old.template}\b", f"{new.package}-launch {new.template}", text)
    return "\n".join(_broken(line) for line in text.split("\n"))


def _broken(line: str) -> str:
    """A line of a docstring that its new names have made too long, on two lines; code is ruff's to break."""
    if len(line) <= LINE_LENGTH:
        return line
    if line.startswith("uv run ") and " compute=" in line:
        return line.replace(" compute=", " \\\\\n    compute=", 1)
    return "\n".join(line[:LINE_LENGTH].rsplit(" ", 1)) + line[LINE_LENGTH:] if line.startswith('"""') else line


def shared_modules(package: Path, template: str) -> set[str]:
    """The modules of its package outside of its own folder that a template needs, as `llm.schema`.

    Both imports and names in strings count: `EMBEDDED = "rl.embedded"` is imported by that name.

    Args:
        package: the folder `packages/llm/src/llm`.
    """
    found: set[str] = set()
    for file in (package / template).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return {name for name in found if _is_module(package, name)}


def _is_module(package: Path, name: str) -> bool:
    first, _, rest = name.partition(".")
    return first == package.name and rest.isidentifier() and (package / f"{rest}.py").is_file()
