"""The run that is stopped again and again: what it trains, how it is stopped, and what it must end with."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .runs import Runs

SEED = 7  # of the moments at which runs are stopped
STOPS = 5
SAVE_EVERY_MIN = 0.01
STEPS = {"mlp.single": 2000, "mlp.ddp": 1000}  # about 5 s of training
PRESET = {"mlp.single": "killarney/l40s_1x", "mlp.ddp": "killarney/l40s_2x"}
STEPS_PER_EPOCH = 4

Uninterrupted = Callable[[str], Runs]
Submit = Callable[..., Runs]


def settings(template: str) -> list[str]:
    return [
        f"compute={PRESET[template]}",
        "compute.slurm.partition=low",
        "compute.mem_gb=4",
        "compute.cpus_per_task=1",
        "trainer.hidden_dim=256",
        "trainer.batch_size=256",
        "trainer.log_every=5",
        f"trainer.num_epochs={STEPS[template] // STEPS_PER_EPOCH}",
        f"requeue.save_every_min={SAVE_EVERY_MIN}",
    ]


TEMPLATES = pytest.mark.parametrize("template", ["mlp.single", "mlp.ddp"])


def moments(template: str, kind: str) -> list[int]:
    """Steps at which to stop, one in each of STOPS equal parts. In the rest, two seconds, a late stop finds the run."""
    draw = random.Random(f"{SEED} {template} {kind}")
    part = int(STEPS[template] * 0.6) // STOPS
    return [n * part + draw.randrange(1, part) for n in range(STOPS)]


def steps_lost(runs: Runs) -> list[int]:
    """For every stop at a step boundary: optimizer steps done, but not begun with by the next attempt."""
    begun = {event["attempt"]: event["step"] for event in runs.attempts("resume")}
    stops = [end for end in runs.attempts("end") if end["reason"] != "completed" and "step" in end]
    return [end["step"] - next(begun[n] for n in sorted(begun) if n > end["attempt"]) for end in stops]


def assert_same_end(runs: Runs, reference: Runs) -> None:
    runs.wait_state("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    assert runs.state() == "COMPLETED", runs.logs()[-3000:]
    assert runs.result()["parameters_sha256"] == reference.result()["parameters_sha256"]
    assert runs.result()["metrics"] == reference.result()["metrics"]
    assert runs.series() == reference.series()


def train_until(runs: Runs, attempt: int, step: int) -> None:
    """Until this attempt trains and the step is done; it may have been done before the stop at the last moment."""
    runs.wait_attempts(attempt, "resume")
    runs.wait_step(step)


@contextmanager
def frozen(runs: Runs) -> Iterator[None]:
    """The ranks do not run, but signals wait for them."""
    pids = runs.task_pids().values()
    for pid in pids:
        signal_if_alive(pid, signal.SIGSTOP)
    try:
        runs.wait_for(lambda: all(map(stopped_or_gone, pids)), "the standstill of all ranks", 0.005)
        yield
    finally:
        for pid in pids:
            signal_if_alive(pid, signal.SIGCONT)


def stopped_or_gone(pid: int) -> bool:
    """Whether none of its threads runs. Until then it may take a signal that is sent after SIGSTOP before that one:
    Linux hands out those that wait by their numbers, and USR2 and TERM are lower."""
    try:
        threads = [(thread / "stat").read_text() for thread in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # one has just ended
        return not Path(f"/proc/{pid}").exists()
    return all(thread.rpartition(") ")[2][0] in "TZX" for thread in threads)


def noticed(runs: Runs) -> bool:
    """Whether USR2 waits for every rank (proc(5): SigPnd and ShdPnd are bit masks)."""
    bit = 1 << (signal.SIGUSR2 - 1)
    try:
        status = [Path(f"/proc/{pid}/status").read_text() for pid in runs.task_pids().values()]
    except OSError:  # one has just ended
        return False
    return all(
        any(int(mask, 16) & bit for mask in re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)", text, re.M)) for text in status
    )


def burst(runs: Runs, *signals: signal.Signals) -> None:
    """To every rank, all before it can look at the first."""
    with frozen(runs):
        for pid in runs.task_pids().values():
            for sig in signals:
                os.kill(pid, sig)


def preempt(runs: Runs) -> str:
    """Submit a job to the high-priority partition that needs both nodes of the low one; returns its id."""
    high = runs.slurm.run(
        "sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "true"
    )
    assert high.returncode == 0, high.stderr
    return high.stdout.strip()


def signal_if_alive(pid: int, sig: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, sig)
