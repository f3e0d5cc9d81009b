"""The faults that a run must survive, beyond those of test_requeue.py: what breaks, and what is promised."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from .cluster import SlurmCluster
from .runs import Runs, launch
from .training import TEMPLATES, Submit, Uninterrupted, assert_same_end, frozen, settings, train_until

pytestmark = pytest.mark.slurm


def burst(runs: Runs, *signals: signal.Signals) -> None:
    """To every rank, all before it can look at the first."""
    with frozen(runs):
        for pid in runs.task_pids().values():
            for sig in signals:
                os.kill(pid, sig)


@TEMPLATES
def test_any_burst_of_signals_makes_one_save_and_one_requeue(
    template: str, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = submit(template, *settings(template))
    runs.wait_attempts(1)
    runs.send(signal.SIGUSR2)  # while it still imports torch and loads
    runs.wait_attempts(1, "requeue")
    runs.release()

    train_until(runs, 2, 200)
    burst(runs, signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1)
    runs.wait_attempts(2, "requeue")
    runs.release()

    train_until(runs, 3, 500)
    burst(runs, signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM)  # TERM decides: whoever sent it knows what follows
    runs.wait_state("FAILED", "CANCELLED")
    runs.submit()

    assert_same_end(runs, uninterrupted(template))
    ends = runs.attempts("end")
    assert [end["step"] for end in ends[:-1]] == runs.first_steps()[1:], "a step was lost"
    assert ends[2]["reason"] == "SIGTERM"
    assert len(runs.attempts("requeue")) == 2
    saved = [event["step"] for event in runs.attempts("save")]
    assert len(saved) == len(set(saved)), "a step was saved twice"
    assert not list(runs.out_dir().glob(".checkpoint-*")), "a torn checkpoint is left"


def test_a_notice_to_one_rank_of_four_on_two_nodes_saves_the_same_step_on_all(submit: Submit) -> None:
    runs = submit(
        "mlp.ddp", "compute=killarney/l40s_2x", "compute.nodes=2", "compute.cpus_per_task=1", "compute.mem_gb=4",
        "trainer.num_epochs=100000", "trainer.log_every=1",
    )  # fmt: skip
    runs.wait_step(5)
    pids = runs.task_pids()
    assert sorted(pids) == [0, 1, 2, 3]
    os.kill(pids[3], signal.SIGUSR2)
    runs.wait_attempts(1, "requeue")
    end = runs.attempts("end")[0]
    assert end["reason"] == "SIGUSR2"
    assert runs.checkpoints()[-1] == end["step"]
    runs.wait_for(lambda: not runs.task_pids(), "the end of all ranks")
    runs.release()
    runs.wait_attempts(2, "resume")
    assert runs.first_steps() == [0, end["step"]]
    runs.slurm.run("scancel", runs.job_ids()[0])


def test_a_site_that_forbids_the_requeue_leaves_failed_with_the_checkpoint(submit: Submit) -> None:
    forbidden = ["user.slurm.additional_parameters.requeue=null", "user.slurm.additional_parameters.no_requeue=true"]
    runs = submit("mlp.single", *settings("mlp.single"), *forbidden)
    runs.wait_step(20)
    runs.send(signal.SIGUSR2)
    runs.wait_state("FAILED", "COMPLETED", "PENDING")
    assert runs.state() == "FAILED"
    assert runs.checkpoints()[-1] == runs.attempts("end")[0]["step"]
    assert "Not requeued: scontrol requeue failed" in runs.logs()
    assert f"Submit again with paths.work_dir={runs.work_dir} to go on" in runs.logs()


def test_an_attempt_that_outlives_its_node_is_fenced_and_the_new_one_is_right(
    slurm: SlurmCluster, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = submit("mlp.single", *settings("mlp.single"), "compute.slurm.partition=gpubase_l40s_b1")
    runs.wait_step(500)
    node = runs.attempts("start")[0]["node"]
    (old,) = runs.task_pids().values()
    os.kill(old, signal.SIGSTOP)  # it hangs until the new attempt is under way
    slurm.kill_daemon(f"slurmd-{node}")
    slurm.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        runs.release()
        runs.wait_attempts(2, "resume")
        os.kill(old, signal.SIGCONT)
        assert_same_end(runs, uninterrupted("mlp.single"))
        runs.wait_for(lambda: not Path(f"/proc/{old}").exists(), "the end of the old attempt")
        assert runs.attempts("start")[1]["node"] != node
        fenced = [end for end in runs.attempts("end") if end["attempt"] == 1]
        assert "NotOwnerError: A newer attempt" in fenced[0]["reason"]
    finally:
        slurm.start_daemon(f"slurmd-{node}")
        slurm.run("scontrol", "update", f"nodename={node}", "state=resume")


def test_slurmctld_may_die_and_come_back_while_runs_train_and_save(
    slurm: SlurmCluster, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = submit("mlp.single", *settings("mlp.single"))
    runs.wait_step(300)
    slurm.kill_daemon("slurmctld")
    at = runs.step()
    runs.wait_step(at + 300)
    slurm.start_daemon("slurmctld")
    runs.wait_for(lambda: slurm.run("scontrol", "ping").returncode == 0, "slurmctld", 0.5)
    runs.send(signal.SIGUSR2)
    runs.wait_attempts(1, "requeue")
    runs.release()
    assert_same_end(runs, uninterrupted("mlp.single"))
    assert runs.first_steps()[1] == runs.attempts("end")[0]["step"]


def test_a_run_in_a_step_that_does_not_end_goes_back_into_the_queue_before_its_limit(submit: Submit) -> None:
    runs = submit(
        "mlp.single", "compute=killarney/l40s_1x", "compute.mem_gb=16", "compute.cpus_per_task=1",
        "compute.timeout_min=2", "requeue.signal_delay_s=20",  # the notice comes up to 60 s early, not before the step
        "trainer.num_samples=150000", "trainer.batch_size=150000", "trainer.hidden_dim=2048",  # minutes for one step
    )  # fmt: skip
    runs.wait_attempts(1, "resume")
    (pid,) = runs.task_pids().values()
    os.kill(pid, signal.SIGSTOP)  # spare the others the heat; signals wait, threads too
    started = runs.attempts("start")[0]["time"]
    runs.wait_for(lambda: time.time() > started + 112, "the last seconds")
    os.kill(pid, signal.SIGCONT)
    runs.wait_attempts(1, "requeue")
    assert runs.attempts("requeue")[0]["timed_out"] is True
    assert runs.attempts("end")[0]["reason"] == "SIGUSR2, no step boundary in time"
    runs.wait_state("PENDING", "REQUEUED")
    assert "no step has ended since; the last checkpoint" in runs.logs()
    runs.slurm.run("scancel", runs.job_ids()[0])


def test_resumes_on_another_number_of_ranks_with_the_same_global_batch(submit: Submit) -> None:
    short = ["trainer.num_epochs=150", "requeue=off", "trainer.log_every=1"]
    runs = submit("mlp.ddp", *settings("mlp.ddp"), *short)
    for attempt, (step, preset) in enumerate([(100, "l40s_1x"), (250, "l40s_4x")], start=1):
        train_until(runs, attempt, step)
        runs.send(signal.SIGUSR2)
        runs.wait_state("FAILED", "COMPLETED")
        runs.submit(f"compute=killarney/{preset}", "compute.slurm.partition=low")
    runs.wait_state("COMPLETED", "FAILED")
    assert runs.state() == "COMPLETED", runs.logs()
    reference = Runs(runs.slurm, runs.work_root, "mlp.ddp", "reference", (*settings("mlp.ddp"), *short))
    reference.submit()
    reference.wait_state("COMPLETED", "FAILED")
    ours, straight = runs.series(), reference.series()
    assert [step for step, *_ in ours] == [step for step, *_ in straight] == list(range(1, 601))
    log = (runs.work_dir / "0" / "mlp.ddp.log").read_text()
    assert "saved by 2 rank(s), now 1" in log
    assert "saved by 1 rank(s), now 4" in log
    for resumed in runs.first_steps()[1:]:  # the ranks sum in another order from here on
        assert ours[resumed][1] == pytest.approx(straight[resumed][1], abs=1e-6)


def test_one_task_of_a_sweep_is_requeued_alone_in_a_path_with_blanks_and_quotes(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    work_root = tmp_path / """it's a "work" root"""
    work_root.mkdir()
    quoted = str(work_root).replace("'", "\\'")
    done = launch(
        slurm, "mlp.single", *settings("mlp.single"), "trainer.num_epochs=100000", "trainer.seed=1,2",
        f"paths.work_root='{quoted}'", "experiment_name=test",
    )  # fmt: skip
    runs = Runs(slurm, work_root, "mlp.single", "test", ())
    assert done.returncode == 0, done.stderr
    for index in range(2):
        runs.wait_step(20, index)
    runs.send(signal.SIGUSR2, index=1)
    runs.wait_attempts(1, "requeue", index=1)
    runs.release(index=1)
    runs.wait_attempts(2, "resume", index=1)
    assert runs.first_steps(1)[1] == runs.attempts("end", 1)[0]["step"]
    assert len(runs.attempts("start", 0)) == 1
    assert runs.state(0) == "RUNNING"
    slurm.run("scancel", runs.job_ids()[0].split("_")[0])


def test_preemption_with_grace_makes_one_save_and_one_requeue(submit: Submit) -> None:
    runs = submit("mlp.single", *settings("mlp.single"), "compute.slurm.partition=grace", "trainer.num_epochs=100000")
    runs.wait_step(200)
    high = runs.slurm.run(
        "sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "true"
    )
    assert high.returncode == 0, high.stderr
    runs.wait_attempts(1, "requeue")  # TERM came at the start of the grace: who ends then without this has FAILED
    runs.release()
    runs.wait_attempts(2, "resume")
    assert runs.first_steps() == [0, runs.attempts("end")[0]["step"]]
    assert [end["reason"] for end in runs.attempts("end")] == ["SIGTERM"]
    runs.slurm.run("scancel", runs.job_ids()[0])
