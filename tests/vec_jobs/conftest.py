"""`vec-jobs` in this process, beside a Slurm that only answers."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.vec_jobs.written import FakeSlurm, fake_slurm, somebody_else
from vec_jobs.cli import app

Ask = Callable[..., Result]
Rows = Callable[..., Any]


@pytest.fixture
def jobs_dir(work_root: Path) -> Path:
    """Where the sweeps are."""
    return work_root / "vec_jobs"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = fake_slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake.env()["PATH"])
    return fake


@pytest.fixture
def ask(work_root: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`ask("status", "two")`: its exit code and what it says."""
    monkeypatch.setenv("VEC_WORK_ROOT", str(work_root))
    return lambda *words, **facts: CliRunner().invoke(app, list(words), **facts)


@pytest.fixture
def rows(ask: Ask) -> Rows:
    """The same with --json, read."""

    def run(*words: str) -> Any:
        answer = ask(*words, "--json")
        assert answer.exit_code == 0, answer.output
        return json.loads(answer.stdout)

    return run


@pytest.fixture
def ask_as_another_user(ask: Ask, tmp_path: Path) -> Ask:
    """`ask`, as a user who may read the test's folder."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)

    def run(*words: str) -> Result:
        with somebody_else():
            return ask(*words)

    return run
