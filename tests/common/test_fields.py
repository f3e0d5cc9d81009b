"""The tables of fields in the READMEs."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.fields import renew, table

READMES = sorted(Path(__file__).parents[2].glob("packages/*/README.md"))


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_the_tables_are_those_of_the_present_fields(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    assert renew(text) == text, "run `make docs`"


def test_a_table_has_types_values_and_meanings_of_inherited_fields_too() -> None:
    rows = table("llm.dpo").splitlines()
    assert "| `trainer.lora.rank` | int | `0` | 0: all parameters are trained |" in rows
    assert '| `assets.train_split` | str | `"train"` |  |' in rows
    assert any(row.startswith("| `trainer.beta` | float | `0.1` | how much a distance") for row in rows)
    assert not any("paths." in row or "compute." in row for row in rows)
