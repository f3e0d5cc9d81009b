"""`vec-jobs clean`, on real checkpoint folders (common.storage) of runs that were not trained."""

import contextlib
import json
import os
import random
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from pathlib import Path

import pytest

from common import attempts, ownership, runs, storage
from common.paths import fsync_path
from tests.children import hold_as
from tests.conftest import SEED
from tests.vec_jobs.conftest import Ask, Rows
from tests.vec_jobs.written import FakeSlurm, write_run, write_sweep
from vec_jobs.clean import Cleaning
from vec_jobs.sweeps import Sweep


def save(out_dir: Path, step: int, files: int = 1, best: int | None = None) -> Path:
    """A committed checkpoint of 1000 bytes in each file."""

    def write(folder: Path) -> dict[str, storage.FileFacts]:
        for number in range(files):
            (folder / f"{number}.pt").write_bytes(random.Random(step).randbytes(1000))
        return {f"{number}.pt": storage.file_facts(folder / f"{number}.pt") for number in range(files)}

    storage.commit(out_dir, step, write, {}, lambda: None, keep=99, best=best)
    return out_dir / f"checkpoint-{step}"


def damage(checkpoint: Path) -> None:
    (checkpoint / "0.pt").write_bytes(b"no")


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".owner.json.lock"}


@pytest.fixture
def ended(jobs_dir: Path, slurm: FakeSlurm) -> Path:
    """The outputs of a run that FAILED, with the checkpoints 1, 2, 3."""
    (out_dir,) = write_sweep(jobs_dir / "one", 1)
    write_run(out_dir)
    attempts.end(out_dir, "ValueError: no")
    for step in (1, 2, 3):
        save(out_dir, step)
    slurm.knows(_0="FAILED")
    return out_dir


def test_without_yes_it_shows_what_it_would_remove_and_removes_nothing(ask: Ask, rows: Rows, ended: Path) -> None:
    before = tree(ended)
    answer = ask("clean", "one")
    assert answer.stdout.splitlines()[1].split()[:2] == ["one", "0"]
    assert answer.stdout.splitlines()[1].endswith("checkpoint-2 checkpoint-1")
    assert answer.stdout.splitlines()[2].startswith("This would free ")
    assert "in 1 run(s). Nothing is removed yet: --yes does it." in answer.stdout
    found = rows("clean", "one")
    assert (found["removed"], found["runs"][0]["folders"]) == (False, ["checkpoint-2", "checkpoint-1"])
    assert tree(ended) == before


def test_only_older_checkpoints_go(ask: Ask, ended: Path) -> None:
    size = sum(path.stat().st_size for step in (1, 2) for path in (ended / f"checkpoint-{step}").iterdir())
    before = tree(ended)
    answer = ask("clean", "one", "--yes", "--json")
    assert json.loads(answer.stdout)["bytes"] == size
    gone = {f"checkpoint-{step}{name}" for step in (1, 2) for name in ("", "/0.pt", "/manifest.json")}
    assert tree(ended) == before - gone
    assert storage.verify(ended / "checkpoint-3") is None
    assert ask("clean", "one", "--yes").stdout == "Nothing was removed.\n"


def test_neither_the_newest_nor_the_newest_whole_checkpoint_goes(rows: Rows, ended: Path) -> None:
    damage(ended / "checkpoint-3")
    assert rows("clean", "one", "--yes")["runs"][0]["folders"] == ["checkpoint-1"]
    assert {"checkpoint-2", "checkpoint-3"} <= tree(ended)


def test_where_no_checkpoint_is_whole_all_stay_and_it_is_said(ask: Ask, ended: Path) -> None:
    for step in (1, 2, 3):
        damage(ended / f"checkpoint-{step}")
    (ended / ".checkpoint-4.abc.tmp").mkdir()
    before = tree(ended)
    answer = ask("clean", "one", "--yes")
    assert answer.stderr == f"Left alone: one: run 0: none of the checkpoints in {ended} is whole\n"
    assert tree(ended) == before


