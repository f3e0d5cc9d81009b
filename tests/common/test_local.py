"""common.local: what a cluster's array does, on this machine; with a shell script instead of a training."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from common import local
from common.errors import UserError

CORES = len(os.sched_getaffinity(0))


@contextmanager
def only_one_core() -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def test_as_many_runs_at_once_as_the_cores_carry() -> None:
    assert local.at_once(1, 1, None) == CORES
    assert local.at_once(1, CORES, None) == 1
    assert local.at_once(CORES, 1, None) == 1
    assert local.at_once(2, CORES, None) == 1, "a run larger than the machine still runs, alone"
    with only_one_core():
        assert local.at_once(1, 1, None) == 1


def test_as_many_runs_at_once_as_the_gpus_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert local.at_once(1, 1, 1) == 1
    with pytest.raises(UserError, match=r"gpus_per_node=2, but this machine shows 1 GPU"):
        local.at_once(1, 1, 2)


Submit = Callable[..., list[str]]


@pytest.fixture
def submit(tmp_path: Path) -> Submit:
    """Start an array whose runs are a shell script; in it, $RUN is the run's number and $ATTEMPT counts from 1."""

    def start(script: str, count: int, at_once: int = CORES, **plan: object) -> list[str]:
        program = tmp_path / "run.sh"
        program.write_text(
            'RUN=${SUBMITIT_LOCAL_JOB_ID#*_}\n'
            f'echo "start $RUN $(date +%s%N)" >> {tmp_path}/seen\n'
            f'ATTEMPT=$(grep -c "start $RUN " {tmp_path}/seen)\n'
            f'{script}\n'
        )  # fmt: skip
        values = {
            "tasks_per_run": 1, "at_once": at_once, "gpus_per_run": None, "timeout_min": 60, "signal_delay_s": 60,
            "setup": [], "count": count,
        }  # fmt: skip
        made = local.Plan(folder=f"{tmp_path}/logs/%j", python=f"sh {program}", **(values | plan))  # pyright: ignore
        held = local.hold(made, [DelayedSubmission(print) for _ in range(count)])
        held.start()
        return [f"{held.base}_{index}" for index in range(count)]

    return start


def ended(tmp_path: Path, job_ids: list[str]) -> list[str]:
    """The states of the runs, once all have ended."""
    for _ in range(2000):
        states = local.states(f"{tmp_path}/logs/%j", job_ids)
        if not any(state.live or state.state == "UNKNOWN" for state in states.values()):
            return [states[job_id].state for job_id in job_ids]
        time.sleep(0.05)
    raise AssertionError(f"still {states}")


def test_no_more_runs_at_once_than_planned_and_each_runs_once(tmp_path: Path, submit: Submit) -> None:
    overlap = f'[ $RUN = 0 ] && until grep -q "start 1" {tmp_path}/seen; do sleep 0.05; done'
    job_ids = submit(f'{overlap}; sleep 0.2; echo "end $RUN $(date +%s%N)" >> {tmp_path}/seen', count=4, at_once=2)
    assert ended(tmp_path, job_ids) == ["COMPLETED"] * 4
    events = sorted((line.split() for line in (tmp_path / "seen").read_text().splitlines()), key=lambda e: int(e[2]))
    assert sorted(run for what, run, _ in events if what == "start") == ["0", "1", "2", "3"]
    running = most = 0
    for what, _, _ in events:
        running += 1 if what == "start" else -1
        most = max(most, running)
    assert most == 2


def test_an_exit_code_becomes_the_state_and_a_requeue_runs_again(tmp_path: Path, submit: Submit) -> None:
    script = f"""
        [ $RUN = 1 ] && exit 1
        [ $RUN = 2 ] && [ $ATTEMPT = 1 ] && exit {LOCAL_REQUEUE_RETURN_CODE}
        [ $RUN = 3 ] && exit 143
        exit 0"""
    job_ids = submit(script, count=4)
    assert ended(tmp_path, job_ids) == ["COMPLETED", "FAILED", "COMPLETED", "CANCELLED"]
    starts = [line.split()[1] for line in (tmp_path / "seen").read_text().splitlines()]
    assert sorted(starts) == ["0", "1", "2", "2", "3"]


def test_a_time_limit_gives_notice_first(tmp_path: Path, submit: Submit) -> None:
    job_ids = submit("trap 'exit 7' USR2; while :; do sleep 0.05; done", count=1, timeout_min=1, signal_delay_s=58)
    assert ended(tmp_path, job_ids) == ["FAILED"]
    assert local.states(f"{tmp_path}/logs/%j", job_ids)[job_ids[0]].exit_code == "7"


def test_term_to_the_array_ends_its_runs_and_starts_no_more(tmp_path: Path, submit: Submit) -> None:
    import signal

    job_ids = submit("exec sleep 60", count=3, at_once=1)
    seen = tmp_path / "seen"
    while not (seen.exists() and seen.read_text()):  # the shell opens it a moment before it writes
        time.sleep(0.02)
    os.kill(int(job_ids[0].split("_")[0]), signal.SIGTERM)
    assert ended(tmp_path, job_ids) == ["CANCELLED"] * 3
    assert len(seen.read_text().splitlines()) == 1


def test_one_failed_rank_ends_the_others(tmp_path: Path, submit: Submit) -> None:
    began = time.monotonic()
    job_ids = submit("[ $SUBMITIT_LOCAL_GLOBALID = 1 ] && exit 3; exec sleep 60", count=1, tasks_per_run=2)
    assert ended(tmp_path, job_ids) == ["FAILED"]
    assert time.monotonic() - began < 30


def test_setup_lines_come_first(tmp_path: Path, submit: Submit) -> None:
    job_ids = submit("[ \"$A\" = 'b c' ]", count=1, setup=["export A='b c'"])
    assert ended(tmp_path, job_ids) == ["COMPLETED"]


def test_a_process_behind_a_long_path_of_python_is_seen_whatever_the_width_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "x" * 200, "common.local"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert local._runs(process.pid, "common.local")
        assert process.stdin is not None
        process.stdin.close()
