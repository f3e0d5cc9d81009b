"""The packages install apart from each other and from this checkout; the committed lock is the present one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "VEC_CONFIG_DIR")} | {"USER": "me"}
    return subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True)


def test_committed_lock_is_the_present_resolution() -> None:
    command = ["uv", "export", "--quiet", "--no-header", "--all-packages", "--no-emit-workspace"]
    exported = run(*command)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout == (ROOT / "requirements.lock").read_text(), "run make lock, and commit requirements.lock"
    assert "://" not in exported.stdout  # no address of any site's index


def test_address_of_the_package_index_is_not_committed() -> None:
    assert run("git", "check-ignore", "uv.lock").stdout.strip() == "uv.lock"
    assert "uv.lock" not in run("git", "ls-files").stdout.split()


@pytest.mark.packaging
def test_sync_of_one_package_installs_no_library_of_another(tmp_path: Path) -> None:
    done = run("uv", "sync", "--quiet", "--package", "mlp", UV_PROJECT_ENVIRONMENT=str(tmp_path / "env"))
    assert done.returncode == 0, done.stderr
    installed = {path.name.lower() for path in (tmp_path / "env").glob("lib/python*/site-packages/*")}
    assert "torch" in installed
    assert not installed & {"transformers", "trl", "stable_baselines3", "llm", "pytest", "altair", "sklearn"}


@pytest.mark.packaging
def test_wheels_run_outside_the_checkout_with_packaged_or_own_configs(tmp_path: Path) -> None:
    for package in ("common", "mlp"):
        built = run("uv", "build", "--quiet", "--wheel", "--package", package, "--out-dir", tmp_path / "dist")
        assert built.returncode == 0, built.stderr
    run("uv", "venv", "--quiet", tmp_path / "env")
    wheels = sorted((tmp_path / "dist").glob("*.whl"))
    assert len(wheels) == 2
    installed = run("uv", "pip", "install", "--quiet", "--python", tmp_path / "env", *wheels)
    assert installed.returncode == 0, installed.stderr

    outside = tmp_path / "elsewhere"
    outside.mkdir()
    launch = [tmp_path / "env/bin/mlp-launch", "single", "compute=inprocess", "trainer.num_epochs=1"]
    done = run(*launch, "experiment_name=packaged", cwd=outside)
    assert done.returncode == 0, done.stderr
    assert (outside / "vec_jobs/packaged/0/outputs/result.json").exists()

    own = tmp_path / "own"
    (own / "compute").mkdir(parents=True)
    (own / "compute/inprocess.yaml").write_text(f"executor: inprocess\nwork_root: {tmp_path}/mine\n")
    (own / "user.yaml").write_text("user:\n  slurm:\n    account: mine\n")
    (tmp_path / "mine").mkdir()
    shown = run(*launch, "--cfg", "job", cwd=outside, VEC_CONFIG_DIR=str(own))
    assert "account: mine" in shown.stdout
    assert f"work_root: {tmp_path}/mine" in shown.stdout
