"""The fields of templates as tables in a README, made from schema.py (types, meanings) and config.yaml (values).

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

from common.config import Config, flatten

_MARKED = re.compile(r"(<!-- fields of (\S+) -->\n).*?(<!-- end of fields -->)", re.DOTALL)
_FIELD = re.compile(r"^    (\w+): ([^=#\n]+?)(?: = [^#\n]*?)?(?:  # (.*))?$", re.MULTILINE)


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
    lines = ["| field | type | value | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(schema.Config):
        if field.name not in shared:
            lines += _rows(field.type, field.name, values)
    return "\n".join(lines)


def _rows(kind: Any, prefix: str, values: dict[str, Any]) -> list[str]:
    written: dict[str, tuple[str, str]] = {}
    for base in reversed(kind.__mro__[:-1]):
        written |= {name: (type_name, comment) for name, type_name, comment in _FIELD.findall(inspect.getsource(base))}
    rows: list[str] = []
    for field in dataclasses.fields(kind):
        key = f"{prefix}.{field.name}"
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            rows += _rows(field.type, key, values)
            continue
        type_name, comment = written[field.name]
        value = values.get(key, None if field.default is dataclasses.MISSING else field.default)
        cells = [f"`{key}`", type_name, f"`{json.dumps(value)}`", comment]
        rows.append(f"| {' | '.join(cell.replace('|', 'or') for cell in cells)} |")
    return rows


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")
