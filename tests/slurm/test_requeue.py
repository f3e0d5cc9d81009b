"""Whatever stops a run, it goes on from where it was, and ends as the uninterrupted run does: bit for bit.

Every run here is a real training on a real Slurm, stopped by real signals. The moments are drawn from a seed; what is
compared is the hash over the final parameters and every logged loss and accuracy.
"""

from __future__ import annotations

import os
import random
import signal

import pytest

from .runs import Runs
from .training import (
    SAVE_EVERY_MIN,
    STEPS,
    TEMPLATES,
    Submit,
    Uninterrupted,
    assert_same_end,
    frozen,
    noticed,
    settings,
    train_until,
)

pytestmark = pytest.mark.slurm

SEED = 7  # of the moments at which runs are stopped
STOPS = 5


def moments(template: str, kind: str) -> list[int]:
    """Steps at which to stop: one in each of STOPS equal parts of the run's first 80 %."""
    draw = random.Random(f"{SEED} {template} {kind}")
    part = int(STEPS[template] * 0.8) // STOPS
    return [n * part + draw.randrange(1, part) for n in range(STOPS)]


def steps_lost(runs: Runs) -> list[int]:
    """For every stop at a step boundary: optimizer steps done, but not begun with by the next attempt."""
    begun = {event["attempt"]: event["step"] for event in runs.attempts("resume")}
    stops = [end for end in runs.attempts("end") if end["reason"] != "completed" and "step" in end]
    return [end["step"] - next(begun[n] for n in sorted(begun) if n > end["attempt"]) for end in stops]


@TEMPLATES
def test_stopped_by_usr2_loses_no_step(template: str, submit: Submit, uninterrupted: Uninterrupted) -> None:
    runs = submit(template, *settings(template))
    for stop, step in enumerate(moments(template, "usr2"), start=1):
        train_until(runs, stop, step)
        with frozen(runs):
            runs.send(signal.SIGUSR2)
            runs.wait_for(lambda: noticed(runs), "the signal")
        runs.wait_attempts(stop, "requeue")
        runs.release()
    assert_same_end(runs, uninterrupted(template))
    assert steps_lost(runs) == [0] * STOPS
    assert [event["timed_out"] for event in runs.attempts("requeue")] == [False] * STOPS


@TEMPLATES
def test_preempted_by_high_priority_job_loses_no_step(
    template: str, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = submit(template, *settings(template))
    for stop, step in enumerate(moments(template, "high"), start=1):
        train_until(runs, stop, step)
        with frozen(runs):  # until Slurm's own SIGCONT, which comes with TERM, however long it takes to decide
            high = runs.slurm.run(
                "sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"
            )
            assert high.returncode == 0, high.stderr
            runs.wait_attempts(stop, "end")
        job = high.stdout.strip()
        runs.wait_for(lambda job=job: "COMPLETED" in _sacct_state(runs, job), "the high-priority job", 0.5)
        runs.release()
    assert_same_end(runs, uninterrupted(template))
    assert steps_lost(runs) == [0] * STOPS
    assert [end["reason"] for end in runs.attempts("end")] == ["SIGTERM"] * STOPS + ["completed"]


@TEMPLATES
def test_stopped_by_its_time_limit_loses_no_step(template: str, submit: Submit, uninterrupted: Uninterrupted) -> None:
    # Slurm looks at time limits every 30 s: until it sends the notice the run is frozen at a step drawn at random. The
    # notice may also come before that step, on a loaded machine even before the run trains: that is a stop like others.
    runs = submit(template, *settings(template), "compute.timeout_min=1", "requeue.signal_delay_s=40")
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
def test_requeued_by_hand_loses_at_most_one_save_interval(
    template: str, submit: Submit, uninterrupted: Uninterrupted
) -> None:
    runs = submit(template, *settings(template))
    for stop, step in enumerate(moments(template, "requeue"), start=1):
        train_until(runs, stop, step)
        with frozen(runs):  # until Slurm's own SIGCONT
            done = runs.slurm.run("scontrol", "requeue", runs.job_ids()[0])
            assert done.returncode == 0, done.stderr
            runs.wait_attempts(stop, "end")
        runs.release()
        runs.wait_attempts(stop + 1)
    assert_same_end(runs, uninterrupted(template))
    # Slurm sends TERM first, so even here nothing is lost
    assert steps_lost(runs) == [0] * STOPS


@TEMPLATES
def test_killed_and_submitted_again_loses_at_most_one_save_interval(
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


def _sacct_state(runs: Runs, job_id: str) -> str:
    return runs.slurm.run("sacct", "-n", "-X", "-o", "State", "-j", job_id).stdout
