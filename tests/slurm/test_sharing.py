"""Several runs in one job: each with its own folder, log, state and requeue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .runs import Runs
from .training import preempt

pytestmark = pytest.mark.slurm

Submit = Callable[..., Runs]

SEEDS = 3
TRAINING = [
    "compute=killarney/l40s_1x", "compute.slurm.partition=low", "compute.mem_gb=4", "compute.cpus_per_task=2",
    "trainer.num_epochs=400", "trainer.log_every=10", "trainer.seed=1,2,3", "hydra.launcher.runs_per_job=2",
]  # fmt: skip


def vec_jobs(runs: Runs, *words: str) -> str:
    env = os.environ | runs.slurm.env() | {"USER": "root"}
    command = [str(Path(sys.executable).with_name("vec-jobs")), words[0], str(runs.work_dir), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(runs: Runs) -> list[dict[str, Any]]:
    return json.loads(vec_jobs(runs, "status", "--json"))


def wait_all(runs: Runs) -> None:
    runs.wait_for(lambda: all(row["state"] in ("COMPLETED", "FAILED") for row in rows(runs)), "the end of all", 1.0)


@pytest.mark.minutes(2)
def test_runs_that_share_a_job_are_preempted_resume_and_end_as_if_alone(submit: Submit) -> None:
    at_once = submit("mlp.single", *TRAINING, "hydra.launcher.runs_at_once=2", name="at once")
    assert [job_id.partition("_")[2] for job_id in at_once.job_ids()] == ["0.0", "0.1", "1.0"]
    for index in range(SEEDS):
        at_once.wait_step(100, index)
    preempt(at_once)
    for index in range(SEEDS):
        at_once.wait_attempts(1, "end", index)
    for index in (0, 2):
        at_once.release(index)
    wait_all(at_once)

    in_turn = submit("mlp.single", *TRAINING, name="in turn")
    in_turn.wait_step(100)
    assert [row["state"] for row in rows(in_turn)][:2] == ["RUNNING", "PENDING"]
    in_turn.slurm.run("scancel", "--signal=USR2", in_turn.job_ids()[0].partition(".")[0])
    in_turn.wait_attempts(1, "requeue")
    in_turn.release(0)
    wait_all(in_turn)

    for runs in (at_once, in_turn):
        assert {row["state"] for row in rows(runs)} == {"COMPLETED"}, runs.logs()
    for index in range(SEEDS):
        assert at_once.first_steps(index) == [0, at_once.attempts("end", index)[0]["step"]]
        assert at_once.series(index) == in_turn.series(index)
        assert at_once.result(index)["parameters_sha256"] == in_turn.result(index)["parameters_sha256"]
    assert len(in_turn.attempts("start", 0)) == 2
    assert len(in_turn.attempts("start", 1)) == 1, "it waits for the first, and begins after the requeue"


def test_a_failed_run_takes_no_other_of_its_job_with_it_and_is_retried_alone(submit: Submit) -> None:
    runs = submit(
        "mlp.single", "compute=killarney/l40s_1x", "compute.mem_gb=4", "compute.cpus_per_task=2",
        "trainer.num_epochs=4", "trainer.learning_rate=1e-3,1e30,1e-2", "hydra.launcher.runs_per_job=3",
    )  # fmt: skip
    wait_all(runs)
    assert [row["state"] for row in rows(runs)] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "NonFiniteError" in vec_jobs(runs, "why", "1")
    vec_jobs(runs, "retry", "--failed")
    wait_all(runs)
    assert [row["attempt"] for row in rows(runs)] == [1, 2, 1]
