"""The commands of the README work as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from .cluster import SlurmCluster
from .runs import Runs

pytestmark = pytest.mark.slurm

README = Path(__file__).parents[2] / "README.md"
LAUNCH = re.compile(r"^uv run .*(mlp-launch|mlp\.\w+\.launch).* compute=.*", re.MULTILINE)
COMMANDS = [match.group(0).partition(" #")[0].strip() for match in LAUNCH.finditer(README.read_text())]


def test_readme_shows_the_commands_of_the_seed() -> None:
    text = "\n".join(COMMANDS)
    for part in (
        "mlp.single.launch compute=bon_echo/a40_1x requeue=off --multirun",
        "single compute=killarney/l40s_1x requeue=off",
        "trainer.learning_rate=1e-2,1e-3 trainer.hidden_dim=64,128 compute=bon_echo/a40_1x --multirun",
        "user.slurm.account=ACCOUNT_B user.slurm.additional_parameters.qos=fast",
        "/vec_jobs/${experiment_name}",
    ):
        assert part in text


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs_to_completed(slurm: SlurmCluster, tmp_path: Path, command: str) -> None:
    # the site's scratch and account are ours, and the training is short; the rest is as it stands
    wanted = command.replace("/scratch/$USER", str(tmp_path)).replace("ACCOUNT_B", "other")
    shrunk = f"{wanted} trainer.num_epochs=2 paths.work_root='{tmp_path}'"
    if "width_and_rate" in command:
        shrunk += " hydra.launcher.only=[0,23]"
    env = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | slurm.env() | {"USER": "root"}
    done = subprocess.run(["bash", "-c", shrunk], cwd=README.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "vec_jobs").glob("*/sweep.json")
    submitted = json.loads(sweep.read_text())["submissions"][0]
    runs = Runs(slurm, tmp_path, submitted["template"], sweep.parent.name, ())
    if submitted["executor"] == "local":  # it has waited for them
        assert all(runs.result(point["index"])["status"] == "COMPLETED" for point in submitted["points"])
        return
    for index in range(len(submitted["points"])):
        runs.wait_state("COMPLETED", "FAILED", index=index)
        assert runs.state(index) == "COMPLETED", runs.logs(index)[-2000:]
