"""The commands of the pages that need a Slurm, as tests/docs/rules.py says: submitted, or put to it with --dry-run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.docs import pages, rules
from tests.docs.pages import Command
from tests.docs.test_commands import each

from .cluster import SlurmCluster, wait_until
from .runs import LIMIT_S, Runs

pytestmark = pytest.mark.slurm


def typed(text: str, slurm: SlurmCluster, work_root: Path) -> subprocess.CompletedProcess[str]:
    """Whatever a page shows after `uv run`, in the checkout; the site's scratch and account are ours."""
    text = rules.after_uv(text).replace("/scratch/$USER", str(work_root)).replace("ACCOUNT_B", "other")
    env = os.environ | slurm.env() | {"USER": "root", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", text], cwd=pages.ROOT, env=env, capture_output=True, text=True, timeout=300)


@each(rules.SUBMITTED)
def test_command_runs_to_completed(slurm: SlurmCluster, tmp_path: Path, command: Command) -> None:
    done = typed(f"{command.text} trainer.num_epochs=2 paths.work_root='{tmp_path}'", slurm, tmp_path)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    (sweep,) = (tmp_path / "vec_jobs").glob("*/sweep.json")
    submitted = json.loads(sweep.read_text())["submissions"][0]
    assert submitted["executor"] == "slurm"
    runs = Runs(slurm, tmp_path, submitted["template"], sweep.parent.name, ())
    for index in range(len(submitted["points"])):
        runs.wait_state("COMPLETED", "FAILED", index=index)
        assert runs.state(index) == "COMPLETED", runs.logs(index)[-2000:]


@each(rules.DRY)
def test_slurm_would_take_it(
    slurm: SlurmCluster, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    for name, value in (slurm.env() | {"USER": "root"}).items():
        monkeypatch.setenv(name, value)
    read = rules.launch_of(command.text)
    args = [arg for arg in read.args if not re.search(r"=/path/to/|^assets=local$|^--dry-run$", arg)]
    if "assets=embedded" in read.smallest:  # a template with model and data: those of the hub are not here
        args.append("assets=embedded")
    answer = cli(*args, f"paths.work_root={tmp_path}", "--dry-run", template=read.template)
    assert answer.code == 0, f"{command}\n{answer.err}"
    assert "#SBATCH" in answer.out
    assert not list(tmp_path.glob("vec_jobs/*")), "a dry run leaves nothing"


@pytest.fixture(scope="module")
def finished(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(slurm, tmp_path_factory.mktemp("work"), "mlp.single", "finished", ("compute=bon_echo/cpu_1x",))
    runs.submit("trainer.num_epochs=1", "trainer.log_every=5")
    runs.wait_state("COMPLETED", "FAILED")
    return runs


@each(rules.SLURM)
def test_command_about_a_job(slurm: SlurmCluster, finished: Runs, command: Command) -> None:
    text = command.text.replace("<experiment>", finished.work_dir.name)
    text = re.sub(r"\btail -[fF]\b", "timeout 1 tail -F", text)
    text = text.replace("tensorboard --logdir", "tensorboard --inspect --logdir")  # it would serve until ctrl-C
    if "<job id>" in text:
        submitted = slurm.run("sbatch", "--parsable", "--requeue", "--output=/dev/null", "--wrap", "sleep 300")
        job = submitted.stdout.strip()
        running = lambda: "RUNNING" in slurm.run("squeue", "-h", "-j", job, "-o", "%T").stdout  # noqa: E731
        assert wait_until(running, LIMIT_S, 0.2)
        text = text.replace("<job id>", job)
    done = typed(text, slurm, finished.work_root)
    if "<job id>" in command.text:
        slurm.run("scancel", job)
        assert (done.returncode, done.stderr) == (0, ""), command
    else:
        assert done.returncode == (124 if "timeout" in text else 0), f"{command}\n{done.stderr}"
        assert "cannot open" not in done.stderr, f"{command}\n{done.stderr}"
