"""`vec-jobs list` and `status`, on sweeps as they lie on disk, and with a Slurm that counts how often it is asked."""

import inspect
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from common import attempts, board, runs, sweep
from tests import screen
from tests.vec_jobs.conftest import Ask, Rows
from tests.vec_jobs.written import FakeSlurm, write_run, write_sweep
from vec_jobs.cli import app

VEC_JOBS = str(Path(sys.executable).with_name("vec-jobs"))
ODD = 'it\'s "odd"\n[bold]name'


def test_every_verb_prints_json() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert "as_json" in inspect.signature(command.callback).parameters, command.callback.__name__


# ----- list -----


def test_list_shows_states_and_the_best_value_of_the_objective(rows: Rows, slurm: FakeSlurm, jobs_dir: Path) -> None:
    outs = write_sweep(jobs_dir / "four", 4)
    write_run(outs[0], result={"eval_loss": 0.3, "eval_accuracy": 0.9})
    write_run(outs[1], result={"eval_loss": 0.2, "eval_accuracy": 0.8})
    slurm.knows(_2="RUNNING")
    (row,) = rows("list")
    assert row["states"] == {"COMPLETED": 2, "RUNNING": 1, "UNKNOWN": 1}
    assert (row["objective"], row["best"], row["best_run"]) == ("eval_loss", 0.2, 1)


def test_list_takes_the_highest_where_the_objective_is_maximized(rows: Rows, jobs_dir: Path) -> None:
    outs = write_sweep(jobs_dir / "two", objective="eval_accuracy", direction="maximize")
    write_run(outs[0], result={"eval_accuracy": 0.9})
    write_run(outs[1], result={"eval_accuracy": 0.8})
    assert (rows("list")[0]["best"], rows("list")[0]["best_run"]) == (0.9, 0)


def test_list_has_no_best_where_no_run_has_the_objective(rows: Rows, ask: Ask, jobs_dir: Path) -> None:
    write_run(write_sweep(jobs_dir / "one", 1, objective="reward")[0], result={"eval_loss": 0.3})
    assert rows("list")[0]["best"] is None
    assert " - " in ask("list").stdout


def test_list_asks_slurm_once_for_all_sweeps_and_only_about_runs_without_a_result(
    rows: Rows, slurm: FakeSlurm, jobs_dir: Path
) -> None:
    for number in range(5):
        write_sweep(jobs_dir / f"waits-{number}", 3, job=100 + number)
    for out_dir in write_sweep(jobs_dir / "done", job=200):
        write_run(out_dir, result={"eval_loss": 0.1})
    slurm.answers([f"{100 + number}_[0-2%1]|PENDING||0:0" for number in range(5)])
    states = {row["sweep"]: row["states"] for row in rows("list")}
    assert states == {f"waits-{number}": {"PENDING": 3} for number in range(5)} | {"done": {"COMPLETED": 2}}
    assert [line.split()[-1] for line in slurm.asked] == ["100,101,102,103,104"]


def test_a_result_from_before_the_last_submission_is_not_taken_for_its_end(
    rows: Rows, slurm: FakeSlurm, jobs_dir: Path
) -> None:
    (out_dir,) = write_sweep(jobs_dir / "again", 1)
    write_run(out_dir, result={"eval_loss": 0.1})
    old = time.time() - 3600
    os.utime(out_dir / "result.json", (old, old))
    assert rows("list")[0]["states"] == {"UNKNOWN": 1}
    slurm.knows(_0="RUNNING")
    assert rows("list")[0]["states"] == {"RUNNING": 1}


def test_list_shows_the_newest_and_says_how_many_more_there_are(ask: Ask, rows: Rows, jobs_dir: Path) -> None:
    for number in range(4):
        write_sweep(jobs_dir / f"sweep-{number}", 1)
        os.utime(jobs_dir / f"sweep-{number}" / "sweep.json", (number, number))
    answer = ask("list", "--limit", "3")
    assert [line.split()[0] for line in answer.stdout.splitlines()[1:-1]] == ["sweep-3", "sweep-2", "sweep-1"]
    assert answer.stdout.splitlines()[-1] == "and 1 older: --all shows them"
    assert len(rows("list", "--limit", "3", "--all")) == 4


