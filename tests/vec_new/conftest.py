"""A clone of this repository as it is now, to make copies in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import Answer

ROOT = Path(__file__).parents[2]


SOMEBODY = {f"GIT_{role}_{what}": "alice@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(folder: Path, *words: str, text: str | None = None) -> str:
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, input=text, env=os.environ | SOMEBODY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit_all(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "a step of a test")


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit needs a name."""
    for name, value in SOMEBODY.items():
        monkeypatch.setenv(name, value)


def clone_to(folder: Path) -> Path:
    """With what is not committed yet, so that a test sees the code at hand."""
    git(folder.parent, "clone", "--quiet", str(ROOT), str(folder))
    changes = git(ROOT, "diff", "--binary", "HEAD")
    if changes:
        git(folder, "apply", "--index", text=changes)
    commit_all(folder)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return clone_to(tmp_path / "clone")


VecNew = Callable[..., Answer]


@pytest.fixture
def vec_new(monkeypatch: pytest.MonkeyPatch) -> VecNew:
    """`vec_new(folder, "template", ...)`: the command in this folder."""

    def run(folder: Path, *words: str) -> Answer:
        from vec_new.cli import app

        monkeypatch.chdir(folder)
        done = CliRunner().invoke(app, list(words))
        return Answer(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def made(vec_new: VecNew) -> Callable[..., str]:
    """`made(folder, "template", ...)`: what it says; it has worked."""

    def run(folder: Path, *words: str) -> str:
        answer = vec_new(folder, *words)
        assert answer.code == 0, answer.err
        return answer.out

    return run
