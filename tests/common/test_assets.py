"""Models and data: copied to the node's own disk, and what their files say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common import assets
from common.errors import UserError


@pytest.fixture
def wanted(tmp_path: Path) -> assets.Assets:
    model, data = tmp_path / "blobs" / "model", tmp_path / "data"
    model.mkdir(parents=True)
    data.mkdir()
    (model / "config.json").write_text('{"max_position_embeddings": 512}')
    (model / "model.safetensors").write_bytes(b"weights")
    (data / "train.jsonl").write_text('{"text": "a"}\n')
    linked = tmp_path / "snapshot"  # as in the hub's cache
    linked.mkdir()
    for file in model.iterdir():
        (linked / file.name).symlink_to(file)
    return assets.Assets(kind="local", model=str(linked), data=str(data), stage=True)


def test_staged_folders_are_whole_copies_on_the_disk_of_the_node(
    wanted: assets.Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "node"
    disk.mkdir()
    monkeypatch.setenv("SLURM_TMPDIR", str(disk))
    monkeypatch.setenv("VEC_JOB_ID", "7_0")
    config: Any = SimpleNamespace()
    for _ in range(2):  # an attempt after one that was killed finds its copy
        folders = assets.locate(config, wanted, "none")
        assert folders.model.is_relative_to(disk)
        assert folders.data.is_relative_to(disk)
    shutil.rmtree(tmp_path / "blobs")
    assert (folders.model / "model.safetensors").read_bytes() == b"weights"
    assert (folders.data / "train.jsonl").read_text() == '{"text": "a"}\n'


def test_staging_what_does_not_fit_is_refused_and_leaves_nothing(
    wanted: assets.Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "node"
    disk.mkdir()
    with (Path(wanted.data) / "large.jsonl").open("wb") as large:
        large.truncate(2**43)  # sparse: 8 TiB that take no space
    monkeypatch.setenv("SLURM_TMPDIR", str(disk))
    config: Any = SimpleNamespace()
    with pytest.raises(UserError, match=r"model and data have 8192\.0 GiB, but .*node on .* has .* free"):
        assets.locate(config, wanted, "none")
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "tokenizer", "limit"),
    [
        ({"max_position_embeddings": 514}, {"model_max_length": 512}, 512),  # RoBERTa
        ({"n_positions": 1024}, None, 1024),  # GPT-2
        ({"text_config": {"max_position_embeddings": 8192}}, {"model_max_length": 1e30}, 8192),
        ({}, None, None),
    ],
)
def test_how_many_tokens_a_model_reads(
    tmp_path: Path, config: dict[str, Any], tokenizer: dict[str, Any] | None, limit: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if tokenizer is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert assets.context_length(tmp_path) == limit
