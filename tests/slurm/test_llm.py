"""Language models on a real Slurm: preempted with a sharded model, and started with the command of the seed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.llm.conftest import unigram_loss

from .cluster import SlurmCluster
from .runs import Runs
from .training import Submit, preempt, steps_lost, train_until

pytestmark = pytest.mark.slurm


@pytest.mark.minutes(4)
def test_fsdp_on_two_gpus_preempted_by_a_high_priority_job_loses_no_step(submit: Submit, tmp_path: Path) -> None:
    runs = submit(
        "llm.finetune_distributed",
        "compute=killarney/l40s_2x",
        "compute.slurm.partition=low",
        "compute.mem_gb=8",
        "compute.cpus_per_task=1",
        "assets=embedded",
        "trainer.dist.mode=fsdp",
        "trainer.max_steps=100",
        "trainer.logging_steps=5",
        "trainer.eval_steps=100",
    )  # seed 42 of the template
    train_until(runs, 1, 20)
    preempt(runs)
    runs.wait_attempts(1, "end")
    runs.wait_for(lambda: runs.state() == "PENDING" or len(runs.attempts("start")) > 1, "requeue")
    runs.release()
    runs.wait_state("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    assert runs.state() == "COMPLETED", runs.logs()[-3000:]
    assert runs.first_steps()[1] >= 20
    assert steps_lost(runs) == [0]
    assert runs.result()["metrics"]["eval_loss"] < unigram_loss(tmp_path)


@pytest.mark.minutes(2)
def test_command_of_the_seed_classifies_texts(slurm: SlurmCluster, tmp_path: Path) -> None:
    command = "uv run python -m llm.text_classification.launch compute=killarney/l40s_1x trainer.learning_rate=5e-4"
    short = "assets=embedded trainer.num_epochs=2 trainer.max_length=64"
    where = f"{short} experiment_name=seed paths.work_root='{tmp_path}'"
    env = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | slurm.env() | {"USER": "root"}
    done = subprocess.run(
        f"{command} {where}", shell=True, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    runs = Runs(slurm, tmp_path, "llm.text_classification", "seed", ())
    runs.wait_state("COMPLETED", "FAILED")
    assert runs.state() == "COMPLETED", runs.logs()[-3000:]
    assert runs.result()["metrics"]["eval_accuracy"] > 0.5  # of five topics, after two of eight epochs
