"""`vec-jobs drill` on Slurm, as a user runs it on a template of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .cluster import SlurmCluster
from .training import TEMPLATES, settings

pytestmark = pytest.mark.slurm


@TEMPLATES
def test_a_drill_on_slurm_finds_both_runs_equal(template: str, slurm: SlurmCluster, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("vec-jobs")), "drill", template.replace(".", "/"), "--stops", "2"]
    env = os.environ | slurm.env() | {"USER": "root"}
    placed = [*settings(template), f"paths.work_root={tmp_path}"]
    done = subprocess.run([*command, *placed], capture_output=True, text=True, timeout=300, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 attempts, begun at the steps 0, " in done.stdout
    assert "equal: " in done.stdout