def test_list_goes_on_past_sweeps_that_cannot_be_read(ask: Ask, jobs_dir: Path) -> None:
    for name in ("torn", "folder", "good", "half"):
        write_sweep(jobs_dir / name, 1)
    (jobs_dir / "torn" / "sweep.json").write_text('{"submissions": [')
    (jobs_dir / "folder" / "sweep.json").unlink()
    (jobs_dir / "folder" / "sweep.json").mkdir()
    (jobs_dir / "half" / "sweep.json").unlink()
    answer = ask("list", "--json")
    assert [row["sweep"] for row in json.loads(answer.stdout)] == ["good"]
    assert sorted(line.split(":")[0] for line in answer.stderr.splitlines()) == ["Skipped folder", "Skipped torn"]


def test_sweeps_of_another_user_are_named_and_the_others_are_listed(ask_as_another_user: Ask, jobs_dir: Path) -> None:
    for name in ("readable", "closed"):
        write_sweep(jobs_dir / name, 1)
    (jobs_dir / "closed").chmod(0o700)
    answer = ask_as_another_user("list", "--json")
    assert [row["sweep"] for row in json.loads(answer.stdout)] == ["readable"]
    assert answer.stderr == f"Skipped closed: {jobs_dir}/closed/sweep.json cannot be read: Permission denied.\n"


# ----- status -----


def test_status_of_a_thousand_runs_asks_slurm_once(rows: Rows, slurm: FakeSlurm, jobs_dir: Path) -> None:
    for out_dir in write_sweep(jobs_dir / "large", 1000)[:20]:
        write_run(out_dir)
    slurm.answers([*(f"4711_{task}|RUNNING|kn1|0:0" for task in range(20)), "4711_[20-999%20]|PENDING||0:0"])
    begun = time.process_time()
    found = rows("status", "large")
    spent_s = time.process_time() - begun
    assert [row["state"] for row in found] == ["RUNNING"] * 20 + ["PENDING"] * 980
    assert [line.split()[-2:] for line in slurm.asked] == [["-j", "4711"]]
    assert spent_s < 4, "the promise is 2 s on a machine that does nothing else"


