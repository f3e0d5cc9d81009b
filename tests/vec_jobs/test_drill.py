"""`vec-jobs drill`: on the templates as they are, and on one that forgets to save its optimizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mlp.single

SHORT = ["trainer.log_every=1", "trainer.hidden_dim=128"]


def drill(cwd: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("vec-jobs")), "drill", *arguments]
    clean = os.environ | {"USER": "alice"} | env
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=clean, cwd=cwd)


@pytest.mark.learns
@pytest.mark.parametrize(
    ("template", "signal", "more"),
    [
        ("mlp/single", "USR2", ["compute=local", "trainer.num_epochs=80"]),
        ("mlp/single", "KILL", ["compute=local", "trainer.num_epochs=80", "requeue.save_every_min=0.005"]),
        ("mlp/ddp", "TERM", ["compute=local", "compute.tasks_per_node=2", "trainer.num_epochs=40"]),
    ],
)
def test_a_stopped_run_of_a_template_ends_as_an_uninterrupted_one(
    tmp_path: Path, template: str, signal: str, more: list[str]
) -> None:
    done = drill(tmp_path, template, *more, *SHORT, "--stops", "2", "--seed", "1", "--signal", signal)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal: " in done.stdout
    assert "3 attempts, begun at the steps 0, " in done.stdout


@pytest.mark.learns
def test_a_template_that_forgets_its_optimizer_is_found_out(tmp_path: Path) -> None:
    copied = tmp_path / "mine" / "single"
    shutil.copytree(Path(mlp.single.__file__).parent, copied)
    (tmp_path / "mine" / "__init__.py").touch()
    for name in ("launch.py", "schema.py", "train.py", "config.yaml"):
        text = (copied / name).read_text().replace("mlp.single", "mine.single")
        (copied / name).write_text(text.replace("model=model, optimizer=optimizer)", "model=model)"))
    line = ["mine/single", "compute=local", "trainer.num_epochs=80", *SHORT, "--stops", "1"]
    done = drill(tmp_path, *line, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT equal: they first differ at step " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mlp.single", "compute=local"], "Error: mlp.single: name the template as package/template"),
        (
            ["mlp/single", "compute=local", "--signal", "HUP"],
            "Error: --signal is one of USR1, USR2, TERM, KILL, not HUP",
        ),
        (
            ["mlp/single", "compute=nope"],
            "Error: the straight run could not be submitted: compute=nope: no such preset",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = drill(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(message), done.stderr
    assert len(done.stderr.splitlines()) == 1
