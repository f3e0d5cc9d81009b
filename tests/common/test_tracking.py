"""tracking=...: what is shown of a run is shown once, by rank 0 alone, and never decides over the training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from common.config import Tracking
from common.metrics import MetricsLog
from common.paths import read_lines
from tests.children import tiny
from tests.conftest import Compose, Refused
from tests.disk import full_disk
from tests.events import shown
from vec_jobs.drill import Run


def log_to(out_dir: Path, step: int = 0, backend: str = "tensorboard") -> MetricsLog:
    cfg = tiny(out_dir)
    cfg.tracking = Tracking(backend)
    return MetricsLog(cfg, step, total=24)


def event_files(out_dir: Path) -> list[Path]:
    return list(out_dir.rglob("*tfevents*"))


# ----- configuration -----


def test_tensorboard_is_the_default_and_a_change_does_not_make_another_run(composed: Compose) -> None:
    (default,) = composed("compute=local")
    (other,) = composed("compute=local", "tracking=wandb", "tracking.entity=team")
    assert default.cfg.tracking.backend == "tensorboard"
    tracked = other.cfg.tracking
    assert (tracked.backend, tracked.project, tracked.entity, tracked.mode) == (
        "wandb", "mlp.single", "team", "offline",
    )  # fmt: skip
    assert default.point.config == other.point.config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tracking=mlflow"], "tracking=mlflow: no such preset. Valid: none, tensorboard, wandb"),
        (["tracking.backend=mlflow"], "tracking.backend is one of tensorboard, wandb, none, not mlflow"),
        (["tracking=wandb", "tracking.mode=later"], "tracking.mode is offline or online, not later"),
        (["tracking=wandb", "tracking.project=null"], "tracking=wandb needs tracking.project=<name>"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_queued(
    refused: Refused, overrides: list[str], message: str
) -> None:
    assert message in refused("mlp.single", *overrides)


@pytest.mark.parametrize("folder", [False, True], ids=["nothing", "a folder"])
def test_wandb_where_it_is_not_installed_is_refused_before_anything_is_queued(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: bool
) -> None:
    found = None  # Python takes None for a module that does not exist
    if folder:  # as wandb leaves it where it ran; Python takes it for a package
        (tmp_path / "here" / "wandb").mkdir(parents=True)
        spec = PathFinder.find_spec("wandb", [str(tmp_path / "here")])
        assert spec is not None
        found = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "wandb", found)
    message = refused("mlp.single", "tracking=wandb")
    assert "tracking=wandb needs the package wandb: uv run --package <package> --extra wandb" in message


# ----- TensorBoard -----


def test_a_step_that_a_killed_attempt_had_logged_is_shown_once_as_it_was_done_again(tmp_path: Path) -> None:
    killed = log_to(tmp_path)
    for step in range(1, 8):
        killed.write(step, loss=10.0 + step)
    resumed = log_to(tmp_path, step=5)  # never closed, as a process that was killed
    for step in range(6, 10):
        resumed.write(step, loss=20.0 + step)
    resumed.finish(9, "sha", eval_loss=0.5)
    losses = {event.step: event.value for event in shown(tmp_path).Scalars("train/loss")}
    assert losses == {step: (10 if step <= 5 else 20) + step for step in range(1, 10)}
    assert len(shown(tmp_path).Scalars("train/loss")) == 9


def test_what_is_logged_is_on_the_disk_before_the_next_step(tmp_path: Path) -> None:
    log = log_to(tmp_path)
    log.write(1, loss=1.0)
    assert [event.step for event in shown(tmp_path).Scalars("train/loss")] == [1]


def test_names_have_a_group(tmp_path: Path) -> None:
    log = log_to(tmp_path)
    log.write(3, loss=1.0, eval_accuracy=0.5, **{"rollout/ep_rew_mean": 2.0, "train/value_loss": 3.0, "rewards/x": 4.0})
    log.finish(4, "sha", eval_loss=0.25)
    assert set(shown(tmp_path).Tags()["scalars"]) == {
        "train/loss", "eval/accuracy", "rollout/ep_rew_mean", "train/value_loss", "train/rewards/x", "eval/loss",
    }  # fmt: skip
    assert [(event.step, event.value) for event in shown(tmp_path).Scalars("eval/loss")] == [(4, 0.25)]


def test_figures_and_tables_are_shown(tmp_path: Path) -> None:
    log = log_to(tmp_path)
    figure = Figure(figsize=(2, 1), dpi=50)
    log.tracker.figure("eval/confusion", figure, 7)
    log.tracker.table("samples", [{"prompt": "a|b", "reward": 1}, {"prompt": "c\nd", "reward": 0}], 7)
    events = shown(tmp_path)
    (image,) = events.Images("eval/confusion")
    assert (image.step, image.width, image.height) == (7, 100, 50)
    (text,) = events.Tensors("samples/text_summary")
    (table,) = text.tensor_proto.string_val
    assert table.decode().splitlines() == ["| prompt | reward |", "| --- | --- |", "| a/b | 1 |", "| c d | 0 |"]


@pytest.mark.parametrize(("backend", "rank"), [("none", "0"), ("tensorboard", "1")])
def test_nothing_is_shown_without_tracking_or_by_another_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, rank: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    log = log_to(tmp_path, backend=backend)
    log.write(1, loss=1.0)
    log.tracker.table("samples", [{"prompt": "a"}], 1)
    assert event_files(tmp_path) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_a_full_disk_is_one_warning_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = log_to(tmp_path)
    (events,) = event_files(tmp_path)
    names = [f"m{number}" for number in range(40)]
    with full_disk(events.stat().st_size + 2000):  # a line here takes 3 kB of an event file, 0.4 kB of metrics.jsonl
        for step in range(1, 4):
            log.write(step, **dict.fromkeys(names, 1.0))
        log.tracker.figure("eval/confusion", Figure(), 3)
        log.finish(3, "sha", eval_loss=0.5)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("tracking failed (OSError: [Errno 27] File too large")
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "COMPLETED"


# ----- Weights & Biases, offline -----


def records(out_dir: Path) -> list[list[dict[str, Any]]]:
    """What wandb's own reader finds, a list for each attempt."""
    found: list[list[dict[str, Any]]] = []
    for file in sorted((out_dir / "wandb").glob("*run-*/*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
        found.append([json.loads(line) for line in lines])
    return found


def of_type(found: list[list[dict[str, Any]]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for attempt in found for record in attempt if record["type"] == kind]


def services(pid: int) -> list[str]:
    """The processes that wandb has started for a process, and that still run."""
    pattern = f"wandb-core .*--pid {pid}$"
    return subprocess.run(["pgrep", "--full", "--", pattern], capture_output=True, text=True).stdout.split()


def wait_for(ready: Any, what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


@pytest.mark.learns
@pytest.mark.minutes(2)
def test_a_run_that_is_stopped_and_killed_is_one_run_of_wandb_with_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "0123456789abcdef" * 2 + "01234567"
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_API_KEY", key)
    secret = "user.slurm.additional_parameters.token=do-not-show"
    often = ["trainer.log_every=5", "requeue.save_every_min=0.005"]
    short = ["compute=local", "trainer.num_epochs=100", secret, *often]
    plain, run = (Run(name, "mlp/single", [*short, f"tracking={name}"], tmp_path) for name in ("none", "wandb"))
    plain.submit()
    wait_for(lambda: plain.state() == "COMPLETED", "the run without wandb")

    run.submit()
    for stop, sig in enumerate([signal.SIGUSR2, signal.SIGKILL, signal.SIGUSR2], start=1):
        wait_for(lambda stop=stop: len(run.events("resume")) >= stop, f"attempt {stop}")
        wait_for(lambda stop=stop: run.step() >= 700 * stop, f"step {700 * stop}")
        pid = run.events("start")[-1]["pid"]
        assert len(services(pid)) == 1
        run.send(sig)
        if sig == signal.SIGKILL:
            wait_for(lambda: run.state() == "FAILED", "the end of the killed run")
            run.submit()
        wait_for(lambda pid=pid: services(pid) == [], "the end of wandb's process")
    wait_for(lambda: run.state() == "COMPLETED", "the end")

    found = records(run.out_dir)
    assert len(found) == 4
    runs = of_type(found, "run")
    assert len({one["run_id"] for one in runs}) == 1
    assert all(one["resume"] for one in runs)
    assert {(one["project"], one["run_group"], one["display_name"]) for one in runs} == {("mlp.single", "wandb", "0")}
    config = runs[0]["config"]["update"]
    assert (config["trainer.num_epochs"], config["user.slurm.additional_parameters.token"]) == (100, "***")
    history = [row["item"] for row in of_type(found, "history")]
    lines = read_lines(run.out_dir / "metrics.jsonl")
    assert [row["_step"] for row in history] == [line["step"] for line in lines] == list(range(5, 3201, 5))
    assert [row["train/loss"] for row in history] == [line["loss"] for line in lines]
    assert history[-1]["eval/loss"] == run.result()["metrics"]["eval_loss"]
    assert run.result()["attempts"] == 4
    assert run.result()["parameters_sha256"] == plain.result()["parameters_sha256"]

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if key.encode() in path.read_bytes()] == []
    assert not list(home.rglob("*")), "a node may not write to the home"


SCRIPT = """
import logging, os, signal, subprocess, sys, time
from pathlib import Path
from matplotlib.figure import Figure
from common import preempt
from common.config import Config, Paths, Tracking
from common.metrics import MetricsLog

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
preempt.install()
out_dir = Path("e/0/outputs")
out_dir.mkdir(parents=True)
cfg = Config("mlp.single", "e", "eval_loss", "minimize", tracking=Tracking("wandb", "p"))
cfg.paths = Paths(".", "e", str(out_dir))
log = MetricsLog(cfg, 0, 5)
children = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True).stdout
(service,) = map(int, children.split())
log.write(1, loss=1.0)
{between}
log.write(2, loss=0.5)
log.write(3, loss=0.25)
log.tracker.figure("eval/confusion", Figure(), 3)
log.tracker.table("samples", [{{"prompt": "a", "reward": 1}}, {{"prompt": "b", "reward": 0}}], 3)
print("finished", log.finish(3, "sha", eval_loss=0.125))
"""


def run_script(folder: Path, between: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(between=between)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, env=os.environ)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "finished {'eval_loss': 0.125}\n"
    return ended


@pytest.mark.learns
def test_signals_that_tell_a_run_to_save_do_not_end_wandb(tmp_path: Path) -> None:
    both = "[os.kill(pid, sig) for pid in (service, os.getpid()) for sig in (signal.SIGUSR1, signal.SIGUSR2)]"
    ended = run_script(tmp_path, f"{both}; time.sleep(0.5); assert preempt.requested() == signal.SIGUSR1")
    assert "WARNING" not in ended.stderr
    out_dir = tmp_path / "e" / "0" / "outputs"
    history = [row["item"] for row in of_type(records(out_dir), "history")]
    assert [row["_step"] for row in history] == [1, 2, 3]
    assert history[-1]["eval/loss"] == 0.125
    assert history[-1]["eval/confusion._type"] == "image-file"
    assert (history[-1]["samples.nrows"], history[-1]["samples.ncols"]) == (2, 2)
    assert f"wandb sync {out_dir.relative_to(tmp_path)}/wandb" in ended.stderr


@pytest.mark.learns
def test_a_crash_of_wandb_is_one_warning_and_the_run_goes_on(tmp_path: Path) -> None:
    ended = run_script(tmp_path, "os.kill(service, signal.SIGKILL); time.sleep(0.5)")
    warnings = [line for line in ended.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert warnings[0].startswith("WARNING tracking failed (ConnectionResetError")
    assert "Traceback" not in ended.stderr
    assert [line["step"] for line in read_lines(tmp_path / "e/0/outputs/metrics.jsonl")] == [1, 2, 3]
