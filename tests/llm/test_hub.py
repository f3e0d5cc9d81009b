"""assets=hub: fetched at submission from a hub on this machine, then read from the cache without asking the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm import embedded

from .hub import GATED, hub

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def repositories(tmp_path: Path) -> dict[str, Path]:
    model, data = tmp_path / "repositories" / "model", tmp_path / "repositories" / "data"
    for folder in (model, data):
        folder.mkdir(parents=True)
    embedded.tiny_llama(model)
    rows = [json.dumps({"prompt": f"{n},10=", "completion": str(n)}) + "\n" for n in range(10, 90)]
    for split in ("train", "test"):
        (data / f"{split}.jsonl").write_text("".join(rows))
    return {"models/me/tiny": model, "datasets/me/numbers": data}


@pytest.fixture
def sft(tmp_path: Path) -> Command:
    """sft(address, *overrides): llm.sft with the hub at that address and an empty cache of its own."""

    def launch(address: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llm.sft.launch", "compute=local", "assets=hub", f"paths.work_root={tmp_path}"]
        short = ["trainer.max_length=16", "trainer.accumulation=1", "trainer.batch_size=32", "assets.data=me/numbers"]
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1"}
        return subprocess.run([*command, *short, *overrides], env=env, capture_output=True, text=True, timeout=600)

    return launch


@pytest.mark.learns
@pytest.mark.minutes(2)
def test_what_is_fetched_at_submission_is_there_without_a_network(
    repositories: dict[str, Path], sft: Command, tmp_path: Path
) -> None:
    with hub(repositories) as address:
        fetched = sft(address, "assets.model=me/tiny", "assets.prefetch=true", "experiment_name=fetched")
        assert fetched.returncode == 0, fetched.stderr
    cached = sft(address, "assets.model=me/tiny", "experiment_name=cached")  # the hub is gone
    assert cached.returncode == 0, cached.stderr
    results = [json.loads((tmp_path / "vec_jobs" / name / "0" / "outputs" / "result.json").read_text())
               for name in ("fetched", "cached")]  # fmt: skip
    assert results[0]["parameters_sha256"] == results[1]["parameters_sha256"]


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("me/tiny", [], "The model me/tiny is not in the hub's cache. Fetch it with assets.prefetch=true"),
        ("me/nothing", ["assets.prefetch=true"], "The hub has no model me/nothing; if it is private: `hf auth login`"),
        (GATED, ["assets.prefetch=true"], "The model gated/model is gated: accept its terms on the hub, then"),
        ("me/tiny", ["assets.prefetch=true", "trainer.max_length=65"], "but the model reads 64 tokens at most"),
    ],
)
def test_what_the_hub_does_not_give_is_told_before_anything_is_queued(
    repositories: dict[str, Path], sft: Command, tmp_path: Path, model: str, more: list[str], message: str
) -> None:
    with hub(repositories) as address:
        done = sft(address, f"assets.model={model}", *more)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "vec_jobs").exists()


def test_a_hub_that_does_not_answer_is_told_in_one_line(sft: Command, tmp_path: Path) -> None:
    done = sft("http://127.0.0.1:9", "assets.model=me/tiny", "assets.prefetch=true")
    assert done.returncode == 1
    assert "The hub does not answer for the model me/tiny: " in done.stderr
    assert not (tmp_path / "vec_jobs").exists()
