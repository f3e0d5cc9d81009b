"""vec-new package: a new member of the workspace that installs alone, runs, and passes what make check asks."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vec_new.conftest import commit_all, replace

pytestmark = pytest.mark.packaging

BIN = Path(sys.executable).parent


def run(folder: Path, *command: str | Path, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    done = subprocess.run(command, cwd=folder, env=clean | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.minutes(1)
def test_a_new_package_installs_alone_runs_and_passes_the_checks(
    clone: Path, tmp_path: Path, made: Callable[..., str]
) -> None:
    made(clone, "package", "audio")
    env = tmp_path / "env"
    run(clone, "uv", "sync", "--quiet", "--package", "audio", UV_PROJECT_ENVIRONMENT=str(env))
    installed = {path.name for path in env.glob("lib/python*/site-packages/*")}
    assert "torch" in installed
    assert not any(name.startswith(("mlp", "transformers", "copier")) for name in installed)

    job = ["single", "compute=inprocess", "trainer.num_epochs=1", "experiment_name=test"]
    run(clone, env / "bin" / "audio-launch", *job, f"paths.work_root={tmp_path}")
    assert (tmp_path / "vec_jobs/test/0/outputs/result.json").exists()
    assert "single" in run(clone, env / "bin" / "audio-launch")
    without = subprocess.run([env / "bin/vec-new", "package", "video"], cwd=clone, capture_output=True, text=True)
    assert (without.returncode, without.stdout) == (1, "")
    assert without.stderr == "Error: vec-new needs copier: install common[new], or use a plain uv sync.\n"

    sources = {"PYTHONPATH": str(clone / "packages/audio/src")}
    run(clone, BIN / "ruff", "check", ".")
    run(clone, BIN / "ruff", "format", "--check", ".")
    run(clone, BIN / "basedpyright", "--pythonpath", env / "bin/python", "packages/audio", **sources)
    run(clone, BIN / "lint-imports", "--no-cache", **sources)
    run(clone, sys.executable, "-m", "pytest", "-q", "tests/audio", "tests/common/test_smallest.py", **sources)


def test_import_directions_hold_for_a_new_package(clone: Path, made: Callable[..., str]) -> None:
    made(clone, "package", "audio")
    replace(clone / "packages/audio/src/audio/single/train.py", "import torch\n", "import submitit\nimport torch\n")
    sources = os.environ | {"PYTHONPATH": str(clone / "packages/audio/src")}
    lint = [BIN / "lint-imports", "--no-cache"]
    done = subprocess.run(lint, cwd=clone, env=sources, capture_output=True, text=True)
    assert done.returncode == 1
    assert "audio.single.train -> submitit" in done.stdout


def test_a_new_package_has_the_extras_of_its_source_but_for_those_locked_apart(
    clone: Path, made: Callable[..., str]
) -> None:
    made(clone, "package", "games", "--from", "rl/stable_baselines")
    project = tomllib.loads((clone / "packages/games/pyproject.toml").read_text())["project"]
    assert "contrib" in project["optional-dependencies"]
    assert "vllm" not in project["optional-dependencies"]  # conflicts with the dev group, see the root's pyproject.toml
    assert project["scripts"] == {"games-launch": "games.launch:main"}
    dev = tomllib.loads((clone / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    assert "games[embedded,contrib,box2d,mujoco,atari]" in dev


def test_an_update_brings_fixes_of_code_and_dependencies_into_a_package(clone: Path, made: Callable[..., str]) -> None:
    made(clone, "package", "audio", "--from", "mlp/ddp")
    toml = clone / "packages/audio/pyproject.toml"
    replace(toml, "Training templates: ddp.", "Spectrograms.")
    commit_all(clone)
    replace(
        clone / "packages/mlp/src/mlp/ddp/train.py", "torch.manual_seed(cfg.seed)", "torch.manual_seed(cfg.seed + 1)"
    )
    replace(clone / "packages/mlp/pyproject.toml", "torch>=2.6", "torch>=2.7")
    commit_all(clone)
    said = made(clone, "update", "packages/audio")
    assert said.splitlines() == ["changed   pyproject.toml", "changed   src/audio/ddp/train.py", "Test it, and commit."]
    assert "torch>=2.7" in toml.read_text()
    assert "Spectrograms." in toml.read_text()
