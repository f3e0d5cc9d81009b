"""vlm.sft with embedded assets: it learns, resumes exactly, and tells mistakes before queueing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Refused
from vlm import embedded

TEMPLATE = "vlm.sft"


@pytest.mark.learns
@pytest.mark.minutes(2)
def test_answers_which_digit_an_image_shows(run: Callable[..., Path]) -> None:
    # seed 42 of the template; 0.98 measured
    out_dir = run(TEMPLATE, "assets=embedded")
    assert json.loads((out_dir / "result.json").read_text())["metrics"]["eval_exact_match"] >= 0.95


@pytest.mark.learns
@pytest.mark.minutes(4)
def test_stopped_at_random_steps_ends_as_the_uninterrupted_run(drill: Callable[..., None]) -> None:
    # LoRA, two backward passes a step, one worker; logged, saved and evaluated at different steps
    steps = ["trainer.accumulation=2", "trainer.batch_size=16", "trainer.num_epochs=2", "trainer.workers=1"]
    often = ["trainer.logging_steps=7", "trainer.save_steps=20", "trainer.eval_steps=30"]
    drill(TEMPLATE, "assets=embedded", *steps, *often, "trainer.lora.rank=8")


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_data_without_the_columns_is_refused_by_name(why_it_failed: Callable[..., str], tmp_path: Path) -> None:
    data, model = tmp_path / "mine", tmp_path / "model"
    for folder in (data, model):
        folder.mkdir()
    for split in ("train", "test"):
        (data / f"{split}.jsonl").write_text('{"prompt": "1", "answer": "2"}\n')
    embedded.tiny_idefics3(model)
    reason = why_it_failed(TEMPLATE, "assets=local", f"assets.model={model}", f"assets.data={data}")
    assert "has the columns prompt, answer: image or images, and messages, or prompt and completion, are" in reason


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["assets=hub"], "The model HuggingFaceTB/SmolVLM-256M-Instruct is not in the hub's cache. Fetch it with"),
        (["trainer.lora.rank=-1"], "trainer.lora.rank must not be negative, got -1"),
        (["assets.data=nothing"], "assets=embedded has no nothing: it has digits, tiny_blip, tiny_idefics3"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_queued(
    refused: Refused, overrides: list[str], message: str
) -> None:
    assert message in refused(TEMPLATE, "assets=embedded", *overrides)
