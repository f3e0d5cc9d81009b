"""sweep=optuna on this machine: it searches well, and goes on after its launcher was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import load_study

from common.paths import read_lines

pytestmark = pytest.mark.learns  # 20 trainings

TRIALS = 20  # drawn with seed 42, of configs/sweep/optuna.yaml


def command(work_root: Path, name: str, *overrides: str) -> list[str]:
    short = ["trainer.num_epochs=5", f"paths.work_root={work_root}", f"experiment_name={name}"]
    return [sys.executable, "-m", "mlp.single.launch", "compute=local", *short, *overrides]


def results(folder: Path) -> dict[int, dict[str, Any]]:
    """result.json of every run that has one."""
    found = sorted(folder.glob("*/outputs/result.json"), key=lambda path: int(path.parts[-3]))
    return {int(path.parts[-3]): json.loads(path.read_text()) for path in found}


def test_optuna_finds_the_optimum_in_20_trials_though_its_launcher_is_killed(tmp_path: Path) -> None:
    rates = [10.0**power for power in range(-5, 2)]
    grid = command(tmp_path, "grid", f"trainer.learning_rate={','.join(map(str, rates))}")
    assert subprocess.run(grid, capture_output=True).returncode == 0
    losses = [result["metrics"]["eval_loss"] for result in results(tmp_path / "vec_jobs" / "grid").values()]
    assert max(losses) > 2 * min(losses), "there is something to find"

    space = "trainer.learning_rate=tag(log, interval(1e-5, 10))"
    search = command(tmp_path, "search", "sweep=optuna", space, f"hydra.sweeper.n_trials={TRIALS}")
    folder = tmp_path / "vec_jobs" / "search"
    launcher = subprocess.Popen(search, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(results(folder)) < TRIALS // 2 - 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    assert len(results(folder)) < TRIALS

    again = subprocess.run(search, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "going on with " in again.stdout + again.stderr
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
    study = load_study(study_name="search", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * TRIALS
    assert [trial.value for trial in study.trials] == [r["metrics"]["eval_loss"] for r in results(folder).values()]
    for index in range(TRIALS):
        starts = [e for e in read_lines(folder / str(index) / "outputs" / "attempts.jsonl") if e["event"] == "start"]
        assert len(starts) == 1, f"trial {index} was submitted twice"
    assert len({trial.params["trainer.learning_rate"] for trial in study.trials}) == TRIALS
    assert study.best_value <= 1.05 * min(losses)
    assert f"best_trial: {study.best_trial.number}" in (folder / "optimization_results.yaml").read_text()
