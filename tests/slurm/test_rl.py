"""Reinforcement learning on a real Slurm: GRPO whose completions come from a server in a job of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.rl import server

from .runs import ASK_SLURM_EVERY_S, Runs
from .training import Submit, train_until

pytestmark = pytest.mark.slurm

SERVER = f"rollout.command=[{sys.executable},{Path(server.__file__)},'{{model}}','{{port}}']"
TRAINING, ROLLOUT = "kn1", "kn2"  # the nodes


def two_jobs(submit: Submit, name: str) -> Runs:
    return submit(
        "rl.grpo",
        "compute=killarney/l40s_1x",
        "compute.slurm.partition=low",
        "compute.mem_gb=4",
        "compute.cpus_per_task=1",
        f"compute.slurm.additional_parameters.nodelist={TRAINING}",
        "rollout=vllm_server",
        "rollout.compute=killarney/l40s_1x",
        "rollout.compute.slurm.partition=low",
        "rollout.compute.mem_gb=4",
        "rollout.compute.cpus_per_task=1",
        f"rollout.compute.slurm.additional_parameters.nodelist={ROLLOUT}",
        SERVER,
        "assets=embedded",
        "trainer.num_epochs=1",
        "trainer.num_generations=8",
        "trainer.batch_size=64",
        "trainer.logging_steps=1",
        "trainer.eval_steps=200",
        "trainer.save_steps=200",
        name=name,
    )  # seed 42 of the template, 112 steps


def server_job(runs: Runs) -> str:
    submissions = json.loads((runs.work_dir / "sweep.json").read_text())["submissions"]
    return submissions[-1]["points"][0]["service_job_id"]


def state_of(runs: Runs, job_id: str) -> str:
    asked = runs.slurm.run("sacct", "-n", "-P", "-X", "-o", "State", "-j", job_id)
    return (asked.stdout.split() or ["UNKNOWN"])[0]


def preempt_on(runs: Runs, node: str) -> None:
    """A job of higher priority wants all of this node, for a moment."""
    high = runs.slurm.run(
        "sbatch", "-p", "high", "-N1", "-w", node, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"
    )
    assert high.returncode == 0, high.stderr


def wait_end(runs: Runs) -> None:
    runs.wait_state("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    assert runs.state() == "COMPLETED", runs.logs()[-3000:]
    job_id = server_job(runs)
    runs.wait_for(lambda: state_of(runs, job_id) not in ("RUNNING", "PENDING"), "the server's end", ASK_SLURM_EVERY_S)
    assert state_of(runs, job_id) == "COMPLETED"
    gone = lambda: runs.slurm.run("squeue", "-h").stdout == ""  # noqa: E731
    runs.wait_for(gone, "an empty queue: nothing is left behind", ASK_SLURM_EVERY_S)


@pytest.mark.minutes(5)
def test_server_and_training_preempted_in_turn_end_as_if_nothing_had_happened(submit: Submit) -> None:
    reference = two_jobs(submit, "reference")
    wait_end(reference)

    runs = two_jobs(submit, "preempted")
    train_until(runs, 1, 20)
    instance = (runs.out_dir() / "service.json").read_text()
    preempt_on(runs, ROLLOUT)
    runs.wait_for(lambda: state_of(runs, server_job(runs)) == "PENDING", "the server's requeue", ASK_SLURM_EVERY_S)
    stopped_at = runs.step()
    runs.slurm.release(server_job(runs))
    runs.wait_step(stopped_at + 20)
    assert (runs.out_dir() / "service.json").read_text() != instance
    assert len(runs.attempts("start")) == 1  # the training went on

    preempt_on(runs, TRAINING)
    runs.wait_attempts(1, "end")
    runs.wait_for(lambda: runs.state() == "PENDING" or len(runs.attempts("start")) > 1, "requeue")
    runs.release()
    wait_end(runs)
    assert runs.first_steps()[1] >= stopped_at + 20
    assert runs.result()["parameters_sha256"] == reference.result()["parameters_sha256"]
    assert [line["loss"] for line in runs.metrics()] == [line["loss"] for line in reference.metrics()]


@pytest.mark.minutes(2)
def test_server_ends_when_its_run_is_cancelled(submit: Submit) -> None:
    runs = two_jobs(submit, "cancelled")
    train_until(runs, 1, 2)
    runs.cancel()  # the run alone
    job_id = server_job(runs)
    runs.wait_for(lambda: state_of(runs, job_id) not in ("RUNNING", "PENDING"), "the server's end", ASK_SLURM_EVERY_S)
    assert state_of(runs, job_id) == "COMPLETED"
    assert not (runs.out_dir() / "service.json").exists()
