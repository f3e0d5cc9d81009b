"""A newcomer's way, from a fresh clone: demo, a copied template, another model, a sweep, a preemption, a report."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vec_new.conftest import SOMEBODY, clone_to, replace

from .cluster import SlurmCluster
from .runs import Runs
from .training import preempt

pytestmark = [pytest.mark.slurm, pytest.mark.minutes(3)]

SWEEP = "compute=killarney/l40s_1x compute.slurm.partition=low compute.mem_gb=4 compute.cpus_per_task=1"
TRAINING = "trainer.num_epochs=400 trainer.log_every=10 trainer.learning_rate=1e-2,1e-3 experiment_name=first"


@pytest.fixture
def shell(slurm: SlurmCluster, tmp_path: Path) -> Callable[[str], str]:
    """What a newcomer types, in the clone; it must work."""
    clone = clone_to(tmp_path / "clone")
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")}

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=clone, env=env | slurm.env() | SOMEBODY | {"USER": "root"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    return run


def test_from_a_fresh_clone_to_the_report_of_a_preempted_sweep(
    shell: Callable[[str], str], slurm: SlurmCluster, tmp_path: Path
) -> None:
    assert shell("make demo").count("COMPLETED") >= 4
    shell("uv run vec-new template mlp/mine --from mlp/single")
    replace(tmp_path / "clone/packages/mlp/src/mlp/mine/train.py", "nn.ReLU()", "nn.GELU()")

    shell(f"uv run --package mlp mlp-launch mine {SWEEP} {TRAINING} paths.work_root={tmp_path}")
    runs = Runs(slurm, tmp_path, "mlp.mine", "first", ())
    try:
        for index in (0, 1):
            runs.wait_step(100, index)
        preempt(runs)
        for index in (0, 1):
            runs.wait_attempts(1, "end", index)
            runs.release(index)
        for index in (0, 1):
            runs.wait_state("COMPLETED", "FAILED", index=index)
            assert runs.state(index) == "COMPLETED", runs.logs(index)[-3000:]
    finally:
        runs.cancel()
    for index in (0, 1):
        assert runs.result(index)["attempts"] == 2
        assert runs.first_steps(index) == [0, runs.attempts("end", index)[0]["step"]]

    (code,) = (runs.work_dir / "code").glob("*/mlp/mine/train.py")
    assert "nn.GELU()" in code.read_text()

    shell(f"uv run vec-jobs report first --root {tmp_path}")
    report = (runs.work_dir / "report/report.html").read_text()
    assert "mlp.mine" in report
    assert "trainer.learning_rate" in report
