"""Runs of a template on this machine, as a user starts them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

LIMIT_S = 15 * 60  # for a run on loaded cores, not what it takes


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """launch(template, *overrides) -> the finished command."""

    def start(template: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"{template}.launch", "compute=local", "experiment_name=test"]
        return subprocess.run(
            [*command, f"paths.work_root={tmp_path}", *overrides], capture_output=True, text=True, timeout=LIMIT_S
        )

    return start


@pytest.fixture
def run(launch: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> Callable[..., Path]:
    """run(template, *overrides) -> its outputs folder."""

    def start(template: str, *overrides: str) -> Path:
        done = launch(template, *overrides)
        assert done.returncode == 0, done.stderr
        return tmp_path / "vec_jobs" / "test" / "0" / "outputs"

    return start


@pytest.fixture
def why_it_failed(launch: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> Callable[..., str]:
    """why_it_failed(template, *overrides) -> the reason that the ledger of its attempts gives."""

    def start(template: str, *overrides: str) -> str:
        done = launch(template, *overrides)
        assert done.returncode == 1, done.stdout + done.stderr
        ledger = (tmp_path / "vec_jobs" / "test" / "0" / "outputs" / "attempts.jsonl").read_text()
        return json.loads(ledger.splitlines()[-1])["reason"]

    return start


@pytest.fixture
def drill(tmp_path: Path) -> Callable[..., str]:
    """drill(template, *overrides) -> what `vec-jobs drill` printed, with stops of seed 1."""

    def start(template: str, *overrides: str, stops: int = 5) -> str:
        command = [str(Path(sys.executable).with_name("vec-jobs")), "drill", template.replace(".", "/")]
        options = ["--stops", str(stops), "--seed", "1", "--folder", str(tmp_path / "drill")]
        done = subprocess.run(
            [*command, *options, "compute=local", "assets=embedded", f"paths.work_root={tmp_path}", *overrides],
            capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return start


def exact_match_of(work_root: Path, model: str) -> float:
    """Of an embedded model, as the templates measure it, on the held-out prompts of `larger_number`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llm.answers import exact_match
    from llm.embedded import larger_number

    data, folder = work_root / "held_out", work_root / ".vec_assets" / f"llm.embedded.{model}"
    data.mkdir()
    larger_number(data)
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    return exact_match(
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        [row["prompt"] for row in rows],
        [row["completion"] for row in rows],
        batch_size=200,
        max_new_tokens=4,
    )


def unigram_loss(work_root: Path) -> float:
    """Cross entropy in nats of the held-out articles under the frequencies of tokens in the others, one added to each:
    what a model reaches that does not look at the context."""
    from transformers import AutoTokenizer

    made = work_root / ".vec_assets"
    tokenizer = AutoTokenizer.from_pretrained(made / "llm.embedded.bbc_llama")
    counts: dict[str, Counter[int]] = {}
    for split in ("train", "test"):
        rows = (made / "llm.embedded.bbc_news" / f"{split}.jsonl").read_text().splitlines()
        texts = [json.loads(row)["text"] for row in rows]
        counts[split] = Counter(token for ids in tokenizer(texts)["input_ids"] for token in ids)
    total = counts["train"].total() + len(tokenizer)
    nats = sum(n * -math.log((counts["train"][token] + 1) / total) for token, n in counts["test"].items())
    return nats / counts["test"].total()
