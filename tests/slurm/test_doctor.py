"""`vec-jobs doctor` on a real Slurm: nothing on a right profile, each planted difference with its remedy, and a draft
whose presets run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner, Result

from vec_jobs.cli import app

from .cluster import SlurmCluster
from .runs import Runs

pytestmark = pytest.mark.slurm

PROFILE = "cluster/mysite.yaml"


def ask(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *words])


@pytest.fixture(scope="module")
def drafted(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `--write mysite` makes of the test cluster, with a work root that is there."""
    folder = tmp_path_factory.mktemp("drafted")
    (folder / "scratch").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", slurm.env()["SLURM_CONF"])
        patch.setenv("VEC_CONFIG_DIR", str(folder))
        patch.setenv("SCRATCH", str(folder / "scratch"))
        written = ask("--write", "mysite")
    assert written.exit_code == 0, written.output
    return folder


@pytest.fixture
def configs(slurm: SlurmCluster, drafted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A $VEC_CONFIG_DIR of this test's own, with the draft in it."""
    folder = tmp_path / "configs"
    shutil.copytree(drafted, folder)
    monkeypatch.setenv("SLURM_CONF", slurm.env()["SLURM_CONF"])
    monkeypatch.setenv("VEC_CONFIG_DIR", str(folder))
    monkeypatch.setenv("SCRATCH", str(folder / "scratch"))
    return folder


def leave_three_presets(configs: Path) -> None:
    """To compose the others would only take time."""
    for path in (configs / "compute/mysite").iterdir():
        if path.stem not in ("a40_1x", "h100_2x", "a100_1x"):
            path.unlink()


# ------------------------------------------------------------------------------------------------- a right profile


def test_a_right_profile_is_found_by_its_partitions_and_nothing_is_wrong_with_it(configs: Path) -> None:
    told = ask()
    assert told.exit_code == 0, told.output
    assert told.output == "mysite: the profile and its 17 presets agree with this site.\n"
    told = ask("mysite", "--json")
    assert told.exit_code == 0
    assert json.loads(told.output)["differences"] == []


@pytest.mark.parametrize("cluster", ["killarney", "bon_echo"])
def test_our_own_profiles_are_compared_with_any_site(slurm: SlurmCluster, cluster: str, configs: Path) -> None:
    told = ask(cluster, "--json")
    assert told.exit_code == 1, told.output  # this site is not theirs
    found = json.loads(told.output)
    assert len(found["presets"]) >= 6
    assert all(difference["remedy"] for difference in found["differences"])


# ------------------------------------------------------------------------------------------------- what is planted


class Plant(NamedTuple):
    """A line of one file is changed; the difference is told with both values, and names that line if there is one."""

    file: str
    old: str
    new: str
    told: list[str]
    line: str | None  # what stands in the line that the remedy names
    user: str = "user:\n  slurm:\n    account: root\n    additional_parameters: {qos: fast}\n"


A40, H100 = "compute/mysite/a40_1x.yaml", "compute/mysite/h100_2x.yaml"
PLANTS = {
    "a partition that is not there": Plant(
        PROFILE,
        "        a100: 10080",
        "        a100: 10080\n        gone: 60",
        ["partition gone", "none of"],
        "gone: 60",
    ),
    "a time limit": Plant(PROFILE, "a100: 10080", "a100: 20160", ["a100", "20160 min", "10080 min"], "a100: 20160"),
    "cores of a node": Plant(PROFILE, "cpus: 48", "cpus: 56", ["cpus of nodes h100", "56", "48"], "cpus: 56"),
    "memory of a node": Plant(
        PROFILE, "memory_gb: 500", "memory_gb: 512", ["memory_gb of nodes l40s", "512", "500"], "memory_gb: 512"
    ),
    "GPUs of a node": Plant(PROFILE, "gpus: 8", "gpus: 10", ["gpus of nodes h100", "10", "8"], "gpus: 10"),
    "the name of a GPU": Plant(
        PROFILE, "gpu_type: a100", "gpu_type: a100_80gb", ["GPU type of nodes a100", "says a100."], "a100_80gb"
    ),
    "the length of an array": Plant(
        PROFILE, "max_array_size: 1001", "max_array_size: 10001", ["max_array_size", "10001", "1001"], "10001"
    ),
    "the time between TERM and KILL": Plant(
        PROFILE, "kill_wait_s: 30", "kill_wait_s: 90", ["kill_wait_s", "90", "30", "saves"], "kill_wait_s: 90"
    ),
    "the signal at preemption": Plant(
        PROFILE, "signal: false", "signal: true", ["preempt_send_user_signal", "true", "false"], "signal: true"
    ),
    "accounts": Plant(PROFILE, "sacct: true", "sacct: false", ["sacct", "false", "true"], "sacct: false"),
    "a work root that is not there": Plant(
        PROFILE, "${oc.env:SCRATCH}", "/no/${oc.env:USER}", ["work root", "/no/alice", "mkdir -p"], "work_root"
    ),
    "a work root with too little space": Plant(
        PROFILE, "\nsite:", "\nsite:\n  free_gb: 1000000000", ["work root", "1000000000 GiB", "vec-jobs clean"], None
    ),
    "models that are not there": Plant(
        PROFILE, "model_weights: null", "model_weights: /no/models", ["model weights", "/no/models"], "model_weights"
    ),
    "another name than its file's": Plant(
        PROFILE, "cluster: mysite", "cluster: there", ["cluster", "there", "mysite"], "cluster: there"
    ),
    "a preset's partition": Plant(A40, "partition: a40", "partition: a41", ["mysite/a40_1x", "partition a41"], "a41"),
    "a preset's GPUs": Plant(
        H100, "gpus_per_node: 2", "gpus_per_node: 9", ["mysite/h100_2x", "9 h100", "at most 8"], "gpus_per_node: 9"
    ),
    "a preset's cores": Plant(
        H100, "cpus_per_task: 6", "cpus_per_task: 25", ["mysite/h100_2x", "50 cores", "at most 48"], "cpus_per_task: 25"
    ),
    "a preset's memory": Plant(
        A40, "mem_gb: 42", "mem_gb: 172", ["mysite/a40_1x", "172 GiB", "at most 171"], "mem_gb: 172"
    ),
    "a preset's time limit": Plant(
        A40,
        "timeout_min: 60",
        "timeout_min: 10081",
        ["mysite/a40_1x", "10081 min", "at most 10080"],
        "timeout_min: 10081",
    ),
    "a preset's nodes": Plant(A40, "nodes: 1", "nodes: 3", ["mysite/a40_1x", "3 such nodes", "at most 2"], "nodes: 3"),
    "a preset's qos": Plant(
        A40,
        "slurm:",
        "slurm:\n  qos: nope",
        ["qos of preset mysite/a40_1x", "nope", "fast, m2, normal"],
        "qos: nope",
        user="user: {slurm: {account: root}}\n",  # the user's own qos would win
    ),
    "a preset with a wrong key": Plant(
        A40, "mem_gb: 42", "memory: 42", ["preset mysite/a40_1x", "compute/mysite/a40_1x.yaml: Key 'memory'"], None
    ),
    "a preset with a wrong value": Plant(
        A40, "cpus_per_task: 8", "cpus_per_task: 0", ["preset mysite/a40_1x", "cpus_per_task must be at least 1"], None
    ),
    "an account": Plant("user.yaml", "account: root", "account: nope", ["account", "nope", "root"], "account: nope"),
    "a qos": Plant("user.yaml", "qos: fast", "qos: nope", ["qos of user", "nope", "fast, m2, normal"], "qos: nope"),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_a_planted_difference_is_named_with_its_remedy(configs: Path, plant: Plant) -> None:
    (configs / "user.yaml").write_text(plant.user)  # an account that root has from the start
    leave_three_presets(configs)
    file = configs / plant.file
    assert plant.old in file.read_text()
    file.write_text(file.read_text().replace(plant.old, plant.new, 1))
    told = ask("mysite")
    assert told.exit_code == 1
    (line,) = [line for line in told.output.splitlines() if plant.told[0] in line]
    assert all(word in line for word in plant.told), line
    if plant.line is not None:
        path, number = re.search(rf"(\S*{plant.file}):(\d+)", line).groups()
        assert plant.line in Path(path).read_text().splitlines()[int(number) - 1]
    assert told.output.splitlines() == [line]


# ---------------------------------------------------------------------------------------- planted in Slurm itself


@contextmanager
def changed(slurm: SlurmCluster, what: str, to: str, back: str) -> Iterator[None]:
    done = slurm.run("scontrol", "update", what, *to.split())
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        assert slurm.run("scontrol", "update", what, *back.split()).returncode == 0


@pytest.mark.parametrize(
    ("what", "to", "back", "told"),
    [
        (
            "PartitionName=a100",
            "State=DOWN",
            "State=UP",
            "partition a100: we say it is up, the site says it is not up.",
        ),
        ("PartitionName=a100", "MaxTime=120", "MaxTime=7-0", "we say 10080 min, the site says 120 min. Write 120 at "),
        ("NodeName=eb[1-2]", "State=DRAIN Reason=x", "State=RESUME", "we say they are there, the site says all are dr"),
    ],
)
def test_a_change_of_the_site_is_named(
    configs: Path, slurm: SlurmCluster, what: str, to: str, back: str, told: str
) -> None:
    leave_three_presets(configs)
    with changed(slurm, what, to, back):
        answer = ask("mysite")
    assert answer.exit_code == 1
    (line,) = answer.output.splitlines()
    assert told in line
    assert "a100" in line


def test_where_several_profiles_or_none_fit_it_must_be_named(configs: Path) -> None:
    twin = (configs / PROFILE).read_text().replace("cluster: mysite", "cluster: twin")
    (configs / "cluster/twin.yaml").write_text(twin)
    told = ask()
    assert told.exit_code == 1
    assert told.output.startswith("Error: Name the profile to compare with this site (Slurm calls it vec): ")
    assert len(told.output.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------- a draft


def test_a_draft_is_not_written_over_anything(configs: Path) -> None:
    before = (configs / PROFILE).read_text()
    told = ask("--write", "mysite")
    assert told.exit_code == 1
    assert "is there already" in told.output
    (configs / PROFILE).unlink()
    assert ask("--write", "mysite").exit_code == 1  # its presets are there
    assert not (configs / PROFILE).exists()
    shutil.rmtree(configs / "compute/mysite")
    told = ask("--write", "mysite")
    assert told.exit_code == 0
    assert (configs / PROFILE).read_text() == before
    assert told.output.splitlines()[-1] == "Then: vec-jobs doctor mysite"


@pytest.mark.parametrize(("preset", "gpus"), [("mysite/cpu_1x", 0), ("mysite/a40_1x", 1)])
def test_a_job_runs_with_a_drafted_preset(configs: Path, submit: Callable[..., Runs], preset: str, gpus: int) -> None:
    one_step = ["trainer.num_epochs=1", "trainer.batch_size=1024", "trainer.log_every=1"]
    runs = submit("mlp.single", f"compute={preset}", *one_step)
    runs.wait_state("COMPLETED", "FAILED", "TIMEOUT")
    assert runs.state() == "COMPLETED", runs.logs()[-3000:]
    shown = runs.slurm.run("sacct", "-n", "-P", "-X", "-o", "ReqTRES", "-j", runs.job_ids()[0]).stdout
    assert (f"gres/gpu={gpus}" in shown) == (gpus > 0)