def test_status_shows_progress_and_the_time_left_at_the_pace_of_this_attempt(
    rows: Rows, ask: Ask, slurm: FakeSlurm, jobs_dir: Path
) -> None:
    out_dir, _ = write_sweep(jobs_dir / "two")
    out_dir.mkdir(parents=True)
    now = time.time()
    events = [
        {"event": "start", "attempt": 1, "time": now - 5000},
        {"event": "train", "attempt": 1, "step": 0, "total_steps": 1000, "time": now - 4990},
        {"event": "start", "attempt": 2, "time": now - 110},
        {"event": "train", "attempt": 2, "step": 400, "total_steps": 1000, "time": now - 100},
    ]
    (out_dir / "attempts.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    slurm.knows(_0="RUNNING", _1="PENDING")
    metrics = out_dir / "metrics.jsonl"
    metrics.write_text(json.dumps({"step": 390, "time_s": 4000.0, "attempt": 1, "loss": 0.5}) + "\n")
    first, second = rows("status")
    assert (first["step"], first["total_steps"], first["eta_s"]) == (390, 1000, None)  # this attempt has logged nothing
    assert (second["step"], second["total_steps"], second["eta_s"]) == (None, None, None)
    with metrics.open("a") as file:  # 100 steps in the 80 s until 20 s ago: 500 more take 400 s, of which 20 are over
        file.write(json.dumps({"step": 500, "time_s": 4980.0, "attempt": 2, "loss": 0.5}) + "\n")
    assert rows("status")[0]["eta_s"] == pytest.approx(380, abs=5)
    shown = ask("status").stdout.splitlines()
    assert "500/1000 (50%)" in shown[1]
    assert "6 min" in shown[1]
    assert len(shown) == 3


def test_status_of_a_complete_run_is_its_result(rows: Rows, slurm: FakeSlurm, jobs_dir: Path) -> None:
    write_run(write_sweep(jobs_dir / "one", 1)[0], step=50, total=64, result={"eval_loss": 0.25})
    slurm.knows(_0="COMPLETED")
    (row,) = rows("status")
    assert (row["step"], row["total_steps"], row["eta_s"], row["metrics"]) == (64, 64, None, {"eval_loss": 0.25})


def test_the_productive_share_of_a_run_that_has_ended_does_not_grow(
    rows: Rows, slurm: FakeSlurm, jobs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, killed = write_sweep(jobs_dir / "two")
    for out_dir in (ended, killed):
        write_run(out_dir)
    attempts.end(ended, "ValueError: no")
    slurm.knows(_0="FAILED", _1="OUT_OF_MEMORY")
    now = [row["goodput"] for row in rows("status")]
    later = time.time() + 10_000
    monkeypatch.setattr("time.time", lambda: later)
    assert [row["goodput"] for row in rows("status")] == now


def test_a_run_that_nobody_knows_is_unknown_not_done(rows: Rows, jobs_dir: Path) -> None:
    outs = write_sweep(jobs_dir / "old", 3)
    write_run(outs[0], result={"eval_loss": 0.25})
    write_run(outs[1])
    assert [row["state"] for row in rows("status")] == ["COMPLETED", "UNKNOWN", "UNKNOWN"]


def test_a_run_that_was_killed_on_another_machine_or_whose_files_are_gone_is_unknown(
    rows: Rows, jobs_dir: Path
) -> None:
    write_sweep(jobs_dir / "here", 2, job=999_999_999, executor="local")
    logs = jobs_dir / "here" / "submitit_logs"
    assert [row["state"] for row in rows("status")] == ["UNKNOWN", "UNKNOWN"]
    logs.mkdir()
    run = {"state": "RUNNING", "pids": [999_999_999], "exit_code": None}
    states = {"0": run | {"node": os.uname().nodename}, "1": run | {"node": "elsewhere"}}
    (logs / "local_999999999.json").write_text(json.dumps(states))
    assert [row["state"] for row in rows("status")] == ["FAILED", "UNKNOWN"]


def test_a_retried_run_is_shown_as_it_was_submitted_last(rows: Rows, slurm: FakeSlurm, jobs_dir: Path) -> None:
    write_sweep(jobs_dir / "two")
    write_sweep(jobs_dir / "two", 1, job=5000)
    slurm.answers(["4711_0|FAILED|kn1|1:0", "4711_1|COMPLETED|kn1|0:0", "5000_0|PENDING||0:0"])
    assert [(row["job"], row["state"]) for row in rows("status")] == [("5000_0", "PENDING"), ("4711_1", "COMPLETED")]


@pytest.mark.parametrize("verb", ["status", "why", "cancel", "retry", "list"])
def test_names_and_overrides_with_quotes_and_line_breaks_take_one_line(
    ask: Ask, rows: Rows, slurm: FakeSlurm, jobs_dir: Path, verb: str
) -> None:
    (out_dir,) = write_sweep(jobs_dir / ODD, 1)
    written = sweep.read(jobs_dir / ODD)
    written[0].points[0].overrides = [f"+note={ODD}", "x=[1, 2]"]
    sweep.write(jobs_dir / ODD, written)
    write_run(out_dir, result={"eval_loss": 0.25})
    slurm.knows(_0="COMPLETED")
    words = [verb] if verb == "list" else [verb, ODD]
    answer = ask(*words)
    lines = answer.output.splitlines()
    assert answer.exit_code == 0
    assert len(lines) == (2 if verb in ("list", "status") else 1)
    told = 'it\'s "odd"\\n[bold]name'
    assert told in lines[-1] or verb == "why"
    if verb == "status":
        assert f"+note={told} x=[1, 2]" in lines[-1]
        assert rows("status", ODD)[0]["overrides"] == [f"+note={ODD}", "x=[1, 2]"]


def test_a_sweep_that_is_not_there_is_told_in_one_line_whatever_its_name(ask: Ask, jobs_dir: Path) -> None:
    write_sweep(jobs_dir / ODD, 1)
    answer = ask("status", ODD.replace("bold", "b"))
    assert answer.exit_code == 1
    assert len(answer.stderr.splitlines()) == 1
    assert 'near it: it\'s "odd"\\n[bold]name.' in answer.stderr


# ----- status --watch -----


def test_watching_on_a_pipe_prints_each_change_and_the_table_at_the_end(
    slurm: FakeSlurm, work_root: Path, jobs_dir: Path
) -> None:
    write_sweep(jobs_dir / "two")
    slurm.knows(_0="RUNNING", _1="PENDING")
    env = os.environ | {"VEC_WORK_ROOT": str(work_root)}
    watching = subprocess.Popen([VEC_JOBS, "status", "--watch"], env=env, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert watching.stdout.readline() == "run 0 (job 4711_0): RUNNING\n"
    assert watching.stdout.readline() == "run 1 (job 4711_1): PENDING\n"
    slurm.knows(_0="FAILED", _1="COMPLETED")
    rest = watching.stdout.read().splitlines()
    assert watching.wait(timeout=30) == 0
    assert rest[:2] == ["run 0 (job 4711_0): FAILED", "run 1 (job 4711_1): COMPLETED"]
    assert [line.split()[0] for line in rest[2:5]] == ["run", "0", "1"]
    assert rest[5] == "2 runs: 1 FAILED, 1 COMPLETED"


def test_watching_does_not_wait_for_runs_that_are_long_forgotten(ask: Ask, jobs_dir: Path) -> None:
    write_sweep(jobs_dir / "old", age_s=5000)
    assert ask("status", "--watch").stdout.splitlines()[-1] == "2 runs: 2 UNKNOWN"


def test_the_live_table_fits_the_terminal_and_ctrl_c_stops_nothing(
    slurm: FakeSlurm, work_root: Path, jobs_dir: Path
) -> None:
    write_sweep(jobs_dir / "large", 1000)
    ended = [*(f"4711_{task}|COMPLETED|kn1|0:0" for task in range(50)), "4711_60|OUT_OF_MEMORY|kn1|0:9"]
    waiting = "4711_[50-59,61-899,901-999]|PENDING||0:0"
    slurm.answers([*ended, waiting, "4711_900|RUNNING|kn1|0:0"])
    env = os.environ | {"VEC_WORK_ROOT": str(work_root), "LINES": "20", "COLUMNS": "120", "TERM": "xterm"}
    watching, leader = screen.start([VEC_JOBS, "status", "--watch"], env)
    more = re.compile(r"and (\d+) more: 948 PENDING, (\d+) COMPLETED")
    shown = screen.read_until(leader, lambda shown: more.search(shown) is not None)
    rest = screen.interrupt(watching, leader)
    assert watching.wait(timeout=30) == 0
    last = more.search(shown)
    assert last is not None
    assert "Stopped watching. Nothing else is stopped: the runs go on." in rest
    lines = shown[: last.end()].splitlines()
    assert len(lines) <= 20
    indices = [line.split()[0] for line in lines if "4711_" in line]
    assert indices[:4] == ["900", "60", "0", "1"]
    assert [int(last[1]), int(last[2])] == [1000 - len(indices), 52 - len(indices)]
    assert not any("scancel" in call for call in slurm.asked)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_state_is_readable_however_narrow_the_terminal(slurm: FakeSlurm, jobs_dir: Path, width: int) -> None:
    write_run(write_sweep(jobs_dir / "two")[0], step=1000, total=100_000)
    slurm.knows(_0="OUT_OF_MEMORY", _1="PENDING")
    console = Console(width=width)
    with console.capture() as shown:
        console.print(board.live_table(runs.look(jobs_dir / "two", sweep.read(jobs_dir / "two")), width, 20))
    lines = shown.get().splitlines()
    assert len(lines) == 3
    assert "OUT_OF_MEMORY" in lines[1]
    assert "train" in lines[1]


def test_watch_and_json_exclude_each_other(ask: Ask, jobs_dir: Path) -> None:
    write_sweep(jobs_dir / "two")
    assert ask("status", "--watch", "--json").stderr.startswith("Error: --watch shows a table")


# ----- completion -----


def test_names_of_sweeps_complete_in_the_shell(ask: Ask, work_root: Path, jobs_dir: Path) -> None:
    for name in ("first", "fine", "other"):
        write_sweep(jobs_dir / name, 1)
    env = os.environ | {"VEC_WORK_ROOT": str(work_root), "COMP_WORDS": "vec-jobs status fi", "COMP_CWORD": "2"}
    env |= {"_VEC_JOBS_COMPLETE": "complete_bash"}
    done = subprocess.run([VEC_JOBS], env=env, capture_output=True, text=True)  # what bash does at Tab
    assert (sorted(done.stdout.split()), done.stderr) == (["fine", "first"], "")
    typed = {"COMP_WORDS": f"vec-jobs why --root {work_root} fi", "COMP_CWORD": "4", "VEC_WORK_ROOT": "nowhere"}
    answer = ask(env=typed | {"_ROOT_COMPLETE": "complete_bash"})  # typer's tests call the program root
    assert sorted(answer.stdout.split()) == ["fine", "first"]


def test_the_script_that_makes_names_complete_can_be_shown() -> None:
    in_bash = ["bash", "-c", f"{VEC_JOBS} --show-completion; exit $?"]  # it looks for the shell that called it
    done = subprocess.run(in_bash, capture_output=True, text=True)
    assert done.returncode == 0
    assert "_VEC_JOBS_COMPLETE=complete_bash" in done.stdout
