"""docs/guide/writing-a-template.md, followed to the letter: from an empty folder to a preempted and resumed run."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vec_new.conftest import ROOT, clone_to

from .cluster import SlurmCluster
from .runs import Runs

pytestmark = pytest.mark.slurm

PAGE = ROOT / "docs/guide/writing-a-template.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
PLAYING = ("make slurm-up", 'eval "$(make -s slurm-env)"')  # the fixture's Slurm is the one that make starts
REFUSED = "trainer.steps=0"  # the one command that is to fail


def commands_and_files() -> Iterator[tuple[str, str]]:
    """("", command) or (path, content), in the order of the page."""
    for language, title, text in BLOCK.findall(PAGE.read_text()):
        if language == "bash":
            yield from (("", line) for line in text.splitlines() if line not in PLAYING)
        else:
            yield title, text


@pytest.mark.minutes(2)
def test_a_reader_of_the_tutorial_gets_a_preempted_run_that_resumed(slurm: SlurmCluster, tmp_path: Path) -> None:
    clone = clone_to(tmp_path / "clone")
    env = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | slurm.env() | {"USER": "root"}
    runs = Runs(slurm, clone, "mlp.sine", "sine", ())
    refused = 0
    for path, text in commands_and_files():
        if path:
            (clone / path).write_text(text)
            continue
        if text.startswith("sbatch"):
            runs.wait_step(200)
        done = subprocess.run(["bash", "-c", text], cwd=clone, env=env, capture_output=True, text=True)
        assert (done.returncode != 0) == (REFUSED in text), f"{text}\n{done.stdout}{done.stderr}"
        if REFUSED in text:
            refused += 1
            assert done.stderr.endswith("Error: trainer.steps must be at least 1, got 0\n")
        if text.startswith("sbatch"):
            runs.wait_attempts(1, "end")
            runs.release()
            runs.wait_state("COMPLETED", "FAILED")

    assert refused == 1
    assert runs.state() == "COMPLETED", runs.logs()[-3000:]
    assert runs.result()["attempts"] == 2
    assert runs.first_steps()[1] >= 200, "it began anew"
    assert [line["step"] for line in runs.metrics()] == list(range(50, 6001, 50))
    assert (runs.work_dir / "report" / "report.html").exists()
