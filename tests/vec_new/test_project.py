"""vec-new project: a repository of one's own, on the wheel of `common`, that takes later changes of its source in."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vec_new.conftest import ROOT, commit_all, git, replace
from tests.vec_new.test_package import run

pytestmark = pytest.mark.packaging

DATE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["exclude-newer"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for package in ("common", "llm"):
        run(ROOT, "uv", "build", "--quiet", "--wheel", "--package", package, "--out-dir", folder)
    return folder


@pytest.mark.minutes(1)
def test_a_project_installs_from_wheels_runs_and_is_updated(
    clone: Path, wheels: Path, tmp_path: Path, made: Callable[..., str]
) -> None:
    project = tmp_path / "my-project"
    made(clone, "project", str(project), "--from", "mlp/single", "--wheels", str(wheels))
    assert git(project, "status", "--porcelain") == ""
    run(project, "uv", "sync", "--quiet", UV_EXCLUDE_NEWER=DATE)  # the versions that are there already
    locked = {package["name"]: package for package in tomllib.loads((project / "uv.lock").read_text())["package"]}
    assert locked["common"]["source"] == {"registry": "wheels"}
    assert locked["my-project"]["source"] == {"editable": "."}
    assert "1 passed" in run(project, project / ".venv/bin/pytest", "-q")

    shown = run(project, project / ".venv/bin/my_project-launch", "single", "--cfg", "job", VEC_CONFIG_DIR="configs")
    assert "template: my_project.single" in shown

    replace(project / "src/my_project/single/train.py", "nn.ReLU()", "nn.GELU()")
    commit_all(project)
    replace(clone / "packages/mlp/src/mlp/single/train.py", "lr=cfg.learning_rate)", "lr=cfg.learning_rate, eps=1e-7)")
    commit_all(clone)
    assert "changed   src/my_project/single/train.py" in made(tmp_path, "update", str(project))
    text = (project / "src/my_project/single/train.py").read_text()
    assert "eps=1e-7" in text
    assert "nn.GELU()" in text


def test_a_project_whose_template_needs_its_package_depends_on_that_wheel_too(
    clone: Path, wheels: Path, tmp_path: Path, made: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPIER_CACHE_DIR", str(tmp_path / "cache"))  # where it keeps what an address leads to
    project = tmp_path / "my-project"
    made(tmp_path, "project", str(project), "--from", "llm/sft", "--wheels", str(wheels), "--source", f"file://{clone}")
    assert sorted(path.name.partition("-")[0] for path in (project / "wheels").iterdir()) == ["common", "llm"]
    text = (project / "src/my_project/sft/train.py").read_text()
    assert "from my_project.sft.schema import" in text
    assert "from llm.schema import" in text
    assert "uv run --extra embedded my_project-launch sft" in text
    run(project, "uv", "lock", "--quiet", UV_EXCLUDE_NEWER=DATE)
    commit_all(project)
    locked = {package["name"]: package for package in tomllib.loads((project / "uv.lock").read_text())["package"]}
    assert locked["llm"]["source"] == locked["common"]["source"] == {"registry": "wheels"}

    replace(clone / "packages/llm/src/llm/sft/config.yaml", "weight_decay: 0.0", "weight_decay: 0.1")
    commit_all(clone)
    assert "changed   src/my_project/sft/config.yaml" in made(tmp_path, "update", str(project))
