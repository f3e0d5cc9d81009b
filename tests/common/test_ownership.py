"""One run directory, one writer (common/ownership.py): real processes, without Slurm."""

import json
import os
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from common import ownership
from common.errors import UserError
from tests.children import hold_as, save_when_told


def start(children: ForkContext, work: object, job_id: str, out_dir: Path) -> tuple[BaseProcess, Connection]:
    theirs, ours = children.Pipe()
    child = children.Process(target=work, args=(job_id, out_dir, theirs))  # pyright: ignore[reportArgumentType]
    child.start()
    return child, ours


def test_a_second_job_refuses_at_once_and_names_the_holder(tmp_path: Path, children: ForkContext) -> None:
    holder, connection = start(children, hold_as, "12_3", tmp_path)
    assert connection.recv() == "held"
    begun = time.monotonic()
    with pytest.raises(UserError, match=rf"in use by job 12_3 on \S+ \(process {holder.pid}, since .*\): wait"):
        ownership.hold(tmp_path)
    assert time.monotonic() - begun < 5
    connection.send("go")
    holder.join()


def test_a_dead_holder_is_taken_over(tmp_path: Path, children: ForkContext) -> None:
    holder, connection = start(children, hold_as, "12", tmp_path)
    assert connection.recv() == "held"
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    ownership.hold(tmp_path)
    ownership.check(tmp_path)
    ownership.release(tmp_path)


def test_a_number_that_another_process_has_got_is_no_holder(tmp_path: Path) -> None:
    holder = {"token": "t", "job_id": "12", "node": os.uname().nodename, "pid": 1, "born": "-1", "executor": "local"}
    (tmp_path / "owner.json").write_text(json.dumps(holder))
    ownership.hold(tmp_path)
    ownership.release(tmp_path)


def test_an_earlier_attempt_that_lives_on_may_not_commit_any_more(
    tmp_path: Path, children: ForkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, connection = start(children, save_when_told, "12", tmp_path)
    assert connection.recv() == "saved"
    monkeypatch.setenv("VEC_JOB_ID", "12")  # Slurm started the same job again: its slurmd was dead
    ownership.hold(tmp_path)
    connection.send("go")
    assert "A newer attempt (job 12, process" in connection.recv()
    older.join()
    assert sorted(path.name for path in tmp_path.glob("*checkpoint*")) == ["checkpoint-1"]
    ownership.release(tmp_path)


def test_of_jobs_that_start_together_one_gets_the_directory(tmp_path: Path, children: ForkContext) -> None:
    jobs = [start(children, hold_as, str(number), tmp_path) for number in range(6)]
    said = [connection.recv() for _, connection in jobs]
    assert said.count("held") == 1
    assert sum("in use by job" in words for words in said) == 5
    for child, connection in jobs:
        connection.send("go")
        child.join()


def test_a_directory_that_was_given_back_is_free(tmp_path: Path) -> None:
    ownership.hold(tmp_path)
    ownership.release(tmp_path)
    assert not (tmp_path / "owner.json").exists()
    with pytest.raises(ownership.NotOwnerError):
        ownership.check(tmp_path)
