"""The smallest job of each template, in its package's pyproject.toml: what releases, docs and copies of it run."""

import tomllib
from pathlib import Path

import pytest

from common.launch import templates
from tests.conftest import Cli

PACKAGES = Path(__file__).parents[2] / "packages"
SMALLEST = {
    f"{file.parent.name}.{template}": overrides
    for file in sorted(PACKAGES.glob("*/pyproject.toml"))
    for template, overrides in tomllib.loads(file.read_text())
    .get("tool", {})
    .get("vec", {})
    .get("smallest", {})
    .items()
}


def test_each_template_has_a_smallest_job_and_no_other_is_named() -> None:
    packages = [path.name for path in PACKAGES.iterdir() if path.name != "common"]
    assert sorted(SMALLEST) == sorted(f"{package}.{name}" for package in packages for name in templates(package))


@pytest.mark.parametrize("template", SMALLEST)
def test_the_smallest_job_composes(cli: Cli, work_root: Path, template: str) -> None:
    words = SMALLEST[template].split()
    answer = cli("compute=local", f"paths.work_root={work_root}", *words, "--cfg", "job", template=template)
    assert answer.code == 0, answer.err
    assert "hub" not in [line.partition("kind: ")[2] for line in answer.out.splitlines()]  # it needs no network
