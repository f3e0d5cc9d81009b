"""What a login node may be asked to do: show and check a configuration, without loading the machine."""

import os
import subprocess
import sys

import pytest

# What costs seconds and memory to import, and has no business on a login node.
HEAVY = ("torch", "numpy", "transformers")

SCRIPT = """
import sys
from common.launch import launch

try:
    launch({template!r}, {args!r})
except SystemExit as end:
    print(end.code, file=sys.stderr)
print("IMPORTED", *[name for name in {heavy!r} if name in sys.modules])
"""


def shown(args: list[str], template: str = "mlp.single") -> tuple[str, list[str], str]:
    """(what is printed, which heavy modules were imported, the errors) of a command in a fresh process."""
    script = SCRIPT.format(template=template, args=args, heavy=HEAVY)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=os.environ)
    out, _, imported = ended.stdout.partition("IMPORTED")
    return out, imported.split(), ended.stderr


def test_help_shows_presets_and_fields_without_heavy_imports() -> None:
    out, imported, err = shown(["--help"])
    assert imported == []
    assert "learning_rate" in out
    assert "killarney" in out
    assert "Traceback" not in err


def test_cfg_job_shows_the_configuration_without_heavy_imports() -> None:
    out, imported, err = shown(["--cfg", "job", "compute=killarney/l40s_1x", "trainer.seed=7"])
    assert imported == []
    assert "seed: 7" in out
    assert "cpus_per_task: 16" in out
    assert "Traceback" not in err


def test_a_refused_submission_never_imports_the_training_libraries() -> None:
    _, imported, err = shown(["compute=killarney/l40s_1x", "paths.work_root=/nonexistent"])
    assert imported == []
    assert "/nonexistent does not exist" in err


def test_vec_jobs_imports_no_torch() -> None:
    script = f"import sys, vec_jobs.cli; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.split() == []


@pytest.mark.parametrize(
    ("template", "overrides"),
    [
        ("llm.sft", ["assets=embedded"]),
        ("vlm.image_captioning", ["assets=embedded"]),
        ("rl.stable_baselines", ["env=breakout"]),
    ],
)
def test_the_checks_of_a_template_import_no_torch(template: str, overrides: list[str]) -> None:
    _, imported, err = shown(["compute=killarney/l40s_1x", "paths.work_root=/nonexistent", *overrides], template)
    assert {"torch", "transformers"}.isdisjoint(imported)
    assert "/nonexistent does not exist" in err
