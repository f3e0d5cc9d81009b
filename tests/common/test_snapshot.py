"""What a job imports is what was there when it was submitted (the environment: tests/slurm/test_submission.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import snapshot
from common.errors import UserError


def imported_from(python: str, env: dict[str, str], module: str, cwd: Path) -> str:
    code = f"import {module}; print({module}.__file__)"
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, env=os.environ | env, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_snapshot_holds_a_package_and_what_it_needs_and_no_other(tmp_path: Path) -> None:
    digest = snapshot.take("mlp", tmp_path)
    assert digest is not None
    code = tmp_path / "code" / digest
    assert {path.name for path in code.iterdir()} == {"common", "hydra_plugins", "vec_jobs", "vec_new", "mlp"}
    assert (code / "common" / "configs" / "_global.yaml").is_file()  # a symbolic link out of the package: its target
    assert not list(code.rglob("__pycache__"))


def test_a_job_imports_the_snapshot_before_the_checkout(tmp_path: Path) -> None:
    digest = snapshot.take("mlp", tmp_path)
    assert digest is not None
    line = snapshot.setup_line(tmp_path, digest).removeprefix("export ")
    shown = subprocess.run(["sh", "-c", f"{line}; echo $PYTHONPATH"], capture_output=True, text=True, env={})
    path = {"PYTHONPATH": shown.stdout.strip()}
    assert imported_from(sys.executable, path, "mlp.single.schema", tmp_path).startswith(f"{tmp_path}/code/{digest}/")


def test_the_same_code_is_kept_once_and_other_code_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "src"
    (source / "mine").mkdir(parents=True)
    module = source / "mine" / "train.py"
    module.write_text("A = 1\n")
    monkeypatch.setattr(snapshot, "sources", lambda package: [source])  # pyright: ignore
    first = snapshot.take("mine", tmp_path)
    assert snapshot.take("mine", tmp_path) == first
    module.write_text("A = 2\n")
    second = snapshot.take("mine", tmp_path)
    assert second != first
    assert sorted(path.name for path in (tmp_path / "code").iterdir()) == sorted([str(first), str(second)])
    assert (tmp_path / "code" / str(first) / "mine" / "train.py").read_text() == "A = 1\n"


def test_data_among_the_code_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "src"
    source.mkdir()
    with (source / "weights.bin").open("wb") as file:
        file.truncate(101 * 2**20)
    monkeypatch.setattr(snapshot, "sources", lambda package: [source])  # pyright: ignore
    with pytest.raises(UserError, match=r"The code holds 101 MiB.*first .*src/weights.bin \(101 MiB\)"):
        snapshot.take("mine", tmp_path)
    assert not (tmp_path / "code").exists()
    # what is not copied does not count either: Python renames files there while another process looks
    (source / "__pycache__").mkdir()
    (source / "weights.bin").rename(source / "__pycache__" / "weights.bin")
    assert snapshot.take("mine", tmp_path) is not None
