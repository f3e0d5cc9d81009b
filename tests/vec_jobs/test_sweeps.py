"""`vec-jobs list | status | why | report | logs | cancel | retry`, on real sweeps of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.paths import read_lines

pytestmark = pytest.mark.learns  # they wait for trainings, short as they are

VEC_JOBS = str(Path(sys.executable).with_name("vec-jobs"))
Ask = Callable[..., "subprocess.CompletedProcess[str]"]


def launch(work_root: Path, name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlp.single.launch", "compute=local"]  # its work root is the folder it is run in
    return call(work_root, *command, f"experiment_name={name}", *overrides)


def call(cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"USER": "alice", "VEC_WORK_ROOT": str(cwd), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, cwd=cwd)


@pytest.fixture(scope="module")
def work_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work root with the sweep `two`: run 0 learns for 64 steps, run 1 diverges."""
    root = tmp_path_factory.mktemp("it's a root")
    launch(root, "two", "trainer.num_epochs=2", "trainer.learning_rate=1e-3,1e30")
    return root


@pytest.fixture
def vec_jobs(work_root: Path) -> Ask:
    return lambda *words: call(work_root, VEC_JOBS, *words)


def rows(answer: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@contextmanager
def held_in_training(out_dir: Path) -> Iterator[None]:
    """A run that has begun to train waits meanwhile, so that it cannot end before it was asked about."""
    give_up = time.monotonic() + 120
    while len(read_lines(out_dir / "metrics.jsonl")) < 10:
        assert time.monotonic() < give_up, "it does not train"
        time.sleep(0.02)
    pid = read_lines(out_dir / "attempts.jsonl")[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_list_tells_what_each_sweep_is(vec_jobs: Ask) -> None:
    (row,) = [row for row in rows(vec_jobs("list", "--json")) if row["sweep"] == "two"]
    assert (row["template"], row["preset"], row["runs"], row["completed"]) == ("mlp.single", "local", 2, 1)
    assert "two" in vec_jobs("list").stdout


def test_status_tells_the_truth_about_each_run(vec_jobs: Ask) -> None:
    first, second = rows(vec_jobs("status", "two", "--json"))
    assert (first["state"], first["attempt"], first["reason"]) == ("COMPLETED", 1, "")
    assert (first["step"], first["total_steps"]) == (64, 64)
    assert first["metrics"]["eval_accuracy"] > 0
    assert first["overrides"] == ["trainer.learning_rate=0.001"]
    assert second["state"] == "FAILED"
    assert "NonFiniteError" in second["reason"]
    assert "NonFiniteError" in vec_jobs("status", "two").stdout


def test_why_names_the_error_and_the_line_of_ones_own(vec_jobs: Ask) -> None:
    told = vec_jobs("why", "two", "1").stdout
    assert told.startswith("Run 1 (job ")
    assert "is FAILED: NonFiniteError: loss is " in told
    assert "common/metrics.py, line " in told
    assert len(told.strip().splitlines()) == 1
    assert "it has ended well" in vec_jobs("why", "two", "0").stdout


def test_report_names_the_best_run_and_why_the_other_failed(vec_jobs: Ask, work_root: Path) -> None:
    answer = vec_jobs("report", "two", "--json")
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert told["states"] == {"COMPLETED": 1, "FAILED": 1}
    assert (told["best"]["run"], told["best"]["values"]) == (0, {"learning_rate": 0.001})
    assert told["report"] == str(work_root / "vec_jobs" / "two" / "report" / "report.html")
    assert "Run 1 (job " in Path(told["report"]).read_text()
    assert "is FAILED: NonFiniteError: loss is " in Path(told["report"]).read_text()


def test_logs_shows_the_runs_own_log_and_its_stderr(vec_jobs: Ask) -> None:
    assert "finished at step 64" in vec_jobs("logs", "two", "0").stdout
    assert "Traceback" in vec_jobs("logs", "two", "1", "--err").stdout


def test_retry_submits_the_failed_run_alone_and_leaves_the_others(vec_jobs: Ask, work_root: Path) -> None:
    done = work_root / "vec_jobs" / "two" / "0" / "outputs" / "result.json"
    before = done.stat().st_mtime_ns
    answer = vec_jobs("retry", "two", "--failed")
    assert answer.returncode == 1  # it diverges again
    assert "1 of 1 runs did not complete: 1." in answer.stderr
    assert done.stat().st_mtime_ns == before
    assert [row["attempt"] for row in rows(vec_jobs("status", "two", "--json"))] == [1, 2]


def test_a_cancelled_run_saves_and_a_retry_goes_on_from_there(vec_jobs: Ask, work_root: Path) -> None:
    launch(work_root, "long", "trainer.num_epochs=400", "hydra.launcher.wait=false", "trainer.log_every=1")
    out_dir = work_root / "vec_jobs" / "long" / "0" / "outputs"
    with held_in_training(out_dir):
        (running,) = rows(vec_jobs("status", "long", "--json"))
        assert (running["state"], running["total_steps"]) == ("RUNNING", 12800)
        assert 0 < running["eta_s"] < 3600
        assert vec_jobs("retry", "long", "0").stderr.startswith("Error: Run 0 is RUNNING as job ")
        assert vec_jobs("cancel", "long", "--yes").stdout == "Told to end: run 0.\n"
    give_up = time.monotonic() + 120
    while rows(vec_jobs("status", "long", "--json"))[0]["state"] == "RUNNING" and time.monotonic() < give_up:
        time.sleep(0.1)
    assert rows(vec_jobs("status", "long", "--json"))[0]["state"] == "CANCELLED"
    assert "Nothing to cancel" in vec_jobs("cancel", "long", "--yes").stdout
    assert vec_jobs("retry", "long").returncode == 0
    give_up = time.monotonic() + 120
    while not (out_dir / "result.json").exists() and time.monotonic() < give_up:
        time.sleep(0.1)
    resumed = [event["step"] for event in read_lines(out_dir / "attempts.jsonl") if event["event"] == "resume"]
    assert resumed[0] == 0
    assert resumed[1] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status", "tow"], "There is no sweep tow in "),
        (["status", "tow"], "near it: two."),
        (["why", "two", "7"], "two has no run 7: it has 0 to 1."),
        (["retry", "two", "0"], "Run 0 is COMPLETED: to train longer, submit it with other overrides."),
        (["status", "--root", "nowhere"], "say where with --root <work root>"),
    ],
)
def test_a_mistake_is_told_in_one_line(vec_jobs: Ask, words: list[str], message: str) -> None:
    answer = vec_jobs(*words)
    assert answer.returncode == 1
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_a_damaged_sweep_is_named_and_the_others_are_listed(vec_jobs: Ask, work_root: Path) -> None:
    broken = work_root / "vec_jobs" / "broken"
    broken.mkdir()
    (broken / "sweep.json").write_text('{"submissions": [')
    answer = vec_jobs("list", "--json")
    assert "two" in {row["sweep"] for row in json.loads(answer.stdout)}
    assert "broken/sweep.json is damaged" in answer.stderr
    assert vec_jobs("status", "broken").returncode == 1


