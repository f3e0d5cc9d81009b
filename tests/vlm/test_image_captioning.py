"""vlm.image_captioning with embedded assets: it learns, resumes exactly, and names what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Refused
from tests.events import shown
from vlm import embedded

TEMPLATE = "vlm.image_captioning"


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, list[str]]:
    """(a folder of images, overrides): the embedded model and 48 digits of each split, in folders."""
    model, data = tmp_path / "small_blip", tmp_path / "small_digits"
    for folder in (model, data):
        folder.mkdir()
    embedded.tiny_blip(model)
    embedded.digits(data)
    for split in ("train", "test"):
        lines = (data / split / "metadata.jsonl").read_text().splitlines(keepends=True)
        (data / split / "metadata.jsonl").write_text("".join(lines[:48]))
        for line in lines[48:]:
            (data / split / json.loads(line)["file_name"]).unlink()
    short = ["trainer.num_epochs=1", "trainer.batch_size=16", "trainer.workers=1"]
    return data, ["assets=local", f"assets.model={model}", f"assets.data={data}", *short]


@pytest.mark.learns
@pytest.mark.minutes(2)
def test_captions_of_held_out_digits_are_right(run: Callable[..., Path]) -> None:
    # seed 42 of the template; 0.95 measured, the gate of 0.85 leaves a margin
    out_dir = run(TEMPLATE, "assets=embedded")
    metrics = json.loads((out_dir / "result.json").read_text())["metrics"]
    assert metrics["eval_exact_match"] >= 0.85
    assert metrics["eval_bleu"] > 80
    assert (out_dir / "captions.png").read_bytes().startswith(b"\x89PNG")
    assert len(shown(out_dir).Images("eval/captions")) == 1


@pytest.mark.learns
@pytest.mark.minutes(3)
def test_stopped_at_random_steps_ends_as_the_uninterrupted_run(drill: Callable[..., None]) -> None:
    # two workers; stops in the middle of epochs of 23 steps, between logs, evaluations and saves
    often = ["trainer.num_epochs=4", "trainer.print_every=7", "trainer.save_steps=20", "trainer.eval_steps=30"]
    drill(TEMPLATE, "assets=embedded", "trainer.workers=2", *often)


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_a_truncated_image_is_named(why_it_failed: Callable[..., str], small: tuple[Path, list[str]]) -> None:
    data, overrides = small
    name = _truncate(data)
    reason = why_it_failed(TEMPLATE, *overrides)
    assert f"image 3 ({data}/train/{name}) cannot be read: " in reason
    assert "trainer.on_bad_image=skip" in reason


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_truncated_images_are_left_out_counted_and_logged(
    run: Callable[..., Path], small: tuple[Path, list[str]], tmp_path: Path
) -> None:
    data, overrides = small
    _truncate(data)
    out_dir = run(TEMPLATE, *overrides, "trainer.on_bad_image=skip")
    assert json.loads((out_dir / "result.json").read_text())["step"] == 3  # 47 images, 16 a step
    log = "".join(path.read_text() for path in (tmp_path / "vec_jobs" / "test").rglob("*.log"))
    assert "1 of 48 images of the train split cannot be read and are left out: rows 3" in log


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_without_an_evaluation_split_a_share_of_the_training_split_is_held_out(
    run: Callable[..., Path], small: tuple[Path, list[str]]
) -> None:
    _, overrides = small
    out_dir = run(TEMPLATE, *overrides, "assets.eval_split=null", "assets.eval_share=0.25")
    result = json.loads((out_dir / "result.json").read_text())
    assert result["step"] == 3  # 36 images
    assert "eval_exact_match" in result["metrics"]


def _truncate(data: Path) -> str:
    """Cuts the fourth image of the training split in half; returns its name."""
    name = json.loads((data / "train" / "metadata.jsonl").read_text().splitlines()[3])["file_name"]
    image = data / "train" / name
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    return name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["assets=hub"], "The model Salesforce/blip-image-captioning-base is not in the hub's cache. Fetch it with"),
        (["assets.caption_template=a photo"], "assets.caption_template=a photo has no {} for the class"),
        (["assets.eval_share=1"], "assets.eval_share must be in [0, 1), got 1"),
        (["trainer.on_bad_image=ignore"], "trainer.on_bad_image is one of fail, skip, not ignore"),
        (["trainer.workers=-1"], "trainer.workers must not be negative, got -1"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_queued(
    refused: Refused, overrides: list[str], message: str
) -> None:
    assert message in refused(TEMPLATE, "assets=embedded", *overrides)