def test_the_best_checkpoint_which_a_resume_loads_at_its_end_stays(rows: Rows, ended: Path) -> None:
    save(ended, 4, best=2)
    assert rows("clean", "one", "--yes")["runs"][0]["folders"] == ["checkpoint-3", "checkpoint-1"]


def test_unfinished_and_damaged_saves_go(rows: Rows, ended: Path) -> None:
    for name in (".checkpoint-4.abc.tmp", ".checkpoint-shards.abc.tmp", ".removed-checkpoint-0.abc"):
        (ended / name).mkdir()
    (ended / "checkpoint-1").rename(ended / "checkpoint-1.damaged")
    save(ended, 9).rename(ended / "checkpoint-9.damaged")  # newer than the newest whole one: it may hold more
    rows("clean", "one", "--yes")
    assert {path.name for path in ended.iterdir() if "checkpoint" in path.name} == {
        "checkpoint-3",
        "checkpoint-9.damaged",
    }


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "REQUEUED", "PREEMPTED", "COMPLETING", "REVOKED"])
def test_a_run_that_may_live_is_left_alone(ask: Ask, slurm: FakeSlurm, ended: Path, state: str) -> None:
    slurm.knows(_0=state)
    before = tree(ended)
    answer = ask("clean", "one", "--yes")
    assert answer.stdout == "Nothing was removed.\n"
    assert answer.stderr == f"Left alone: one: 1 {state}\n"
    assert tree(ended) == before


def test_a_run_whose_state_nobody_knows_is_left_alone(ask: Ask, slurm: FakeSlurm, ended: Path) -> None:
    slurm.answers([])
    before = tree(ended)
    assert ask("clean", "one", "--yes").stderr == "Left alone: one: 1 UNKNOWN\n"
    assert tree(ended) == before


def test_a_run_that_is_held_is_left_alone(ask: Ask, slurm: FakeSlurm, ended: Path, children: ForkContext) -> None:
    ours, theirs = children.Pipe()
    holder = children.Process(target=hold_as, args=("12", ended, theirs))
    holder.start()
    assert ours.recv() == "held"
    before = tree(ended)
    answer = ask("clean", "one", "--yes")
    ours.send("go")
    holder.join()
    assert f"{ended} is in use by job 12 on " in answer.stderr
    assert tree(ended) == before


def hold_when_told(out_dir: Path, connection: Connection) -> None:
    connection.recv()
    hold_as("12", out_dir, connection)


def test_a_run_that_starts_meanwhile_waits_and_is_not_refused(ended: Path, children: ForkContext) -> None:
    ours, theirs = children.Pipe()
    run = children.Process(target=hold_when_told, args=(ended, theirs))
    run.start()  # before the lock is taken: a fork would inherit it
    with ownership.nobody(ended):
        ours.send("now")
        assert not ours.poll(0.5)
    assert ours.recv() == "held"
    ours.send("go")
    run.join()


def in_the_middle(folder: Path) -> bool:
    """Whether a checkpoint, of 41 files, is removed in part."""
    for hidden in folder.glob("*/outputs/.removed-*"):
        with contextlib.suppress(FileNotFoundError):
            if len(list(hidden.iterdir())) < 41:
                return True
    return False


def clean_when_told(folder: Path, connection: Connection) -> None:
    cleaning = Cleaning(runs.look(folder, Sweep(folder).submissions))
    connection.send("looked")
    cleaning.remove()


