"""The fault matrix: one test a row. Every run is a real training on a real Slurm, stopped by real faults.

Rows 10, 11 and 15 need no Slurm: every kind of damage, and the kills, are in tests/common/test_checkpoint.py; here the
ones that a user meets. Row 14 is about ranks, rows 5 and 16 about one rank of several: mlp.ddp alone.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkContext
from pathlib import Path

import pytest
import torch

from common.checkpoint import Checkpointer
from common.storage import latest
from tests.children import tiny
from tests.kills import kill_in_saves

from .cluster import SlurmCluster
from .runs import Runs, launch
from .training import (
    SAVE_EVERY_MIN,
    SEED,
    STEPS,
    STOPS,
    TEMPLATES,
    Submit,
    Uninterrupted,
    assert_same_end,
    burst,
    frozen,
    moments,
    noticed,
    preempt,
    settings,
    signal_if_alive,
    steps_lost,
    train_until,
)

pytestmark = pytest.mark.slurm

ENDLESS = "trainer.num_epochs=100000"
PREEMPTIONS = 50  # and SIGKILLs in saves, below: with --full; else a fifth
KILLS = 1000


@TEMPLATES
def test_row_01_preempted_without_grace_saves_within_kill_wait(template: str, submit: Submit) -> None:
    runs = submit(template, *settings(template), ENDLESS)
    train_until(runs, 1, 50)
    preempt(runs)
    runs.wait_attempts(1, "end")  # written after the save: KillWait has not ended the process before
    runs.release()
    runs.wait_attempts(2, "resume")
    assert [end["reason"] for end in runs.attempts("end")] == ["SIGTERM"]
    assert steps_lost(runs) == [0]
    assert {start["job_id"] for start in runs.attempts("start")} == {runs.job_ids()[0]}, "another job id"


@TEMPLATES
@pytest.mark.parametrize("user_signal", [False, True], ids=["TERM", "user signal"])
def test_row_02_preempted_with_grace_makes_one_save_and_one_requeue(
    template: str, user_signal: bool, request: pytest.FixtureRequest, submit: Submit
) -> None:
    cluster = request.getfixturevalue("slurm_that_sends_user_signals" if user_signal else "slurm")
    grace = ["compute.slurm.partition=grace", "requeue.save_every_min=60", ENDLESS]
    runs = submit(template, *settings(template), *grace, cluster=cluster)
    train_until(runs, 1, 50)
    preempt(runs)
    runs.wait_attempts(1, "requeue")  # a job that ends in its grace time without that has FAILED, and stays so
    runs.release()
    runs.wait_attempts(2, "resume")
    assert [end["reason"] for end in runs.attempts("end")] == ["SIGUSR2" if user_signal else "SIGTERM"]
    assert len(runs.attempts("save")) == len(runs.attempts("requeue")) == 1
    assert steps_lost(runs) == [0]


@pytest.mark.minutes(3)
@TEMPLATES
def test_row_03_stopped_by_its_time_limit_loses_no_step(
    template: str, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    # Slurm looks at time limits every 30 s: until it sends the notice the run is frozen at a step drawn at random. The
    # notice may also come before that step, on a loaded machine even before the run trains: that is a stop like others.
    # It is up to 30 s early (measured; 60 s in sbatch(1)): with a longer lead it may find no process to tell yet.
    runs = submit(template, *settings(template), "compute.timeout_min=1", "requeue.signal_delay_s=20")
    stops = 0

    def stopped() -> bool:
        return len(runs.attempts("requeue")) > stops

    def trained(step: int) -> bool:
        return any(event["attempt"] == stops + 1 for event in runs.attempts("resume")) and runs.step() >= step

    for step in moments(template, "limit"):
        runs.wait_for(lambda step=step: trained(step) or stopped(), f"step {step}")
        with frozen(runs):
            runs.wait_for(lambda: stopped() or noticed(runs), "the notice", 0.5)
        runs.wait_for(stopped, "the requeue")
        runs.wait_for(lambda: runs.state() == "PENDING", "the requeue", 0.5)
        stops = len(runs.attempts("requeue"))
        if stops >= STOPS:  # the rest of the way without a limit
            lifted = runs.slurm.run("scontrol", "update", f"jobid={runs.job_ids()[0]}", "TimeLimit=60")
            assert lifted.returncode == 0, lifted.stderr
        runs.release()
    assert_same_end(runs, uninterrupted(template))
    assert set(steps_lost(runs)) == {0}
    assert all(event["timed_out"] for event in runs.attempts("requeue"))


@TEMPLATES
def test_row_03_a_limit_shorter_than_the_lead_is_refused(template: str, slurm: SlurmCluster, tmp_path: Path) -> None:
    done = launch(slurm, template, *settings(template), "compute.timeout_min=1", f"paths.work_root={tmp_path}")
    assert done.returncode == 1
    assert "requeue.signal_delay_s=120: the notice to save would come before the run has begun" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.minutes(2)
def test_row_03_a_step_that_does_not_end_goes_back_into_the_queue_before_the_limit(submit: Submit) -> None:
    runs = submit(
        "mlp.single", "compute=killarney/l40s_1x", "compute.mem_gb=16", "compute.cpus_per_task=1",
        "compute.timeout_min=2", "requeue.signal_delay_s=20",  # the notice comes early, but not before the step
        "trainer.num_samples=150000", "trainer.batch_size=150000", "trainer.hidden_dim=2048",  # minutes for one step
    )  # fmt: skip
    runs.wait_attempts(1, "resume")
    (pid,) = runs.task_pids().values()
    os.kill(pid, signal.SIGSTOP)  # spare the others the heat; signals wait, threads too
    started = runs.attempts("start")[0]["time"]
    runs.wait_for(lambda: time.time() > started + 112, "the last seconds", 1)
    os.kill(pid, signal.SIGCONT)
    runs.wait_attempts(1, "requeue")
    assert runs.attempts("requeue")[0]["timed_out"] is True
    assert runs.attempts("end")[0]["reason"] == "SIGUSR2, no step boundary in time"
    runs.wait_state("PENDING", "REQUEUED")
    # told once the requeue has succeeded, while the step still has the only core
    runs.wait_for(lambda: "no step has ended since; the last checkpoint" in runs.logs(), "the warning")


@TEMPLATES
def test_row_04_any_burst_of_signals_makes_one_save_and_one_requeue(
    template: str, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = submit(template, *settings(template))
    runs.wait_attempts(1)
    runs.send(signal.SIGUSR2)  # while it still imports torch and loads
    runs.wait_attempts(1, "requeue")
    runs.release()

    train_until(runs, 2, 100)
    burst(runs, signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1)
    runs.wait_attempts(2, "requeue")
    runs.release()

    train_until(runs, 3, 250)
    burst(runs, signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM)  # TERM decides: whoever sent it knows what follows
    runs.wait_state("FAILED", "CANCELLED")
    runs.submit()

    assert_same_end(runs, uninterrupted(template))
    assert steps_lost(runs) == [0, 0, 0]
    assert runs.attempts("end")[2]["reason"] == "SIGTERM"
    assert len(runs.attempts("requeue")) == 2
    saved = [event["step"] for event in runs.attempts("save")]
    assert len(saved) == len(set(saved)), "a step was saved twice"
    assert not list(runs.out_dir().glob(".checkpoint-*")), "a torn checkpoint is left"


def test_row_05_a_notice_to_one_rank_of_four_on_two_nodes_saves_the_same_step_on_all(submit: Submit) -> None:
    runs = submit("mlp.ddp", *settings("mlp.ddp"), "compute.nodes=2", "trainer.log_every=1", ENDLESS)
    train_until(runs, 1, 5)
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


FORBIDDEN = ["user.slurm.additional_parameters.requeue=null", "user.slurm.additional_parameters.no_requeue=true"]


@TEMPLATES
@pytest.mark.parametrize(
    ("overrides", "why"),
    [(["requeue=off"], "requeue=off"), (FORBIDDEN, "scontrol requeue failed")],
    ids=["requeue=off", "forbidden by the site"],
)
def test_row_06_a_run_that_may_not_be_requeued_ends_failed_with_its_checkpoint(
    template: str, submit: Submit, overrides: list[str], why: str
) -> None:
    runs = submit(template, *settings(template), ENDLESS, *overrides)
    train_until(runs, 1, 20)
    runs.send(signal.SIGUSR2)
    runs.wait_state("FAILED", "COMPLETED", "PENDING")
    assert runs.state() == "FAILED"
    end = runs.attempts("end")[0]
    assert runs.checkpoints()[-1] == end["step"]
    assert f"stopped by SIGUSR2 at step {end['step']}" in runs.logs()
    assert f"Not requeued: {why}" in runs.logs()
    assert f"Submit again with paths.work_dir={runs.work_dir} to go on" in runs.logs()


@TEMPLATES
def test_row_07_scancel_of_one_task_saves_it_and_leaves_the_others(template: str, submit: Submit) -> None:
    runs = submit(template, *settings(template), ENDLESS, "trainer.seed=1,2")
    for index in range(2):
        runs.wait_step(20, index)
    assert runs.slurm.run("scancel", runs.job_ids()[0]).returncode == 0
    runs.wait_attempts(1, "end", index=0)  # Slurm says CANCELLED as soon as it has sent TERM
    runs.wait_state("CANCELLED", "FAILED", "COMPLETED", index=0)
    assert runs.state(0) == "CANCELLED"
    assert runs.checkpoints(0)[-1] == runs.attempts("end", 0)[0]["step"]
    before = runs.step(1)
    runs.wait_step(before + 100, index=1)
    assert runs.state(1) == "RUNNING"
    runs.cancel()
    runs.wait_attempts(1, "end", index=1)
    runs.wait_state("CANCELLED", "FAILED", "COMPLETED", index=1)
    assert runs.state(1) == "CANCELLED"
    assert len(runs.attempts("start", 0)) == len(runs.attempts("start", 1)) == 1  # not resurrected


@pytest.mark.minutes(2)
@TEMPLATES
def test_row_08_killed_and_submitted_again_loses_at_most_one_save_interval(
    template: str, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = submit(template, *settings(template))
    draw = random.Random(SEED)
    lost_s: list[float] = []
    for stop, step in enumerate(moments(template, "kill"), start=1):
        train_until(runs, stop, step)
        pids = runs.task_pids()
        victim = draw.choice(sorted(pids))
        os.kill(pids[victim], signal.SIGKILL)
        killed = time.monotonic()
        runs.wait_for(lambda: not runs.task_pids(), "the end of the other ranks")
        assert time.monotonic() - killed < runs.slurm.kill_wait_s + 10, "the other ranks hang"
        runs.wait_state("FAILED")
        times_s = {line["step"]: line["time_s"] for line in runs.metrics() if line["attempt"] == stop}
        runs.submit()
        runs.wait_attempts(stop + 1, "resume")
        if times_s:  # else it was killed before it trained
            resumed = runs.first_steps()[-1]
            saved_s = max((t for step, t in times_s.items() if step <= resumed), default=min(times_s.values()))
            lost_s.append(max(times_s.values()) - saved_s)
    assert_same_end(runs, uninterrupted(template))
    # an interval, the save itself, and what two loaded cores add
    assert max(lost_s) <= SAVE_EVERY_MIN * 60 + 2.0, lost_s


@TEMPLATES
def test_row_09_an_attempt_that_outlives_its_node_is_fenced_and_the_new_one_is_right(
    template: str, slurm: SlurmCluster, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = submit(template, *settings(template), "compute.slurm.partition=gpubase_l40s_b1")
    train_until(runs, 1, 100)
    node = runs.attempts("start")[0]["node"]
    old = runs.task_pids()
    for pid in old.values():
        os.kill(pid, signal.SIGSTOP)  # it hangs until the new attempt is under way
    slurm.kill_daemon(f"slurmd-{node}")
    slurm.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        runs.release()
        runs.wait_attempts(2, "resume")
        for pid in old.values():
            signal_if_alive(pid, signal.SIGCONT)
        assert_same_end(runs, uninterrupted(template))
        runs.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old.values()), "the old attempt's end")
        assert runs.attempts("start")[1]["node"] != node
        fenced = [end for end in runs.attempts("end") if end["attempt"] == 1]
        assert "NotOwnerError: A newer attempt" in fenced[0]["reason"]
    finally:
        slurm.start_daemon(f"slurmd-{node}")
        slurm.run("scontrol", "update", f"nodename={node}", "state=resume")


@pytest.mark.minutes(3)
def test_row_10_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(
    tmp_path: Path,
    children: ForkContext,
    times: Callable[[int], int],
    record_property: Callable[[str, object], None],
) -> None:
    kills, torn = kill_in_saves(tmp_path, children, times(KILLS))
    record_property("row 10", f"SIGKILL at {kills} random moments of saves, {torn} of them left a torn folder behind")
    assert kills == times(KILLS)
    assert torn > kills / 100, "the kills did not meet the saves"


@TEMPLATES
def test_row_11_damaged_checkpoints_are_skipped_and_without_a_whole_one_it_refuses(
    template: str, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = submit(template, *settings(template))
    train_until(runs, 1, 100)
    runs.wait_for(lambda: len(runs.checkpoints()) == 2, "two checkpoints")
    runs.cancel()
    runs.wait_attempts(1, "end")
    older, newest = (runs.out_dir() / f"checkpoint-{step}" for step in runs.checkpoints())
    kept = shutil.copytree(older, runs.work_dir / "kept")
    for state in (older / "state.pt", newest / "state.pt"):
        flipped = bytearray(state.read_bytes())
        flipped[len(flipped) // 2] ^= 1
        state.write_bytes(flipped)
    runs.submit()
    runs.wait_state("FAILED", "COMPLETED")
    assert runs.state() == "FAILED"
    assert "None of the 2 checkpoints in" in runs.logs()

    shutil.rmtree(older)
    kept.rename(older)
    runs.submit()
    assert_same_end(runs, uninterrupted(template))
    assert f"skipping damaged checkpoint {newest}: state.pt is not what was written" in runs.logs()
    assert runs.first_steps()[-1] == int(older.name.split("-")[1])


@TEMPLATES
def test_row_12_a_full_disk_is_a_warning_in_between_and_a_failure_at_the_end(
    template: str, runs_of: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = runs_of(template, *settings(template))
    runs.out_dir().mkdir(parents=True)
    with small_disk(runs.out_dir()):
        runs.submit()
        runs.wait_for(lambda: len(runs.checkpoints()) == 2, "two checkpoints")
        filler = runs.out_dir() / "filler"

        def warned() -> bool:
            fill(filler)  # again and again: a run that deletes an old checkpoint makes room
            return "could not save step" in runs.logs()

        def ended() -> bool:
            fill(filler)
            return runs.state() in ("FAILED", "COMPLETED")

        runs.wait_for(warned, "the warning")
        assert "[Errno 28] No space left on device" in runs.logs()
        old = runs.checkpoints()
        assert len(old) == 2
        filler.unlink()
        runs.wait_for(lambda: runs.checkpoints()[-1] > old[-1], "a new checkpoint, now that there is room")

        runs.wait_for(ended, "the end")
        assert runs.state() == "FAILED", "its last checkpoint has no room"
        assert len(runs.checkpoints()) == 2
        assert not list(runs.out_dir().glob(".checkpoint-*")), "temporary files are left"
        filler.unlink()
        runs.submit()
        assert_same_end(runs, uninterrupted(template))


def test_row_12_a_read_only_disk_is_a_warning_in_between_and_an_error_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = tiny(tmp_path / "run", save_every_min=1e-9)
    with small_disk(tmp_path / "run") as disk:  # in this process: a disk with a file open for writing stays writable
        checkpointer = Checkpointer(cfg, model=torch.nn.Linear(3, 3))
        checkpointer.save(1)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        checkpointer.save_or_leave(2)
        assert "could not save step 2 ([Errno 30] Read-only file system" in caplog.text
        with pytest.raises(OSError, match="Read-only file system"):
            checkpointer.save(3)
        assert latest(disk, lambda folder: folder.name) == (disk / "checkpoint-1", "checkpoint-1")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        checkpointer.save(4)
        assert latest(disk, lambda folder: folder.name) == (disk / "checkpoint-4", "checkpoint-4")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 16 MiB, mounted at a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "vec-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


@TEMPLATES
def test_row_13_of_two_jobs_in_one_directory_the_second_refuses_and_a_dead_holder_is_taken_over(
    template: str, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = submit(template, *settings(template))
    train_until(runs, 1, 50)
    with frozen(runs):
        # a launch into the same folder is refused at submission: this one has another folder, but the same outputs
        second = submit(template, *settings(template), f"paths.out_dir={runs.out_dir()}", name="second")
        second.wait_state("FAILED", "COMPLETED")
        assert second.state() == "FAILED"
        assert f"is in use by job {runs.job_ids()[0]} on" in second.logs()
        # in less than 5 s, see tests/common/test_ownership.py; here the machine's load would decide
        for pid in runs.task_pids().values():
            os.kill(pid, signal.SIGKILL)
    runs.wait_state("FAILED")
    runs.submit()
    assert_same_end(runs, uninterrupted(template))


@pytest.mark.minutes(2)
def test_row_14_resumes_on_another_number_of_ranks_with_the_same_global_batch(submit: Submit) -> None:
    short = ["trainer.num_epochs=150", "requeue=off", "trainer.log_every=1"]
    runs = submit("mlp.ddp", *settings("mlp.ddp"), *short)
    for attempt, (step, preset) in enumerate([(100, "l40s_1x"), (250, "l40s_4x")], start=1):
        train_until(runs, attempt, step)
        runs.send(signal.SIGUSR2)
        runs.wait_state("FAILED", "COMPLETED")
        runs.submit(f"compute=killarney/{preset}", "compute.slurm.partition=low")
    runs.wait_state("COMPLETED", "FAILED")
    assert runs.state() == "COMPLETED", runs.logs()
    reference = submit("mlp.ddp", *settings("mlp.ddp"), *short, name="reference")
    reference.wait_state("COMPLETED", "FAILED")
    ours, straight = runs.series(), reference.series()
    assert [step for step, *_ in ours] == [step for step, *_ in straight] == list(range(1, 601))
    log = (runs.work_dir / "0" / "mlp.ddp.log").read_text()
    assert "saved by 2 rank(s), now 1" in log
    assert "saved by 1 rank(s), now 4" in log
    for resumed in runs.first_steps()[1:]:  # the ranks sum in another order from here on
        assert ours[resumed][1] == pytest.approx(straight[resumed][1], abs=1e-6)


@TEMPLATES
def test_row_15_the_newest_checkpoint_is_the_one_of_the_highest_step(template: str, submit: Submit) -> None:
    runs = submit(template, *settings(template), ENDLESS)
    runs.wait_for(lambda: len(runs.checkpoints()) == 2, "two checkpoints")
    runs.send(signal.SIGUSR2)
    runs.wait_attempts(1, "requeue")
    older, newest = (runs.out_dir() / f"checkpoint-{step}" for step in runs.checkpoints())
    for folder, hours in ((older, 1), (newest, -1)):  # a clock that jumps, or a copy that lost its times
        for path in (folder, *folder.iterdir()):
            os.utime(path, (time.time() + hours * 3600,) * 2)
    runs.release()
    runs.wait_attempts(2, "resume")
    assert steps_lost(runs) == [0]


@pytest.mark.parametrize("rank", [0, 1])
def test_row_16_a_rank_that_hangs_ends_the_run_failed_and_is_named(submit: Submit, rank: int) -> None:
    runs = submit("mlp.ddp", *settings("mlp.ddp"), ENDLESS, "compute.rank_timeout_min=0.3")
    train_until(runs, 1, 20)
    os.kill(runs.task_pids()[rank], signal.SIGSTOP)
    runs.wait_state("FAILED", "COMPLETED", "TIMEOUT")
    assert runs.state() == "FAILED"
    assert f"SilentRankError: rank {rank} does not answer (compute.rank_timeout_min)" in runs.logs()


@TEMPLATES
@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("trainer.learning_rate=1e30", "NonFiniteError: loss is nan at step"),
        ("trainer.hidden_dim=10000000", "DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["NaN", "out of memory"],
)
def test_row_17_an_error_in_training_is_failed_with_its_traceback_in_the_log(
    template: str, submit: Submit, override: str, error: str
) -> None:
    runs = submit(template, *settings(template), override)
    runs.wait_state("FAILED", "COMPLETED")
    assert runs.state() == "FAILED"
    assert runs.slurm.run("sacct", "-n", "-X", "-o", "ExitCode", "-j", runs.job_ids()[0]).stdout.strip() == "1:0"
    assert error in runs.logs()
    assert "train.py" in runs.logs()
    assert runs.checkpoints() == []


@TEMPLATES
def test_row_18_one_task_of_a_sweep_is_requeued_alone_in_a_path_with_blanks_and_quotes(
    template: str, slurm: SlurmCluster, runs_of: Submit, tmp_path: Path
) -> None:
    work_root = tmp_path / """it's a "work" root"""
    work_root.mkdir()
    quoted = str(work_root).replace("'", "\\'")
    done = launch(
        slurm, template, *settings(template), ENDLESS, "trainer.seed=1,2", f"paths.work_root='{quoted}'",
        "experiment_name=test",
    )  # fmt: skip
    runs = runs_of(template, work_root=work_root)
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


