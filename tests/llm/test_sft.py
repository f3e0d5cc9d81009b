"""llm.sft with embedded assets: it learns, resumes exactly, and tells mistakes before queueing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.embedded import tiny_llama
from tests.conftest import Refused
from tests.llm.conftest import exact_match_of

TEMPLATE = "llm.sft"


@pytest.mark.learns
@pytest.mark.minutes(2)
def test_raises_exact_match_of_held_out_prompts(run: Callable[..., Path], tmp_path: Path) -> None:
    # seed 42 of the template; 0.97 measured, the gate of 0.90 leaves a margin
    out_dir = run(TEMPLATE, "assets=embedded")
    assert json.loads((out_dir / "result.json").read_text())["metrics"]["eval_exact_match"] >= 0.90

    assert exact_match_of(tmp_path, "tiny_llama") < 0.1


@pytest.mark.learns
@pytest.mark.minutes(3)
def test_stopped_at_random_steps_ends_as_the_uninterrupted_run(drill: Callable[..., None]) -> None:
    # LoRA and packing here; the whole model is what test_dpo.py trains
    # two backward passes a step: signals come between them, too; logged, saved and evaluated at different steps
    steps = ["trainer.accumulation=2", "trainer.batch_size=32", "trainer.num_epochs=1"]
    often = ["trainer.logging_steps=7", "trainer.save_steps=20", "trainer.eval_steps=30"]
    drill(TEMPLATE, "assets=embedded", *steps, *often, "trainer.lora.rank=8", "trainer.packing=true")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["assets=hub"], "The model HuggingFaceTB/SmolLM2-135M-Instruct is not in the hub's cache. Fetch it with"),
        (["assets=local", "assets.model=m", "assets.data=d"], "assets.data=d: there is no such"),
        (["assets=embedded", "trainer.lora.rank=-1"], "trainer.lora.rank must not be negative, got -1"),
        (["assets=embedded", "trainer.warmup=100"], "trainer.warmup is a share of the steps in [0, 1), got 100"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_queued(
    refused: Refused, overrides: list[str], message: str
) -> None:
    assert message in refused(TEMPLATE, *overrides)


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_data_without_the_columns_is_refused_by_name(why_it_failed: Callable[..., str], tmp_path: Path) -> None:
    data, model = tmp_path / "mine", tmp_path / "model"
    for folder in (data, model):
        folder.mkdir()
    for split in ("train", "test"):
        (data / f"{split}.jsonl").write_text('{"question": "1", "answer": "2"}\n')
    tiny_llama(model)
    reason = why_it_failed(
        TEMPLATE, "assets=local", f"assets.model={model}", f"assets.data={data}", "trainer.max_length=16"
    )
    assert "has the columns question, answer: messages, or prompt and completion, or text are needed" in reason
