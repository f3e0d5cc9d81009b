"""Slurm's own word for a run is the truth, and every submission does what its command line says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.slurm import _squeue, states
from tests import screen

from .cluster import SlurmCluster, wait_until
from .runs import LIMIT_S, Runs, launch

pytestmark = pytest.mark.slurm

Submit = Callable[..., Runs]

SMALL = ["compute=killarney/l40s_1x", "compute.mem_gb=4", "compute.cpus_per_task=1"]
ENDLESS = [*SMALL, "trainer.num_epochs=100000", "trainer.log_every=10"]
SHORT = ["compute.timeout_min=2", "requeue.signal_delay_s=80"]  # not longer: row 3 in test_faults.py


@pytest.mark.parametrize("form", ["console script", "python -m"])
def test_sweep_of_four_completes_as_one_array(slurm: SlurmCluster, tmp_path: Path, form: str) -> None:
    overrides = [
        "compute=killarney/l40s_1x", "requeue=on", "trainer.learning_rate=1e-2,1e-3", "trainer.hidden_dim=64,128",
        f"paths.work_root={tmp_path}", "experiment_name=four", "trainer.num_epochs=50",
    ]  # fmt: skip
    if form == "python -m":
        done = launch(slurm, "mlp.single", *overrides, "--multirun")
    else:
        script = str(Path(sys.executable).with_name("mlp-launch"))
        env = os.environ | slurm.env() | {"USER": "root"}
        done = subprocess.run([script, "single", *overrides], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    runs = Runs(slurm, tmp_path, "mlp.single", "four", ())
    assert len({job_id.split("_")[0] for job_id in runs.job_ids()}) == 1
    for index in range(4):
        runs.wait_state("COMPLETED", "FAILED", index=index)
        assert runs.state(index) == "COMPLETED"
        assert runs.result(index)["status"] == "COMPLETED"
    wanted = [(0.01, 64), (0.01, 128), (0.001, 64), (0.001, 128)]
    points = json.loads((runs.work_dir / "sweep.json").read_text())["submissions"][0]["points"]
    assert [(p["config"]["trainer.learning_rate"], p["config"]["trainer.hidden_dim"]) for p in points] == wanted
    assert len({runs.result(index)["parameters_sha256"] for index in range(4)}) == 4


def test_folders_are_those_of_the_seed(submit: Submit) -> None:
    runs = submit("mlp.single", *SMALL, "trainer.num_epochs=2")
    runs.wait_state("COMPLETED", "FAILED")
    job = runs.job_ids()[0]
    expected = [
        "multirun.yaml", "sweep.json", f"submitit_logs/{job}/{job}_submission.sh",
        f"submitit_logs/{job}/{job}_0_log.out",
        f"submitit_logs/{job}/{job}_0_log.err", f"submitit_logs/{job}/{job}_0_result.pkl",
        f"submitit_logs/{job}/{job}_submitted.pkl", "0/mlp.single.log", "0/outputs/checkpoint-64/manifest.json",
        "0/outputs/result.json", "0/outputs/metrics.jsonl", "0/outputs/attempts.jsonl",
        *(f"0/hydra_configs/{name}.yaml" for name in ("config", "overrides", "hydra", "hydra_resolved")),
    ]  # fmt: skip
    assert [path for path in expected if not (runs.work_dir / path).exists()] == []
    assert "${" not in (runs.work_dir / "0/hydra_configs/hydra_resolved.yaml").read_text()


def test_run_out_of_timeouts_ends_failed_and_says_so(submit: Submit) -> None:
    runs = submit("mlp.single", *ENDLESS, "requeue.max_num_timeout=1", *SHORT)
    runs.wait_attempts(1, "requeue")
    runs.release()
    runs.wait_state("FAILED", "COMPLETED", "TIMEOUT")
    assert runs.state() == "FAILED"
    assert [event["timed_out"] for event in runs.attempts("requeue")] == [True]
    assert "Not requeued: it reached its time limit 2 times (requeue.max_num_timeout=1)" in runs.logs()


def test_not_checkpointable_run_starts_again_and_completes(submit: Submit) -> None:
    runs = submit("mlp.single_not_checkpointable", *SMALL, "trainer.num_epochs=400", "trainer.log_every=10")
    runs.wait_step(100)
    assert runs.slurm.run("scontrol", "requeue", runs.job_ids()[0]).returncode == 0
    runs.release()
    runs.wait_attempts(2)
    runs.wait_state("COMPLETED", "FAILED")
    assert runs.state() == "COMPLETED"
    steps = [step for step, *_ in runs.series()]
    assert steps == list(range(10, 12801, 10))


def test_used_directory_refuses_another_configuration_and_a_live_job(submit: Submit) -> None:
    runs = submit("mlp.single", *ENDLESS)
    runs.wait_step(10)
    live = runs.command()
    assert live.returncode == 1
    assert f"is in use: job {runs.job_ids()[0]} is RUNNING" in live.stderr
    runs.slurm.run("scancel", runs.job_ids()[0])
    runs.wait_state("CANCELLED")
    other = runs.command("trainer.seed=43")
    assert other.returncode == 1
    assert "already holds another run 0: trainer.seed: 42 -> 43" in other.stderr
    assert len(json.loads((runs.work_dir / "sweep.json").read_text())["submissions"]) == 1


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("compute.mem_gb=100000", "Requested node configuration is not available"),
        ("compute.slurm.partition=nope", "invalid partition specified: nope"),
        ("user.slurm.account=nope", "Invalid account or account/partition combination"),
        ("user.slurm.additional_parameters.qos=nope", "Invalid qos specification"),
        ("user.slurm.additional_parameters.nonsense=1", "unrecognized option '--nonsense=1'"),
        ("compute.slurm.partition=gpubase_l40s_b1 compute.timeout_min=600", "time limit"),
    ],
)
def test_request_that_slurm_refuses_is_told_in_its_words(
    slurm: SlurmCluster, tmp_path: Path, override: str, reason: str
) -> None:
    done = launch(slurm, "mlp.single", "compute=killarney/l40s_1x", f"paths.work_root={tmp_path}", *override.split())
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert slurm.run("squeue", "-h", "-n", "mlp.single", "-t", "PENDING").stdout == ""


def test_account_qos_and_partition_reach_slurm(submit: Submit) -> None:
    runs = submit(
        "mlp.single", *SMALL, "trainer.num_epochs=2", "user.slurm.account=other", "compute.slurm.qos=normal",
        "user.slurm.additional_parameters.qos=fast", "compute.slurm.partition=low",
    )  # fmt: skip
    runs.wait_state("COMPLETED", "FAILED")
    assert runs.state() == "COMPLETED"
    shown = runs.slurm.run("sacct", "-n", "-P", "-X", "-o", "Account,QOS,Partition", "-j", runs.job_ids()[0])
    # both qos stand on the command line: the later one wins
    assert shown.stdout.strip() == "other|fast|low"


def test_task_runs_without_srun_and_is_still_saved(submit: Submit) -> None:
    runs = submit("mlp.single", *ENDLESS, "compute.use_srun=false")
    runs.wait_step(20)
    assert ".0" not in runs.slurm.run("sacct", "-n", "-o", "JobID", "-j", runs.job_ids()[0]).stdout
    # the batch shell has become the task: --batch reaches it, as Slurm's own notice does
    runs.slurm.run("scancel", "--signal=USR2", "--batch", runs.job_ids()[0])
    runs.wait_attempts(1, "requeue")
    runs.release()
    runs.wait_attempts(2, "resume")
    assert runs.first_steps() == [0, runs.attempts("end")[0]["step"]]
    runs.slurm.run("scancel", runs.job_ids()[0])


def test_submission_from_inside_a_job_inherits_none_of_its_resources(slurm: SlurmCluster, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "mlp.ddp.launch", "compute=killarney/l40s_2x", f"paths.work_root={tmp_path}",
        "experiment_name=nested", "trainer.num_epochs=2", "compute.mem_gb=4", "compute.cpus_per_task=2",
    ]  # fmt: skip
    outer = [
        "sbatch",
        "--parsable",
        "-p",
        "killarney",
        "-c",
        "1",
        "-o",
        str(tmp_path / "outer.log"),
        "--wrap",
    ]
    env = {"USER": "root"}
    assert slurm.run(*outer, "srun -n1 env USER=root " + " ".join(command), env=env).returncode == 0
    runs = Runs(slurm, tmp_path, "mlp.ddp", "nested", ())
    sweep = runs.work_dir / "sweep.json"
    runs_exist = lambda: sweep.exists() and runs.job_ids()[0] is not None  # noqa: E731
    assert wait_until(runs_exist, LIMIT_S), (tmp_path / "outer.log").read_text()
    runs.wait_state("COMPLETED", "FAILED")
    assert runs.state() == "COMPLETED", runs.logs()
    shown = slurm.run("sacct", "-n", "-P", "-X", "-o", "AllocCPUS,ReqMem", "-j", runs.job_ids()[0]).stdout
    assert shown.startswith("4|4G"), shown


def test_ctrl_c_while_waiting_detaches_and_the_jobs_go_on(slurm: SlurmCluster, runs_of: Submit, tmp_path: Path) -> None:
    arguments = [
        *ENDLESS,
        f"paths.work_root={tmp_path}",
        "experiment_name=waiting",
        "hydra.launcher.wait=true",
    ]
    env = os.environ | slurm.env() | {"USER": "root", "COLUMNS": "150"}
    waiting, leader = screen.start([sys.executable, "-m", "mlp.single.launch", *arguments], env)
    runs = runs_of("mlp.single", name="waiting")
    assert "RUNNING" in screen.read_until(leader, lambda shown: "RUNNING" in shown and runs.step() >= 10)
    rest = screen.interrupt(waiting, leader)
    assert waiting.wait(timeout=30) == 130
    detached = [line for line in rest.splitlines() if "Detached; the jobs go on" in line]
    assert len(detached) == 1
    assert re.search(rf"scancel {runs.job_ids()[0]}", detached[0])
    assert "Traceback" not in rest
    assert runs.state() == "RUNNING"


def test_waiting_tells_which_run_failed_and_why(slurm: SlurmCluster, tmp_path: Path) -> None:
    done = launch(
        slurm, "mlp.single", *SMALL, f"paths.work_root={tmp_path}", "trainer.num_epochs=5",
        "trainer.learning_rate=1e-3,1e30", "hydra.launcher.wait=true",
    )  # fmt: skip
    assert done.returncode == 1
    assert "1 of 2 runs did not complete: 1." in done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if "COMPLETED " in line or "FAILED " in line}
    assert "eval_accuracy" in rows["0"]
    assert "NonFiniteError: loss is nan at step 50" in rows["1"]


def test_secrets_stand_in_no_file_that_the_launcher_writes(submit: Submit) -> None:
    runs = submit("mlp.single", *SMALL, "trainer.num_epochs=2", "+hydra.job.env_set.MY_TOKEN=s3cr3t-value")
    text = (runs.work_dir / "sweep.json").read_text() + (runs.work_dir / "multirun.yaml").read_text()
    assert "MY_TOKEN" in text
    assert "s3cr3t-value" not in text
    runs.wait_state("COMPLETED", "FAILED")
    assert "s3cr3t-value" not in runs.logs()


def test_submission_that_sbatch_refuses_half_way_leaves_nothing_queued(slurm: SlurmCluster, tmp_path: Path) -> None:
    # of two arrays, the account may submit only the first: no test of a single request can see that
    limit = ["sacctmgr", "-i", "modify", "account", "other", "set"]
    assert slurm.run(*limit, "GrpSubmitJobs=1").returncode == 0
    try:
        done = launch(
            slurm, "mlp.single", *SMALL, f"paths.work_root={tmp_path}", "user.slurm.account=other",
            "compute.cpus_per_task=1,2", "user.slurm.additional_parameters.begin=now+1hour",
        )  # fmt: skip
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]  # before it stands what sbatch itself said
        assert last.startswith("Error: Submission failed:")
        assert "job submit limit" in last
        assert "Traceback" not in done.stderr
        assert slurm.run("squeue", "-h", "-A", "other").stdout == ""
    finally:
        slurm.run(*limit, "GrpSubmitJobs=-1")


def test_each_of_many_waiting_tasks_is_known_though_slurm_cuts_long_lists(
    slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task * (task + 1) // 2 for task in range(40)]  # no two distances are equal: nothing shortens the list
    array = ",".join(map(str, tasks))
    queued = slurm.run("sbatch", "--parsable", f"--array={array}", "--begin=now+1hour", "--wrap=true")
    job = queued.stdout.strip()
    for name, value in slurm.env().items():
        monkeypatch.setenv(name, value)
    ids = [f"{job}_{task}" for task in tasks]
    assert wait_until(lambda: states(ids)[ids[0]].state == "PENDING", LIMIT_S)  # the accounts lag behind by seconds
    for answer in (states(ids), _squeue(ids)):
        assert {job_id: state.state for job_id, state in answer.items()} == dict.fromkeys(ids, "PENDING")
    slurm.run("scancel", job)