@TEMPLATES
def test_row_19_a_change_before_the_resume_is_shown_and_another_shape_is_refused(
    template: str, runs_of: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code"  # git is asked in the folder that a launch is made from
    code.mkdir()
    monkeypatch.chdir(code)
    (code / "model.py").write_text("layers = 2\n")
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    runs = runs_of(template, *settings(template))
    runs.submit("requeue=off")
    train_until(runs, 1, 50)
    runs.send(signal.SIGUSR2)
    runs.wait_state("FAILED", "COMPLETED")

    refused = runs.command("trainer.hidden_dim=64")
    assert refused.returncode == 1
    assert "already holds another run 0: trainer.hidden_dim: 256 -> 64" in refused.stderr

    (code / "model.py").write_text("layers = 3\n")
    epochs = STEPS[template] // 4
    done = runs.command(f"trainer.num_epochs={epochs + 1}", "requeue.allow_changes=[trainer.num_epochs]")
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert f"run 0 goes on with a change: trainer.num_epochs: {epochs} -> {epochs + 1}" in said
    assert "the code has changed since the last submission: uncommitted changes in model.py" in said
    runs.wait_state("FAILED", "COMPLETED")
    assert runs.state() == "COMPLETED"
    assert f"changed: trainer.num_epochs: {epochs} -> {epochs + 1}" in runs.logs()
    assert runs.result()["step"] == STEPS[template] + 4

    longer = [f"trainer.num_epochs={epochs + 1}", "trainer.hidden_dim=64"]
    runs.submit(*longer, "requeue.allow_changes=[trainer.num_epochs,trainer.hidden_dim]")
    runs.wait_state("FAILED", "COMPLETED")
    assert runs.state() == "FAILED"
    assert "does not fit this code: " in runs.logs()


@pytest.mark.minutes(3)
@TEMPLATES
def test_row_20_preemptions_in_a_row_lose_no_step(
    template: str, submit: Submit, times: Callable[[int], int], record_property: Callable[[str, object], None]
) -> None:
    preemptions = times(PREEMPTIONS)
    longer = [*settings(template), f"trainer.num_epochs={STEPS[template]}"]
    straight = submit(template, *longer, name="straight")
    straight.wait_state("COMPLETED", "FAILED")
    assert straight.result()["attempts"] == 1
    runs = submit(template, *longer)
    draw = random.Random(f"{SEED} {template}")
    for stop in range(1, preemptions + 1):
        early = draw.random() < 0.5  # at any moment of the start: imports, the load, before step 1
        runs.wait_attempt(stop, "start" if early else "resume")
        if early:
            time.sleep(draw.uniform(0, 3))
        else:
            runs.wait_step(STEPS[template] * stop // preemptions)
        with frozen(runs):  # until Slurm's own SIGCONT, which comes with TERM, however long it takes to decide
            job = preempt(runs)
            runs.wait_for(lambda job=job: "COMPLETED" in _sacct_state(runs, job), "the high-priority job", 0.5)
        runs.release()
    assert_same_end(runs, straight)
    assert set(steps_lost(runs)) == {0}
    assert {end["reason"] for end in runs.attempts("end")} == {"SIGTERM", "completed"}
    assert len(runs.attempts("start")) == preemptions + 1
    steps = len({end["step"] for end in runs.attempts("end") if "step" in end})
    record_property(f"row 20, {template}", f"{preemptions} preemptions at {steps} different steps, none lost")


@TEMPLATES
def test_row_21_slurmctld_may_die_and_come_back_while_runs_train_and_save(
    template: str, slurm: SlurmCluster, submit: Submit
) -> None:
    runs = submit(template, *settings(template), ENDLESS)
    train_until(runs, 1, 50)
    slurm.wait_saved(runs.job_ids()[0])
    slurm.kill_daemon("slurmctld")
    at = runs.step()
    saved = len(runs.attempts("save"))
    runs.wait_for(lambda: len(runs.attempts("save")) > saved and runs.step() > at, "steps and a save without slurmctld")
    slurm.start_daemon("slurmctld")
    runs.wait_for(lambda: slurm.run("scontrol", "ping").returncode == 0, "slurmctld", 0.5)
    runs.send(signal.SIGUSR2)
    runs.wait_attempts(1, "requeue")
    runs.release()
    runs.wait_attempts(2, "resume")
    assert steps_lost(runs) == [0]


def _sacct_state(runs: Runs, job_id: str) -> str:
    return runs.slurm.run("sacct", "-n", "-X", "-o", "State", "-j", job_id).stdout
