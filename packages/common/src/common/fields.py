"""The fields of a configuration as tables, made from dataclasses (types, meanings) and YAML (values).

    python -m common.fields packages/*/README.md     # renews what stands between the two marks of each template

    <!-- fields of llm.sft -->
    ...
    <!-- end of fields -->

Nothing here imports torch: a schema does not.
"""

import dataclasses
import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from common.config import CONFIGS, Config, flatten

_MARKED = re.compile(r"(<!-- fields of (\S+) -->\n).*?(<!-- end of fields -->)", re.DOTALL)
_FIELD = re.compile(r"^    (\w+): ([^=#\n]+?)(?: = [^#\n]*?)?(?:  # (.*))?$", re.MULTILINE)
_COMMENT_ABOVE = re.compile(r"((?:^    # .*\n)+)^    (\w+): ", re.MULTILINE)  # as hydra-submitit-launcher writes it
_TAKEN_FROM = re.compile(r"`\"\$\{((?!hydra)[\w.]+)\}\"` \| .*$")
_HEAD = ["| field | type | value | meaning |", "|---|---|---|---|"]


def renew(text: str) -> str:
    """The text of a README with the tables as they are now."""
    return _MARKED.sub(lambda found: f"{found[1]}{table(found[2])}\n{found[3]}", text)


def table(template: str) -> str:
    """Markdown: every field that a template adds to those of all templates, with its value and meaning.

    Args:
        template: e.g. "llm.sft".
    """
    schema = importlib.import_module(f"{template}.schema")
    folder = Path(inspect.getfile(schema)).parent
    values = flatten(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))
    if (folder / "assets" / "hub.yaml").exists():
        chosen = flatten(OmegaConf.to_container(OmegaConf.load(folder / "assets" / "hub.yaml")))
        values |= {f"assets.{key}": value for key, value in chosen.items()}
    shared = {field.name for field in dataclasses.fields(Config)}
    own = [field for field in dataclasses.fields(schema.Config) if field.name not in shared]
    return "\n".join([*_HEAD, *(row for field in own for row in _rows(field.type, field.name, values))])


def shared_table() -> str:
    """Markdown: every field that all templates have, with its value in configs/ before a preset is chosen."""
    chosen = ("_global.yaml", "user.yaml", "requeue/on.yaml", "tracking/tensorboard.yaml")
    values: dict[str, Any] = {}
    for name in chosen:
        read = OmegaConf.to_container(OmegaConf.load(CONFIGS / name))
        group = "" if "/" not in name else f"{name.partition('/')[0]}."
        values |= flatten(read, group)
    return "\n".join([*_HEAD, *_rows(Config, "", values)])


def launcher_table(kind: Any) -> str:
    """Markdown: every field of `hydra.launcher`.

    Args:
        kind: the launcher's dataclass; it is not imported here, for Hydra imports it when it looks for its plugins.
    """
    values = flatten(OmegaConf.to_container(OmegaConf.load(CONFIGS / "_global.yaml")))
    rows = [row for row in _rows(kind, "hydra.launcher", values) if "launcher._target_" not in row]
    return "\n".join([*_HEAD, *(_TAKEN_FROM.sub(r"`${\1}` | see `\1` |", row) for row in rows)])


def _rows(kind: Any, prefix: str, values: dict[str, Any]) -> list[str]:
    written: dict[str, tuple[str, str]] = {}
    for base in reversed(kind.__mro__[:-1]):
        source = inspect.getsource(base)
        above = {name: _unwrapped(comment) for comment, name in _COMMENT_ABOVE.findall(source)}
        written |= {name: (kind, comment or above.get(name, "")) for name, kind, comment in _FIELD.findall(source)}
    rows: list[str] = []
    for field in dataclasses.fields(kind):
        key = f"{prefix}.{field.name}".removeprefix(".")
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            rows += _rows(field.type, key, values)
            continue
        type_name, comment = written[field.name]
        value = values.get(key, _default(field))
        cells = [f"`{key}`", type_name, f"`{json.dumps(value)}`", comment]
        rows.append(f"| {' | '.join(cell.replace('|', 'or') for cell in cells)} |")
    return rows


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _unwrapped(comment: str) -> str:
    """The paragraph of a comment that stands directly above a field."""
    lines = [line.strip().removeprefix("#").strip() for line in comment.splitlines()]
    return " ".join(lines)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")
