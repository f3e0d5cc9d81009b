"""From the command line to the queue: what a launcher that is killed leaves, what waits runs later, how much fits."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from common import sweep
from common.launch import launch
from vec_jobs import act
from vec_jobs.sweeps import Sweep

from .cluster import SlurmCluster, wait_until
from .runs import Runs

pytestmark = pytest.mark.slurm

SEED = 11  # of the moments at which launchers are killed
KILLS = 100  # with --full; else a fifth
CHECKOUT = Path(__file__).parents[2]

Submit = Callable[..., Runs]


def queued(slurm: SlurmCluster, name: str) -> dict[str, str]:
    """The priority of each task of the jobs of that name; 0 on hold."""
    lines = slurm.run("squeue", "-h", "-r", "-n", name, "-o", "%i|%Q").stdout.split()
    return dict(line.split("|") for line in lines)


def launcher(work_root: Path, name: str) -> ForkProcess:
    """A launcher of four runs in two arrays; forked, for this process has imported Hydra already."""
    overrides = [
        "compute=killarney/l40s_1x", "compute.mem_gb=1,2", "compute.cpus_per_task=1", "trainer.seed=1,2",
        "user.slurm.additional_parameters.begin=now+1hour", f"paths.work_root={work_root}", f"experiment_name={name}",
        f"hydra.launcher.name={name}",
    ]  # fmt: skip

    def launch_them() -> None:
        sys.argv = ["mlp-launch single", *overrides]
        launch("mlp.single", overrides)

    process = multiprocessing.get_context("fork").Process(target=launch_them)
    process.start()
    return process


# What a submission leaves in its folder, in this order: the folder, for which all has been checked; what will be asked
# for; a batch script, with which sbatch is called; the call of its jobs, now on hold; the jobs' ids; their release.
STAGES: list[Callable[[Path], bool]] = [
    lambda folder: folder.exists(),
    lambda folder: (folder / sweep.SWEEP_FILE).exists(),
    lambda folder: any(folder.glob("submitit_logs/.*.sh")),
    lambda folder: any(folder.glob("submitit_logs/*/*_submitted.pkl")),
    lambda folder: any(submission.points[-1].job_id for submission in sweep.read(folder)),
    lambda folder: any(submission.state == "submitted" for submission in sweep.read(folder)),
]


def wait_stage(folder: Path, stage: int) -> float:
    """Wait until a submission is as far as that; the moment."""
    assert wait_until(lambda: STAGES[stage](folder), 60, 0.002), f"it does not come to stage {stage}"
    return time.monotonic()


@pytest.mark.minutes(3)
def test_a_launcher_killed_at_any_moment_leaves_no_unknown_job_and_none_twice(
    slurm: SlurmCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    times: Callable[[int], int],
    record_property: Callable[[str, object], None],
) -> None:
    kills = times(KILLS)
    for name, value in (slurm.env() | {"USER": "root"}).items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)
    draw = random.Random(SEED)
    counts = {"before anything was queued": 0, "with jobs on hold": 0, "after": 0}
    whole = launcher(tmp_path, "whole")
    began = wait_stage(tmp_path / "vec_jobs" / "whole", 0)
    whole_s = wait_stage(tmp_path / "vec_jobs" / "whole", len(STAGES) - 1) - began
    whole.join()
    slurm.run("scancel", "-n", "whole")
    for kill in range(kills):
        name = f"k{kill}"
        folder = tmp_path / "vec_jobs" / name
        process = launcher(tmp_path, name)
        wait_stage(folder, kill % len(STAGES))
        if kill >= len(STAGES):  # the first of each at once: how far a delay leads depends on the machine
            time.sleep(draw.uniform(0.0, whole_s / 4))
        process.kill()
        process.join()
        assert wait_until(lambda folder=folder: not sweep.is_being_submitted(folder), 60)  # sbatch or scontrol lives on

        there = queued(slurm, name)
        known: set[str] = set()
        if (folder / sweep.SWEEP_FILE).exists():
            one = Sweep(folder)
            known = {str(run.point.job_id) for run in one.runs()}
            assert set(there) <= known, f"kill {kill}: sweep.json does not know {set(there) - known}"
            missing = act.to_retry(one.runs(), failed=False, missing=True, named=[])
            free = [job_id for job_id, priority in there.items() if priority != "0"]
            assert len(missing) == 4 - len(free), f"kill {kill}: {there}"
            counts["after" if len(free) == 4 else "with jobs on hold" if there else "before anything was queued"] += 1
            if missing:
                assert act.retry(one, missing) == 0
            now = queued(slurm, name)
            assert len(now) == 4, f"kill {kill}: {now}"
            assert "0" not in now.values()
            assert set(now) == {str(run.point.job_id) for run in Sweep(folder).runs()}
            slurm.run("scancel", "-n", name)
        else:
            assert there == {}
            counts["before anything was queued"] += 1
    record_property(f"{kills} launchers killed", ", ".join(f"{count} {when}" for when, count in counts.items()))
    assert min(counts.values()) > 0, "no kill hit one of the phases"


@pytest.mark.minutes(2)
def test_a_job_that_waits_runs_the_code_and_the_environment_of_its_submission(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    for name in tracked.stdout.rstrip("\0").split("\0"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, checkout / name, follow_symlinks=False)
    if (CHECKOUT / "uv.lock").exists():  # the same versions, without a resolution
        shutil.copy2(CHECKOUT / "uv.lock", checkout)
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
    env |= slurm.env() | {"USER": "root"}

    def uv(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["uv", *words], capture_output=True, text=True, cwd=checkout, env=env, timeout=300)

    submitted = uv(
        "run", "--package", "mlp", "mlp-launch", "single", "compute=killarney/l40s_1x", "compute.mem_gb=4",
        "compute.cpus_per_task=1", "trainer.num_epochs=2", f"paths.work_root={tmp_path}", "experiment_name=frozen",
        "user.slurm.additional_parameters.begin=now+1hour", "hydra.launcher.freeze_env=true",
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stderr
    train = checkout / "packages" / "mlp" / "src" / "mlp" / "single" / "train.py"
    train.write_text("raise RuntimeError('edited while the job waited')\n")
    synced = uv("sync", "--package", "vlm")
    assert synced.returncode == 0, synced.stderr
    assert "- mlp==" in synced.stderr, "the sync should have removed what the job needs"

    runs = Runs(slurm, tmp_path, "mlp.single", "frozen", ())
    slurm.run("scontrol", "update", f"jobid={runs.job_ids()[0]}", "StartTime=now")
    runs.wait_state("COMPLETED", "FAILED")
    assert runs.state() == "COMPLETED", runs.logs()
    command = (runs.work_dir / "submitit_logs" / runs.job_ids()[0]).glob("*_submission.sh")
    assert f"{checkout}/.frozen-envs/" in next(command).read_text()


def test_a_sweep_larger_than_an_array_is_submitted_in_seconds_and_shown(
    slurm: SlurmCluster, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    env = os.environ | slurm.env() | {"USER": "root", "VEC_WORK_ROOT": str(tmp_path)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            sys.executable, "-m", "mlp.single.launch", "compute=killarney/l40s_1x", "compute.mem_gb=4",
            "trainer.seed=range(1500)", f"paths.work_root={tmp_path}", "experiment_name=large",
            "hydra.launcher.name=large", "user.slurm.additional_parameters.begin=now+1hour",
        ],
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        assert done.returncode == 0, done.stderr
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        record_property("1,500 points submitted", f"{cpu_s:.0f} s of CPU time")
        assert cpu_s <= 60, f"{cpu_s:.0f} s of CPU time"
        points = json.loads((tmp_path / "vec_jobs" / "large" / "sweep.json").read_text())["submissions"][0]["points"]
        assert len({point["job_id"].split("_")[0] for point in points}) == 2  # MaxArraySize is 1001
        vec_jobs = str(Path(sys.executable).with_name("vec-jobs"))
        status = subprocess.run([vec_jobs, "status", "large", "--json"], capture_output=True, text=True, env=env)
        rows = json.loads(status.stdout)
        assert [row["run"] for row in rows] == list(range(1500))
        assert {row["state"] for row in rows} == {"PENDING"}
    finally:
        slurm.run("scancel", "-n", "large")


def test_two_launchers_on_one_sweep_submit_it_once(slurm: SlurmCluster, tmp_path: Path) -> None:
    env = os.environ | slurm.env() | {"USER": "root"}
    command = [
        sys.executable, "-m", "mlp.single.launch", "compute=killarney/l40s_1x", "compute.mem_gb=4", "trainer.seed=1,2",
        f"paths.work_root={tmp_path}", "experiment_name=twice", "hydra.launcher.name=twice",
        "user.slurm.additional_parameters.begin=now+1hour",
    ]  # fmt: skip
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) for _ in "12"]
    said = [one.communicate()[1].decode() for one in both]
    assert sorted(one.returncode for one in both) == [0, 1], said
    assert len(queued(slurm, "twice")) == 2
    refusal = next(text for text in said if "Error" in text)
    assert any(words in refusal for words in ("in the hands of", "is submitting", "has submitted", "is in use: job"))
    assert len(refusal.strip().splitlines()) == 1
    slurm.run("scancel", "-n", "twice")
