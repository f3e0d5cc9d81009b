"""Whatever stops a run, it goes on from where it was, and ends as the uninterrupted run does: bit for bit.

Every run here is a real training on a real Slurm, stopped by real signals. The moments are drawn from a seed; what is
compared is the hash over the final parameters and every logged loss and accuracy. Preemption, time limits and kills are
rows of test_faults.py.
"""

from __future__ import annotations

import signal

import pytest

from .training import (
    STOPS,
    TEMPLATES,
    Submit,
    Uninterrupted,
    assert_same_end,
    frozen,
    moments,
    noticed,
    settings,
    steps_lost,
    train_until,
)

pytestmark = pytest.mark.slurm


@pytest.mark.minutes(2)
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


@pytest.mark.minutes(2)
@TEMPLATES
def test_requeued_by_hand_loses_no_step(template: str, submit: Submit, uninterrupted: Uninterrupted) -> None:
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