def test_a_sweep_is_extended_by_new_points_only_and_each_is_retried_as_it_was(vec_jobs: Ask, work_root: Path) -> None:
    launch(work_root, "more", "trainer.num_epochs=2", "trainer.seed=1,2")
    extended = vec_jobs("extend", "more", "trainer.seed=2,3,4", "--json")
    assert json.loads(extended.stdout) == {"runs": [2, 3], "exit_code": 0}, extended.stderr
    runs = rows(vec_jobs("status", "more", "--json"))
    assert [(row["run"], row["state"]) for row in runs] == [(index, "COMPLETED") for index in range(4)]
    submissions = json.loads((work_root / "vec_jobs" / "more" / "sweep.json").read_text())["submissions"]
    seeds = [point["config"]["trainer.seed"] for one in submissions for point in one["points"]]
    assert seeds == [1, 2, 3, 4], "seed 2 was there already"
    assert vec_jobs("extend", "more", "trainer.seed=1,4").returncode == 0
    assert len(rows(vec_jobs("status", "more", "--json"))) == 4, "all of them were"
    assert vec_jobs("extend", "more", "trainer.seed=5", "trainer.learning_rate=1e30").returncode == 1  # it diverges
    assert json.loads(vec_jobs("retry", "more", "--json").stdout) == {"runs": [4], "exit_code": 1}
    runs = rows(vec_jobs("status", "more", "--json"))
    assert [row["attempt"] for row in runs] == [1, 1, 1, 1, 2]
    assert (
        "trainer.learning_rate=1e30" in runs[-1]["overrides"] or "trainer.learning_rate=1e+30" in runs[-1]["overrides"]
    )


def test_a_sweep_with_an_odd_name_is_watched_cancelled_and_retried(vec_jobs: Ask, work_root: Path) -> None:
    name = 'it\'s "odd", [new]\nand all'
    quoted = name.replace("'", "\\'")
    launch(work_root, f"'{quoted}'", "trainer.num_epochs=400", "hydra.launcher.wait=false", "trainer.log_every=1")
    with held_in_training(work_root / "vec_jobs" / name / "0" / "outputs"):
        assert vec_jobs("cancel", name, "--yes").stdout == "Told to end: run 0.\n"
    assert "CANCELLED" in vec_jobs("status", name, "--watch").stdout.splitlines()[-1]
    assert vec_jobs("retry", name).returncode == 0
    assert "COMPLETED" in vec_jobs("status", name, "--watch").stdout.splitlines()[-1]
    (row,) = rows(vec_jobs("status", name, "--json"))
    assert (row["attempt"], row["step"]) == (2, 12800)
