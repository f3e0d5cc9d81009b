"""llm.dpo with embedded assets: it learns what is preferred, keeps what it knew, and resumes exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Refused
from tests.llm.conftest import exact_match_of

TEMPLATE = "llm.dpo"


@pytest.mark.learns
@pytest.mark.minutes(2)
def test_learns_the_preference_and_keeps_the_exact_match_of_its_start(run: Callable[..., Path], tmp_path: Path) -> None:
    # seed 42 of the template; 0.96 measured, from 0 (the model is its own reference), the gate of 0.90 leaves a margin
    out_dir = run(TEMPLATE, "assets=embedded")
    metrics = json.loads((out_dir / "result.json").read_text())["metrics"]
    assert metrics["eval_preference_accuracy"] >= 0.90
    assert metrics["eval_exact_match"] == pytest.approx(exact_match_of(tmp_path, "number_llama"), abs=0.05)


@pytest.mark.learns
@pytest.mark.minutes(3)
def test_stopped_at_random_steps_ends_as_the_uninterrupted_run(drill: Callable[..., None]) -> None:
    # two backward passes a step: signals come between them, too; logged, saved and evaluated at different steps
    steps = ["trainer.accumulation=2", "trainer.batch_size=32"]
    often = ["trainer.logging_steps=7", "trainer.save_steps=20", "trainer.eval_steps=30"]
    drill(TEMPLATE, "assets=embedded", *steps, *often)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["assets=hub"], "The model HuggingFaceTB/SmolLM2-135M-Instruct is not in the hub's cache. Fetch it with"),
        (["assets=embedded", "trainer.beta=0"], "trainer.beta must be positive, got 0"),
        (["assets=embedded", "trainer.accumulation=0"], "trainer.accumulation must be at least 1, got 0"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_queued(
    refused: Refused, overrides: list[str], message: str
) -> None:
    assert message in refused(TEMPLATE, *overrides)
