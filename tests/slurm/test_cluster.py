"""The cluster of the other Slurm tests refuses, schedules and preempts as a site does, and goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import cluster as module
from .cluster import HOSTS, ClusterError, SlurmCluster, listens, process_table, wait_until
from .runs import LIMIT_S

pytestmark = pytest.mark.slurm

REPO = Path(__file__).parents[2]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for_text(file: Path, text: str) -> None:
    assert wait_until(lambda: file.exists() and text in file.read_text(), LIMIT_S), (
        f"no {text!r} in {file.name}: {file.read_text() if file.exists() else 'no such file'}"
    )


def states(slurm: SlurmCluster, job: str) -> list[str]:
    return ok(slurm.run("sacct", "-nXPj", job, "-o", "state")).split()


def processes_naming(text: str) -> list[str]:
    """Processes with this text in their command line or environment."""
    lines = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if text in line and "<defunct>" not in line]


# -------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "options",
    [
        "-A vec",
        "-A other --qos=m2",
        "--qos=fast",
        "-p gpubase_l40s_b1 --gpus-per-node=l40s:4 --cpus-per-task=64 --mem=480G",
        "-p gpubase_h100_b1 --gpus-per-node=h100:8 --cpus-per-task=48 --mem=1920G",
        "--nodes=2 --gpus-per-node=h100:8",
        "-p a40 --gpus-per-node=a40:4 --mem=160G",
        "-p a100 --gpus-per-node=a100:4 --mem=320G",
    ],
)
def test_a_request_that_the_real_site_accepts_is_accepted(slurm: SlurmCluster, options: str) -> None:
    ok(slurm.run("sbatch", "--test-only", *options.split(), "--wrap", "hostname"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("-A nope", "Invalid account"),
        ("-p nope", "Invalid partition name"),
        ("--qos=nope", "Invalid qos"),
        ("-p a40 --gpus-per-node=a40:5", "Requested node configuration is not available"),
        ("-p a40 --gpus-per-node=h100:1", "Requested node configuration is not available"),
        ("-p gpubase_l40s_b1 --time=03:01:00", "Requested time limit is invalid"),
    ],
)
def test_an_impossible_request_is_refused_with_its_reason(slurm: SlurmCluster, options: str, reason: str) -> None:
    done = slurm.run("sbatch", "--test-only", *options.split(), "--wrap", "hostname")
    assert done.returncode != 0
    assert reason in done.stderr


# -------------------------------------------------------------------------------------------------- what runs


def test_two_nodes_with_two_gpus_each_see_each_other_by_name(slurm: SlurmCluster) -> None:
    script = 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $(getent hosts kn1 kn2 | cut -d" " -f1 | uniq)'
    on = ["-N2", "-p", "gpubase_l40s_b1", "--gpus-per-node=l40s:2"]
    lines = ok(slurm.run("srun", *on, "sh", "-c", script))
    assert sorted(line.split() for line in lines.splitlines()) == [
        ["kn1", "0,1", "127.0.0.1"],
        ["kn2", "0,1", "127.0.0.1"],
    ]


def test_sacct_tells_the_end_of_each_task_of_an_array(slurm: SlurmCluster, tmp_path: Path) -> None:
    on = ["--parsable", "--wait", "--array=0-2", "-o", f"{tmp_path}/%a"]
    done = slurm.run("sbatch", *on, "--wrap", 'exit "$SLURM_ARRAY_TASK_ID"')
    assert done.returncode == 2  # --wait gives back the highest exit code
    job = done.stdout.strip()
    ends = ["COMPLETED", "FAILED", "FAILED"]
    assert wait_until(lambda: sorted(states(slurm, job)) == ends, LIMIT_S), states(slurm, job)


def test_a_job_without_an_environment_can_requeue_itself(slurm: SlurmCluster, tmp_path: Path) -> None:
    script = 'echo "run ${SLURM_RESTART_COUNT-0}"; [ $SLURM_RESTART_COUNT ] || scontrol requeue $SLURM_JOB_ID'
    out = ["-o", f"{tmp_path}/out", "--open-mode=append"]
    job = ok(slurm.run("sbatch", "--parsable", "--requeue", "--export=NIL", *out, "--wrap", script))
    wait_for_text(tmp_path / "out", "run 0")
    slurm.release(job)
    wait_for_text(tmp_path / "out", "run 1")


def test_a_preempted_job_gets_term_and_is_requeued(slurm: SlurmCluster, tmp_path: Path) -> None:
    # Slurm signals process after process: where sleep ends before its shell is told, the shell must still be there.
    script = 'trap "echo saved; exit" TERM; echo "run ${SLURM_RESTART_COUNT-0}"; while :; do sleep 9 & wait; done'
    on = ["--parsable", "-w", "kn1", "--exclusive", "-o", f"{tmp_path}/%x", "--open-mode=append"]
    job = ok(slurm.run("sbatch", *on, "-J", "weak", "-p", "low", "--requeue", "--wrap", script))
    wait_for_text(tmp_path / "weak", "run 0")
    ok(slurm.run("sbatch", *on, "-J", "strong", "-p", "high", "--wrap", "echo won"))
    wait_for_text(tmp_path / "strong", "won")
    assert "saved" in (tmp_path / "weak").read_text()
    slurm.release(job)
    wait_for_text(tmp_path / "weak", "run 1")
    assert "PREEMPTED" in ok(slurm.run("sacct", "-nXDPj", job, "-o", "state"))  # -D: the earlier run too
    ok(slurm.run("scancel", job))


# -------------------------------------------------------------------------------------- starting and stopping


def test_two_clusters_run_side_by_side_and_leave_nothing_behind(slurm: SlurmCluster, tmp_path: Path) -> None:
    lines = lambda: [line for line in HOSTS.read_text().split("\n") if "# vec-slurm" not in line]  # noqa: E731
    hosts = lines()  # other workers' clusters come and go meanwhile
    root = tmp_path / "with a space, [1] %n"
    second = SlurmCluster(root)
    try:
        second.up()
        home, name = second.home, second._state["name"]
        assert name in HOSTS.read_text()
        ports = [int(line.partition("Port=")[2].split()[0]) for line in conf_lines(second, "Port=")]
        assert len(ports) == 10  # slurmctld's, slurmdbd's and one for each of the 8 nodes
        assert all(listens(port) for port in ports)
        where = ["sh", "-c", 'echo "$SLURM_CONF"']
        assert ok(second.run("srun", *where)) == second.env()["SLURM_CONF"]
        assert ok(slurm.run("srun", *where)) == slurm.env()["SLURM_CONF"]
        # A process that ignores SIGTERM, and one that only its parent shows to be of this cluster.
        stubborn = 'trap "" TERM; env -i sleep 4242.5 & echo on; wait'
        ok(second.run("sbatch", "-o", str(tmp_path / "out"), "--wrap", stubborn))
        wait_for_text(tmp_path / "out", "on")
        bystander = subprocess.Popen(["sleep", "60"], env=os.environ | second.env())
    finally:
        second.down()
    try:
        assert bystander.pid in process_table(), "a shell that merely uses the cluster was killed with it"
    finally:
        bystander.kill()
        bystander.wait()
    assert processes_naming(str(home)) == processes_naming("4242.5") == []
    assert not any(listens(port) for port in ports)
    assert not root.exists()
    assert not home.is_symlink()
    assert name not in HOSTS.read_text()
    assert lines() == hosts
    assert ok(slurm.run("srun", "-w", "kn2", "getent", "hosts", "kn1"))


def conf_lines(slurm: SlurmCluster, word: str) -> list[str]:
    return [line for line in Path(slurm.env()["SLURM_CONF"]).read_text().splitlines() if word in line]


def test_a_failed_start_tells_the_reason_and_stops_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PARTITIONS", "PartitionName=p Nodes=nosuchnode\n")
    root = tmp_path / "slurm"
    with pytest.raises(ClusterError, match=r"slurmctld ended while starting: .*nosuchnode") as failure:
        SlurmCluster(root).up()
    assert "\n" not in str(failure.value)
    assert processes_naming(str(root)) == []
    assert not root.exists()


def test_a_folder_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ClusterError, match="is not empty"):
        SlurmCluster(tmp_path).up()
    SlurmCluster(tmp_path).down()
    assert (tmp_path / "thesis.tex").exists()


def test_missing_daemons_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEARCH_PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"missing munged, .*apt-get install slurm-wlm munge slurmdbd"):
        SlurmCluster(tmp_path / "slurm").up()


def test_the_command_starts_a_cluster_that_stays_and_a_later_one_stops_it(tmp_path: Path) -> None:
    root = tmp_path / "slurm"

    def command(name: str) -> subprocess.CompletedProcess[str]:
        args = [sys.executable, "-m", "tests.slurm.cluster", name, "--dir", str(root)]
        return subprocess.run(args, cwd=REPO, capture_output=True, text=True)

    nothing = command("env")
    assert nothing.returncode == 1
    assert "no cluster runs" in nothing.stderr
    try:
        assert 'eval "$(make -s slurm-env)"' in ok(command("up"))
        assert "already running" in ok(command("up"))
        shell = f"{ok(command('env'))}; sinfo -h -p killarney -o %D"
        assert subprocess.run(["sh", "-c", shell], capture_output=True, text=True).stdout == "4\n"
        assert "slurmctld      running" in ok(command("status"))
    finally:
        ok(command("down"))
    assert not root.exists()
    assert processes_naming(str(root)) == []
