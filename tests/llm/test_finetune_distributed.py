"""llm.finetune_distributed: it learns, is really sharded, resumes exactly on as many processes and on fewer, loses no
token, and refuses what cannot fit."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from common.paths import read_lines
from llm import embedded
from tests.conftest import Cli, Compose, Refused
from tests.events import shown
from tests.llm.conftest import unigram_loss

TEMPLATE = "llm.finetune_distributed"
SHORT = ["trainer.max_steps=24", "trainer.batch_size=4", "trainer.eval_batch_size=16"]
OFTEN = ["trainer.logging_steps=7", "trainer.save_steps=12", "trainer.eval_steps=20"]


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """Overrides: the embedded model, and 130 of the articles, in folders."""
    model, data = tmp_path / "small_llama", tmp_path / "small_news"
    for folder in (model, data):
        folder.mkdir()
    embedded.bbc_llama(model)
    texts = [text for text, _ in embedded.bbc_articles()]
    for split, rows in (("train", texts[:100]), ("test", texts[100:130])):
        (data / f"{split}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    fast = ["trainer.block_size=64", "trainer.learning_rate=3e-3", "trainer.warmup_steps=4", "trainer.accumulation=2"]
    return ["assets=local", f"assets.model={model}", f"assets.data={data}", *fast, *SHORT, *OFTEN]


@pytest.mark.learns
@pytest.mark.minutes(2)
def test_learns_more_than_the_frequencies_of_tokens(run: Callable[..., Path], tmp_path: Path) -> None:
    # seed 42 of the template; 4.80 measured, against 6.06
    out_dir = run(TEMPLATE, "assets=embedded", "trainer.dist.mode=single", "trainer.eval_steps=300")
    metrics = json.loads((out_dir / "result.json").read_text())["metrics"]
    assert metrics["eval_loss"] < unigram_loss(tmp_path) - 0.5
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]))

    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(out_dir / "model")


@pytest.mark.learns
@pytest.mark.minutes(4)
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_ranks_stopped_at_random_steps_end_as_the_uninterrupted_run(
    drill: Callable[..., None], small: list[str], mode: str
) -> None:
    drill(TEMPLATE, *small, f"trainer.dist.mode={mode}", "compute.tasks_per_node=2")


@pytest.mark.learns
@pytest.mark.minutes(2)
def test_two_sharded_ranks_go_on_as_one(run: Callable[..., Path], small: list[str], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    one = ["trainer.dist.mode=single", "trainer.accumulation=4"]  # as many rows a step
    two = run(TEMPLATE, *small, "trainer.dist.mode=fsdp", "compute.tasks_per_node=2")
    whole = load_file(two / "model" / "model.safetensors")

    halves = list((two / "checkpoint-12" / "shards").glob("*.distcp"))
    sizes = [half.stat().st_size for half in halves]
    held = 3 * sum(tensor.numel() * 4 for tensor in whole.values())  # the model and AdamW's two moments, once
    assert len(halves) == 2
    assert max(sizes) < 0.6 * held  # each holds its share; as DDP they would hold everything
    assert held < sum(sizes) < 1.1 * held

    kept = tmp_path / "vec_jobs" / "one" / "0" / "outputs"
    shutil.copytree(two, kept)  # as if it had been killed after step 12
    for name in ("checkpoint-24", "model"):
        shutil.rmtree(kept / name)
    allowed = "requeue.allow_changes=[trainer.dist.mode,trainer.accumulation]"
    run(TEMPLATE, *small, *one, allowed, "experiment_name=one")
    resumed = load_file(kept / "model" / "model.safetensors")
    assert [e["step"] for e in read_lines(kept / "attempts.jsonl") if e["event"] == "resume"] == [0, 12]
    assert max(float((whole[name] - resumed[name]).abs().max()) for name in whole) < 1e-6

    losses = shown(kept).Scalars("train/loss")
    assert [event.step for event in losses] == [7, 14, 21]  # 14 and 21 of the second attempt alone


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_stopped_after_its_last_step_takes_no_step_more(
    run: Callable[..., Path], small: list[str], tmp_path: Path
) -> None:
    one = run(TEMPLATE, *small, "trainer.dist.mode=single")
    kept = tmp_path / "vec_jobs" / "again" / "0" / "outputs"
    shutil.copytree(one, kept)
    (kept / "result.json").unlink()  # as if it had been stopped behind step 24, in the midst of an epoch
    run(TEMPLATE, *small, "trainer.dist.mode=single", "experiment_name=again")
    assert [e["step"] for e in read_lines(kept / "attempts.jsonl") if e["event"] == "resume"] == [0, 24]
    first, again = (json.loads((folder / "result.json").read_text()) for folder in (one, kept))
    for name in ("step", "metrics", "parameters_sha256"):
        assert again[name] == first[name]
    assert len(read_lines(kept / "metrics.jsonl")) == len(read_lines(one / "metrics.jsonl"))


def test_packing_loses_no_token_and_fills_only_the_last_row() -> None:
    from datasets import Dataset

    from llm.finetune_distributed.train import pack

    documents = [[*range(n, n + 7), 0] for n in range(1, 2500)]  # more than one batch of the reader
    rows = list(pack(Dataset.from_dict({"input_ids": documents}), 12))
    assert all(len(row["input_ids"]) == len(row["labels"]) == 12 for row in rows)
    assert [label for row in rows for label in row["labels"] if label != -100] == [t for d in documents for t in d]
    assert all(row["input_ids"] == row["labels"] for row in rows[:-1])


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_a_split_shorter_than_a_row_is_refused(
    why_it_failed: Callable[..., str], small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "small_news" / "test.jsonl").write_text('{"text": "too short"}\n')
    reason = why_it_failed(TEMPLATE, *small, "trainer.dist.mode=single")
    assert "trainer.block_size=64, but assets.eval_split of" in reason
    assert "tokens in all" in reason


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.dist.mode=fsdp"], "fsdp spreads a model over processes, but this preset starts one"),
        (["trainer.dist.mode=single", "compute.tasks_per_node=2"], "single, but the preset starts 2 processes"),
        (["trainer.dist.mode=zero3"], "trainer.dist.mode is one of single, ddp, fsdp, not zero3"),
        (["trainer.dist.fsdp_config.use_orig_params=true"], "FSDP2 shards parameter by parameter"),
        (["trainer.train.learning_rate=1"], "is not known here: write trainer.batch_size"),
        (["assets=hub"], "The model EleutherAI/pythia-1b is not in the hub's cache. Fetch it with"),
        (["trainer.max_steps=0"], "trainer.max_steps must be at least 1 or null, got 0"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_queued(
    refused: Refused, overrides: list[str], message: str
) -> None:
    assert message in refused(TEMPLATE, "assets=embedded", *overrides)


def model_of(folder: Path, billions: float) -> Path:
    """A folder as a model of that size has it, but for the numbers in it: a header says how many there are."""
    hidden, vocabulary = 4096, 50_000
    folder.mkdir()
    sizes = {"hidden_size": hidden, "num_hidden_layers": 32, "vocab_size": vocabulary, "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(sizes))
    shape = [int(billions * 1e9) // hidden, hidden]
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}, "__metadata__": {}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


@pytest.mark.parametrize(
    ("preset", "billions", "more", "message"),
    [
        ("killarney/l40s_4x", 7, [], "This would fit: trainer.dist.mode=fsdp"),
        ("killarney/l40s_1x", 1, ["trainer.batch_size=64"], "This would fit: trainer.dist.mode=ddp "),
        ("killarney/l40s_1x", 70, [], "Take more GPUs, or a smaller trainer.block_size"),
    ],
)
def test_a_run_that_cannot_fit_is_refused_with_what_would(
    tmp_path: Path, cli: Cli, work_root: Path, preset: str, billions: float, more: list[str], message: str
) -> None:
    model, data = model_of(tmp_path / "mine", billions), tmp_path / "data"
    data.mkdir()
    folders = ["assets=local", f"assets.model={model}", f"assets.data={data}", f"paths.work_root={work_root}"]
    answer = cli(f"compute={preset}", *folders, *more, template=TEMPLATE)
    assert answer.code == 1
    assert f"{model} ({billions:.2f} billion parameters) needs about" in answer.err
    assert message in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert list(work_root.iterdir()) == []


@pytest.mark.parametrize(
    ("preset", "billions"),
    [
        ("killarney/h100_8x_2n", 7),
        ("bon_echo/a100_4x", 70),  # A100 of 40 or of 80 GB: not known, so not refused
    ],
)
def test_a_run_that_may_fit_is_not_refused(
    tmp_path: Path, composed: Compose, work_root: Path, preset: str, billions: float
) -> None:
    model, data = model_of(tmp_path / "mine", billions), tmp_path / "data"
    data.mkdir()
    folders = ["assets=local", f"assets.model={model}", f"assets.data={data}", f"paths.work_root={work_root}"]
    (run,) = composed(f"compute={preset}", *folders, "trainer.dist.mode=fsdp", template=TEMPLATE)
    assert run.cfg.trainer.dist.mode == "fsdp"


def test_the_estimate_is_a_table_of_the_alternatives(tmp_path: Path, cli: Cli, work_root: Path) -> None:
    model, data = model_of(tmp_path / "mine", 1), tmp_path / "data"
    data.mkdir()
    folders = ["assets=local", f"assets.model={model}", f"assets.data={data}", f"paths.work_root={work_root}"]
    answer = cli("--estimate", "compute=killarney/l40s_2x", *folders, template=TEMPLATE)
    assert answer.code == 0, answer.err
    header, *rows = answer.out.strip().splitlines()[1:]
    assert header.split() == ["ddp", "ddp", "+", "checkpointing", "fsdp", "fsdp", "+", "checkpointing"]
    table = {row.split()[0]: [float(value) for value in row.split()[1:]] for row in rows}
    ddp, _, fsdp, _ = table["parameters"]
    assert ddp == pytest.approx(1e9 * 4 / 2**30, abs=0.01)
    assert fsdp == pytest.approx(ddp / 2, abs=0.01)
    assert all(sum(column[:-1]) == pytest.approx(column[-1], abs=0.03) for column in zip(*table.values(), strict=True))
    assert list(work_root.iterdir()) == []
