"""docs/moving-over.md maps what the collection before this one had: every command, option and folder of its README."""

from __future__ import annotations

import pytest

from tests.docs import pages, rules

PAGE = "docs/moving-over.md"
TEXT = (pages.ROOT / PAGE).read_text(encoding="utf-8")

LAUNCHES = [
    "uv run python -m mlp.single.launch compute=bon_echo/a40_1x requeue=off --multirun",
    "uv run python -m mlp.single.launch compute=killarney/l40s_1x requeue=off --multirun",
    "uv run python -m llm.text_classification.launch compute=killarney/l40s_1x trainer.learning_rate=5e-4 --multirun",
    "uv run python -m llm.text_classification.launch compute=bon_echo/a40_1x --multirun",
    "uv run python -m mlp.single.launch trainer.learning_rate=1e-2,1e-3 trainer.hidden_dim=64,128 "
    "compute=bon_echo/a40_1x --multirun",
    "uv run python -m vlm.image_captioning.launch trainer.batch_size=8,16,32 trainer.learning_rate=1e-4,5e-5 "
    "compute=killarney/h100_1x --multirun",
]
COMMANDS = [
    "curl -LsSf https://astral.sh/uv/install.sh", "git clone", "uv sync", "--multirun", "tmux new-session",
    "squeue --me", "scancel <jobid>", "ls -1t ~/vec_jobs", "tail -f ~/vec_jobs/", ".submitit/*/stdout*",
    "scancel --signal=USR1 <jobid>", "scontrol requeue", "job._interrupt(timeout=True)", "<template_pkg>.launch",
]  # fmt: skip
OPTIONS = [
    "compute=<cluster>/<preset>", "requeue=on", "requeue=off", "compute.mem_gb=32", "+key=value",
    "user.slurm.account=ACCOUNT_B", "user.slurm.additional_parameters.qos=fast", "paths.work_root=/scratch/$USER",
    "paths.work_dir=/scratch/$USER/vec_jobs/${experiment_name}", "max_num_timeout", "hydra.launcher.*",
    "trainer.learning_rate", "trainer.batch_size", "trainer.hidden_dim", "--link-mode=copy", "UV_CACHE_DIR",
]  # fmt: skip
FOLDERS = [
    "templates/src/mlp/", "launch.py", "train.py", "config.yaml", "templates/configs/_global.yaml",
    "templates/configs/user.yaml", "templates/configs/compute/bon_echo/", "templates/configs/requeue/{on,off}.yaml",
    "vec_jobs/<timestamp>/", "multirun.yaml", "submitit_logs/<slurm-job-ID>/", "<id>_submission.sh", "_submitted.pkl",
    "_result.pkl", "_log.out", "<hydra-run-id>/<hydra.job.name>.log", "outputs/checkpoint-epoch-*",
    "hydra_configs/{config,overrides,hydra,hydra_resolved}.yaml", "<hydra-run-id>/outputs/",
]  # fmt: skip
CODE = [
    "submitit.helpers.Checkpointable", "checkpoint()", "DelayedSubmission", "_latest_checkpoint", "cfg.paths.out_dir",
    "hydra.runtime.output_dir", "hydra.main",
]  # fmt: skip


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_launch_command_works_as_it_is(launch: str) -> None:
    """The page shows it, and what the page shows is submitted, or put to a Slurm, by tests/slurm/test_commands.py."""
    (command,) = [command for command in pages.commands(PAGE) if command.text == launch]
    rule = rules.rule_of(command)
    assert rule is not None
    assert rule.way in (rules.SUBMITTED, rules.DRY)


@pytest.mark.parametrize("word", [*COMMANDS, *OPTIONS, *FOLDERS, *CODE])
def test_it_has_a_place_on_the_page(word: str) -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    assert any(word in row for row in rows) or word in " ".join(one.text for one in pages.commands(PAGE))
