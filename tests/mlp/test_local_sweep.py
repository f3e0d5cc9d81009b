"""compute=local, end to end: a sweep of which one run fails, as a person starts it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.paths import read_lines

pytestmark = pytest.mark.learns  # two real runs in the background

LINE = ["compute=local", "trainer.num_epochs=2", "trainer.learning_rate=1e-3,1e30", "user.slurm.account=a"]


@dataclass
class Sweep:
    folder: Path
    ended: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Run 0 learns for 64 steps, run 1 diverges."""
    work_root = tmp_path_factory.mktemp("work root")  # with a blank in its name
    command = [sys.executable, "-m", "mlp.single.launch", *LINE, f"paths.work_root={work_root}", "experiment_name=e"]
    env = os.environ | {"USER": "alice", "HF_TOKEN": "do-not-show"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, cwd=work_root)
    return Sweep(work_root / "vec_jobs" / "e", ended)


def test_a_failed_run_fails_the_command_in_one_message(sweep: Sweep) -> None:
    assert sweep.ended.returncode == 1
    assert sweep.ended.stderr.startswith("Error: 1 of 2 runs did not complete: 1.")
    assert sweep.ended.stderr.rstrip("\n").count("\n") <= 1
    assert "Traceback" not in sweep.ended.stdout + sweep.ended.stderr
    assert str(sweep.folder) in sweep.ended.stderr


def test_the_table_names_the_failed_run_and_why(sweep: Sweep) -> None:
    *rows, summary = sweep.ended.stdout.partition("overrides")[2].splitlines()
    assert summary == "2 runs: 1 COMPLETED, 1 FAILED"
    (failed,) = [row for row in rows if "FAILED" in row]
    assert failed.startswith("1 ")
    assert "trainer.learning_rate=1e+30" in failed  # as Hydra writes it
    assert "NonFiniteError" in failed
    (completed,) = [row for row in rows if "COMPLETED" in row]
    assert completed.startswith("0 ")
    assert "eval_accuracy" in completed


def test_sweep_json_says_what_was_submitted_and_how(sweep: Sweep) -> None:
    (submission,) = json.loads((sweep.folder / "sweep.json").read_text())["submissions"]
    assert (submission["state"], submission["template"]) == ("submitted", "mlp.single")
    assert (submission["preset"], submission["executor"]) == ("local", "local")
    assert submission["command"][1:3] == ["compute=local", "trainer.num_epochs=2"]
    assert {"torch", "hydra-core", "common", "mlp"} <= submission["versions"].keys()
    assert submission["python"] == ".".join(str(part) for part in sys.version_info[:3])
    points: list[dict[str, Any]] = submission["points"]
    assert [point["index"] for point in points] == [0, 1]
    assert [point["config"]["trainer.learning_rate"] for point in points] == [0.001, 1e30]
    assert "trainer.learning_rate=1e+30" in points[1]["overrides"]
    assert all(point["job_id"].endswith(f"_{point['index']}") for point in points)


def test_the_folders_are_those_of_the_seed_document(sweep: Sweep) -> None:
    found = {str(path.relative_to(sweep.folder)) for path in sweep.folder.rglob("*")}
    expected = {"multirun.yaml", "sweep.json", "submitit_logs"}
    for run in ("0", "1"):
        expected |= {f"{run}/mlp.single.log", f"{run}/outputs"}
        names = ("config", "overrides", "hydra", "hydra_resolved")
        expected |= {f"{run}/hydra_configs/{name}.yaml" for name in names}
    expected |= {f"0/outputs/{name}" for name in ("result.json", "metrics.jsonl", "attempts.jsonl", "checkpoint-64")}
    assert expected <= found
    assert "1/outputs/result.json" not in found
    assert not [path for path in found if path.startswith("1/outputs/checkpoint")]
    job_ids = [
        point["job_id"] for point in json.loads((sweep.folder / "sweep.json").read_text())["submissions"][0]["points"]
    ]
    for job_id in job_ids:
        for kind in ("submitted.pkl", "0_log.out", "0_log.err"):
            assert f"submitit_logs/{job_id}/{job_id}_{kind}" in found


def test_the_resolved_config_has_no_placeholder(sweep: Sweep) -> None:
    for run in ("0", "1"):
        text = (sweep.folder / run / "hydra_configs" / "hydra_resolved.yaml").read_text()
        assert "${" not in text
        assert f"dir: {sweep.folder}" in text


def test_the_result_and_the_log_tell_how_it_ended(sweep: Sweep) -> None:
    result = json.loads((sweep.folder / "0" / "outputs" / "result.json").read_text())
    assert (result["status"], result["step"], result["attempts"]) == ("COMPLETED", 64, 1)
    reasons = [event.get("reason") for event in read_lines(sweep.folder / "1" / "outputs" / "attempts.jsonl")]
    assert reasons[0] is None
    assert str(reasons[-1]).startswith("NonFiniteError: loss is")
    logs = "".join(path.read_text() for path in (sweep.folder / "submitit_logs").glob("*_1/*.err"))
    assert "NonFiniteError" in logs


def test_a_secret_of_the_environment_stands_in_no_record(sweep: Sweep) -> None:
    for name in ("sweep.json", "multirun.yaml", "0/hydra_configs/hydra_resolved.yaml"):
        assert "do-not-show" not in (sweep.folder / name).read_text()