def test_killed_at_any_moment_it_leaves_whole_checkpoints_and_the_next_time_takes_the_rest(
    jobs_dir: Path, slurm: FakeSlurm, children: ForkContext
) -> None:
    folder = jobs_dir / "many"
    outs = write_sweep(folder, 5)
    slurm.knows(**{f"_{index}": "FAILED" for index in range(5)})

    def fill() -> None:
        for out_dir in outs:
            for step in (1, 2, 3):
                if not (out_dir / f"checkpoint-{step}").exists():
                    save(out_dir, step, files=40)
        for thread in threading.enumerate():
            if thread.name == storage.DELETING:
                thread.join()

    fill()
    cleaning = Cleaning(runs.look(folder, Sweep(folder).submissions))
    begun = time.monotonic()
    cleaning.remove()
    whole_s = time.monotonic() - begun
    draw = random.Random(SEED)
    in_part = 0
    for _ in range(40):
        fill()
        ours, theirs = children.Pipe()
        child = children.Process(target=clean_when_told, args=(folder, theirs))
        child.start()
        assert ours.recv() == "looked"
        time.sleep(draw.uniform(0.0, whole_s))
        while child.is_alive() and not in_the_middle(folder):
            pass
        child.kill()
        child.join()
        for out_dir in outs:
            assert (out_dir / "checkpoint-3").exists()
            for checkpoint in out_dir.glob("checkpoint-*"):
                assert storage.verify(checkpoint) is None, checkpoint
        in_part += in_the_middle(folder)
        Cleaning(runs.look(folder, Sweep(folder).submissions)).remove()
        for out_dir in outs:
            left = [path.name for path in out_dir.iterdir() if "checkpoint" in path.name]
            assert left == ["checkpoint-3"]
        if in_part == 3:
            break
    assert in_part == 3, "too few kills came in the middle"


def test_a_file_that_the_newest_checkpoint_shares_counts_for_nothing(rows: Rows, ended: Path) -> None:
    before = rows("clean", "one")["bytes"]
    replay = ended / "checkpoint-1" / "replay.pt"
    replay.write_bytes(bytes(500))
    os.link(replay, ended / "checkpoint-2" / "replay.pt")
    assert rows("clean", "one")["bytes"] == before + 500  # both go
    os.link(replay, ended / "checkpoint-3" / "replay.pt")
    assert rows("clean", "one")["bytes"] == before


def test_older_than_takes_all_sweeps_of_that_age_and_one_question(
    rows: Rows, slurm: FakeSlurm, ended: Path, jobs_dir: Path
) -> None:
    for name in ("old", "older"):
        (out_dir,) = write_sweep(jobs_dir / name, 1)
        save(out_dir, 1)
        save(out_dir, 2)
        days_ago = time.time() - 10 * 86400
        os.utime(jobs_dir / name / "sweep.json", (days_ago, days_ago))
    assert {row["sweep"] for row in rows("clean", "--older-than", "9")["runs"]} == {"old", "older"}
    assert len(slurm.asked) == 1
    assert rows("clean", "--older-than", "11")["runs"] == []


def test_a_name_and_an_age_exclude_each_other(ask: Ask, ended: Path) -> None:
    assert ask("clean", "one", "--older-than", "9").stderr.startswith("Error: Name a sweep, or give --older-than")


def test_sweeps_that_cannot_be_read_are_named_and_the_others_cleaned(ask: Ask, ended: Path, jobs_dir: Path) -> None:
    write_sweep(jobs_dir / "torn")
    (jobs_dir / "torn" / "sweep.json").write_text('{"submissions": [')
    (ended / "checkpoint-1" / "manifest.json").unlink()  # half deleted
    answer = ask("clean", "--older-than", "0", "--yes", "--json")
    assert answer.stderr.startswith("Skipped torn: ")
    assert len(answer.stderr.splitlines()) == 1
    assert json.loads(answer.stdout)["runs"][0]["folders"] == ["checkpoint-2", "checkpoint-1"]


def test_a_folder_that_is_not_writable_is_left_alone_in_one_line(ask_as_another_user: Ask, ended: Path) -> None:
    answer = ask_as_another_user("clean", "one", "--yes")
    assert answer.stdout == "Nothing was removed.\n"
    assert answer.stderr == f"Left alone: one: run 0: {ended} is not writable for you\n"


def test_a_name_with_quotes_and_line_breaks_takes_one_line(ask: Ask, ended: Path, jobs_dir: Path) -> None:
    odd = 'it\'s "odd"\n[bold]name'
    (jobs_dir / "one").rename(jobs_dir / odd)
    fsync_path(jobs_dir)
    lines = ask("clean", odd, "--yes").stdout.splitlines()
    assert lines[1].startswith('it\'s "odd"\\n[bold]name  0')
    assert len(lines) == 3
