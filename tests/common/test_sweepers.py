"""sweep=grid, zip and optuna, --dry-run and the question before a large sweep: without a training (tests/vec_jobs has
those with one)."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli, Compose, Refused

HERE = ("compute=local", "paths.work_root=.")


def shown(runs: list[object]) -> list[tuple[float, int]]:
    return [(run.cfg.trainer.learning_rate, run.cfg.trainer.hidden_dim) for run in runs]  # pyright: ignore


def test_a_grid_is_every_combination_and_zip_the_pairs(composed: Compose) -> None:
    lists = ("trainer.learning_rate=1e-2,1e-3", "trainer.hidden_dim=64,128")
    assert shown([*composed(*HERE, *lists)]) == [(0.01, 64), (0.01, 128), (0.001, 64), (0.001, 128)]
    assert shown([*composed(*HERE, *lists, "sweep=zip")]) == [(0.01, 64), (0.001, 128)]
    assert shown([*composed(*HERE, "sweep=zip", lists[0], "trainer.hidden_dim=32")]) == [(0.01, 32), (0.001, 32)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["sweep=zip", "trainer.seed=1,2", "trainer.hidden_dim=1,2,3"],
            "sweep=zip takes lists of the same length, got trainer.seed (2), trainer.hidden_dim (3)",
        ),
        (["sweep=optuna"], "sweep=optuna has nothing to search: give a range or a list"),
        (["sweep=optuna", "trainer.seed=interval(-3,3)"], "trainer.seed must not be negative"),
        (["sweep=optuna", "trainer.lr=interval(1,3)"], "Unknown key trainer.lr"),
        (["sweep=nope"], "sweep=nope: no such preset. Valid: grid, optuna, zip."),
        (["direction=up"], "direction is minimize or maximize, not up"),
        (["hydra.launcher.runs_per_job=2"], "hydra.launcher.runs_per_job=2 is for Slurm, not local"),
        (
            ["hydra.launcher.freeze_env=true", "hydra.launcher.python=python9"],
            "freezes this environment, but hydra.launcher.python=python9 starts another",
        ),
    ],
)
def test_a_mistake_in_a_sweep_is_told_in_one_line(refused: Refused, overrides: list[str], message: str) -> None:
    assert message in refused("mlp.single", *overrides)


def test_a_dry_run_shows_all_and_leaves_nothing(cli: Cli, work_root: Path, fake_slurm: Path) -> None:
    answer = cli(
        "compute=killarney/l40s_2x", f"paths.work_root={work_root}", "trainer.seed=1,2,3", "--dry-run",
        "user.slurm.account=def-a", template="mlp.ddp",
    )  # fmt: skip
    assert (answer.code, answer.err) == (0, "")
    assert "  seed: 1\n" in answer.out
    assert "# run 1 differs: trainer.seed: 1 -> 2\n" in answer.out
    assert "#SBATCH --account=def-a\n" in answer.out
    assert "#SBATCH --array=0-2%" in answer.out
    assert "Job 7 to start at some time" in answer.out  # Slurm's own estimate
    assert "3 run(s) ask for 3.0 node-hours, 6.0 GPU-hours. Nothing was submitted." in answer.out
    assert list(work_root.iterdir()) == []
    assert not (fake_slurm / "submitted").exists()


class Terminal(io.StringIO):
    """Someone who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "submitted"), [("y\n", True), ("\n", False)])
def test_a_large_sweep_is_submitted_after_a_yes_only(
    cli: Cli,
    work_root: Path,
    fake_slurm: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    submitted: bool,
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    overrides = ["compute=killarney/h100_8x", f"paths.work_root={work_root}", "compute.timeout_min=6000"]
    answer = cli(*overrides, template="mlp.ddp")
    assert "1 run(s) ask for 800 GPU-hours (hydra.launcher.confirm_gpu_hours=500). Submit? [y/N]" in answer.out
    assert (answer.code == 0) == submitted
    assert (fake_slurm / "submitted").exists() == submitted
    assert submitted or (answer.err == "Error: Nothing was submitted.\n" and list(work_root.iterdir()) == [])


def test_a_script_is_not_asked(cli: Cli, work_root: Path, fake_slurm: Path) -> None:
    overrides = ["compute=killarney/h100_8x", f"paths.work_root={work_root}", "compute.timeout_min=6000"]
    answer = cli(*overrides, template="mlp.ddp")
    assert (answer.code, answer.err) == (0, "")
