"""common.slurm, as far as no Slurm is needed (tests/slurm has a real one)."""

import os

import pytest

from common import slurm
from common.errors import UserError


@pytest.mark.parametrize(
    ("written", "tasks"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[0-2,5%2]", ["12_0", "12_1", "12_2", "12_5"]),
        ("12_[7]", ["12_7"]),
        ("12_[0-1]", ["12_0", "12_1"]),
        ("12_[1,3,9-10%1]", ["12_1", "12_3", "12_9", "12_10"]),
        ("12_[1-7:2,9]", ["12_1", "12_3", "12_5", "12_7", "12_9"]),
        ("12.batch", ["12.batch"]),
    ],
)
def test_expand_lists_the_tasks_of_an_array(written: str, tasks: list[str]) -> None:
    assert slurm.expand(written) == tasks


def test_a_submission_does_not_see_the_surrounding_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPU_BIND", "cores")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    before = dict(os.environ)
    with slurm.clean_environment():
        inside = dict(os.environ)
    assert before.keys() - inside.keys() == {"SLURM_JOB_ID", "SLURM_CPU_BIND", "SUBMITIT_EXECUTOR"}
    assert inside["SLURM_CONF"] == "/etc/other.conf"  # it says which cluster is asked
    assert dict(os.environ) == before


def test_the_surrounding_job_is_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(RuntimeError), slurm.clean_environment():
        raise RuntimeError
    assert os.environ["SLURM_JOB_ID"] == "7"


def test_without_slurms_commands_a_state_is_unknown_and_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert slurm.states(["1", "2_0"]) == {"1": slurm.JobState("UNKNOWN"), "2_0": slurm.JobState("UNKNOWN")}


def test_without_sbatch_it_says_where_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="compute=local"):
        slurm.check_available()
