"""A sweep in which everything happens, as a user sees it through vec-jobs: in the end all runs are COMPLETED."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .runs import Runs
from .training import preempt, signal_if_alive

pytestmark = pytest.mark.slurm

RUNS = 12  # with the seeds 1 to 12
FAILS, KILLED, CANCELLED = 0, 2, 3
SWEEP = [
    "compute=killarney/l40s_1x", "compute.slurm.partition=low", "compute.mem_gb=4", "compute.cpus_per_task=1",
    "trainer.num_epochs=200", "trainer.log_every=10", f"trainer.seed=range(1,{RUNS + 1})",
    "requeue.save_every_min=0.01", "hydra.launcher.array_parallelism=4",
]  # fmt: skip


@pytest.mark.minutes(3)
def test_a_sweep_with_every_mishap_is_told_truly_and_ends_completed(
    runs_of: Callable[..., Runs], tmp_path: Path
) -> None:
    runs = runs_of("mlp.single", *SWEEP, name="life")
    in_the_way = runs.out_dir(FAILS) / "result.json"
    in_the_way.mkdir(parents=True)
    runs.submit()

    def vec_jobs(verb: str, *words: str) -> str:
        env = os.environ | runs.slurm.env() | {"USER": "root", "VEC_WORK_ROOT": str(tmp_path)}
        command = [str(Path(sys.executable).with_name("vec-jobs")), verb, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def rows() -> list[dict[str, Any]]:
        return json.loads(vec_jobs("status", "life", "--json"))

    # one will fail when it writes its result; of the others one is killed, one cancelled, what runs then is preempted
    for index in (KILLED, CANCELLED):
        runs.wait_step(10, index)
    for pid in runs.task_pids(KILLED).values():
        signal_if_alive(pid, signal.SIGKILL)
    vec_jobs("cancel", "life", str(CANCELLED), "--yes")
    runs.wait_state("FAILED", index=KILLED)
    runs.wait_state("CANCELLED", index=CANCELLED)
    runs.wait_for(lambda: any(row["state"] == "RUNNING" and row["step"] for row in rows()), "another run")
    running = [row for row in rows() if row["state"] == "RUNNING" and row["step"]]
    preempted = min(running, key=lambda row: row["step"])["run"]
    preempt(runs)
    runs.wait_attempts(1, "end", index=preempted)
    runs.release(preempted)
    ended = ("COMPLETED", "FAILED", "CANCELLED")
    runs.wait_for(lambda: all(row["state"] in ended for row in rows()), "the end of all runs", 1.0)

    states = [row["state"] for row in rows()]
    assert [states[index] for index in (FAILS, KILLED, CANCELLED)] == ["FAILED", "FAILED", "CANCELLED"]
    assert states.count("COMPLETED") == RUNS - 3
    assert len(runs.attempts("start", preempted)) == 2
    why = {index: vec_jobs("why", "life", str(index)) for index in (FAILS, KILLED, CANCELLED, preempted)}
    assert "IsADirectoryError" in why[FAILS]
    assert "It failed in " in why[FAILS]
    assert "it was killed (signal 9), as the system does when memory runs out" in why[KILLED]
    assert "is CANCELLED" in why[CANCELLED]
    assert "Earlier ones ended by SIGTERM" in why[preempted]

    in_the_way.rmdir()
    saved = runs.checkpoints(CANCELLED)[-1]
    vec_jobs("retry", "life", "--failed")
    runs.wait_for(lambda: all(row["state"] == "COMPLETED" for row in rows()), "12 COMPLETED", 1.0)
    assert [row["run"] for row in rows()] == list(range(RUNS))
    assert runs.first_steps(CANCELLED) == [0, saved], "it went on from where it was cancelled"
    assert len({runs.result(index)["parameters_sha256"] for index in range(RUNS)}) == RUNS

    assert "trainer.seed: 1 -> 2" in vec_jobs("diff", "life", "0", "1")
    report = json.loads(vec_jobs("report", "life", "--json"))
    assert "12 COMPLETED" in Path(report["report"]).read_text()
