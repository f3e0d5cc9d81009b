"""`vec-jobs diff`, on sweeps as they lie on disk."""

from pathlib import Path
from typing import Any

import pytest

from common import sweep
from tests.vec_jobs.conftest import Ask, Rows
from tests.vec_jobs.written import FakeSlurm, write_run, write_sweep


def write_two(jobs_dir: Path) -> None:
    outs = write_sweep(jobs_dir / "two", config={"trainer.batch_size": 8})
    write_run(outs[0], total=100, result={"eval_loss": 0.3})
    write_run(outs[1], step=70)


def change(folder: Path, **facts: Any) -> None:
    """Of the only submission."""
    (submission,) = sweep.read(folder)
    for name, value in facts.items():
        setattr(submission, name, value)
    sweep.write(folder, [submission])


def test_diff_of_two_runs_of_a_sweep_is_what_was_swept(rows: Rows, ask: Ask, slurm: FakeSlurm, jobs_dir: Path) -> None:
    write_two(jobs_dir)
    slurm.knows(_0="COMPLETED", _1="RUNNING")
    found = rows("diff", "two", "0", "1")
    assert found["configuration"] == ["trainer.seed: 0 -> 1"]
    assert (found["code"], found["environment"]) == ([], [])
    results = found["results"]
    assert (results["state"], results["step"]) == (["COMPLETED", "RUNNING"], [100, 70])
    assert (results["eval_loss"], results["loss"]) == ([0.3, None], [None, 0.5])
    shown = [line.split() for line in ask("diff", "two", "0", "1").stdout.splitlines()]
    assert ["trainer.seed:", "0", "->", "1"] in shown
    assert ["eval_loss", "0.3", "-"] in shown
    assert ["code:", "the", "same"] in shown
    assert len(slurm.asked) == 2  # once for each of the two commands


def test_diff_says_so_where_nothing_differs(ask: Ask, jobs_dir: Path) -> None:
    write_two(jobs_dir)
    assert ask("diff", "two", "1", "1").stdout.startswith("Nothing differs in configuration, code and environment.\n")


def test_diff_across_sweeps_tells_of_code_and_environment(rows: Rows, ask: Ask, jobs_dir: Path) -> None:
    write_two(jobs_dir)
    write_sweep(jobs_dir / "other", config={"trainer.batch_size": 16}, objective="eval_loss")
    change(jobs_dir / "two", git={"commit": "aaa", "diff": ""}, python="3.11.7", versions={"numpy": "1.26"})
    diff = "diff --git a/train.py b/train.py\n+x = 1\n"
    facts = {"git": {"commit": "bbb", "diff": diff}, "python": "3.12.1", "versions": {"numpy": "2.1"}}
    change(jobs_dir / "other", preset="killarney/l40s_1x", **facts)
    found = rows("diff", "two", "0", "other:0")
    assert found["configuration"] == ["trainer.batch_size: 8 -> 16"]
    assert found["code"] == ["commit: aaa -> bbb", "uncommitted changes in train.py"]
    changes = ["preset: bon_echo/cpu_1x -> killarney/l40s_1x", "numpy: 1.26 -> 2.1", "python: 3.11.7 -> 3.12.1"]
    assert found["environment"] == changes
    assert "run 0 of two  run 0 of other" in ask("diff", "two", "0", "other:0").stdout


def test_a_value_with_line_breaks_takes_one_line(ask: Ask, jobs_dir: Path) -> None:
    write_two(jobs_dir)
    (submission,) = sweep.read(jobs_dir / "two")
    submission.points[1].config["note"] = "it's\n[bold]"
    sweep.write(jobs_dir / "two", [submission])
    assert "  note: (absent) -> it's\\n[bold]" in ask("diff", "two", "0", "1").stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["two", "0", "7"], "two has no run 7: it has 0 to 1."),
        (["two", "0", "x"], "x names no run: give its index, or SWEEP:index"),
        (["two", "0", "no:1"], "There is no sweep no in "),
    ],
)
def test_a_run_that_is_not_there_is_told_in_one_line(ask: Ask, jobs_dir: Path, words: list[str], message: str) -> None:
    write_two(jobs_dir)
    answer = ask("diff", *words)
    assert answer.exit_code == 1
    assert message in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_diff_tells_the_files_of_the_code_that_the_jobs_ran(rows: Rows, jobs_dir: Path) -> None:
    write_two(jobs_dir)
    write_sweep(jobs_dir / "other")
    for name, lines in (("two", {"a.py": "1", "b.py": "2"}), ("other", {"a.py": "1", "b.py": "3", "c.py": "4"})):
        change(jobs_dir / name, code=name, git={"commit": name, "diff": ""})
        (jobs_dir / name / "code" / name / "mlp").mkdir(parents=True)
        for file, text in lines.items():
            (jobs_dir / name / "code" / name / "mlp" / file).write_text(text)
    assert rows("diff", "two", "0", "other:0")["code"] == ["commit: two -> other", "mlp/b.py", "mlp/c.py"]
    assert rows("diff", "two", "0", "1")["code"] == []
