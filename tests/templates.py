"""Runs of a template on this machine, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
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
def drill(tmp_path: Path, times: Callable[[int], int]) -> Callable[..., None]:
    """drill(template, *overrides): `vec-jobs drill` finds both runs equal, with two stops (--full: five) of seed 1."""
    stops = times(5)

    def start(template: str, *overrides: str) -> None:
        command = [str(Path(sys.executable).with_name("vec-jobs")), "drill", template.replace(".", "/")]
        options = ["--stops", str(stops), "--seed", "1", "--folder", str(tmp_path / "drill")]
        done = subprocess.run(
            [*command, *options, "compute=local", f"paths.work_root={tmp_path}", *overrides],
            capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{stops + 1} attempts, begun at the steps 0, " in done.stdout
        assert "equal: " in done.stdout

    return start
