"""vec-new template: a copy runs at once, takes later changes of its source in, and a mistake leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vec_new.conftest import VecNew, clone_to, commit_all, git, replace

Made = Callable[..., str]


@pytest.fixture
def mine(clone: Path, made: Made) -> Path:
    """A committed copy of mlp/single, with another model."""
    made(clone, "template", "mlp/mine", "--from", "mlp/single")
    folder = clone / "packages/mlp/src/mlp/mine"
    replace(folder / "train.py", "nn.ReLU()", "nn.GELU()")
    commit_all(clone)
    return folder


def change_source(clone: Path, old: str, new: str) -> None:
    replace(clone / "packages/mlp/src/mlp/single/train.py", old, new)
    commit_all(clone)


@pytest.mark.packaging
def test_a_copy_runs_under_its_own_name_and_its_test_passes(clone: Path, made: Made) -> None:
    said = made(clone, "template", "mlp/mine", "--from", "mlp/single")
    assert "uv run --package mlp mlp-launch mine compute=local trainer.num_epochs=1" in said
    env = os.environ | {"PYTHONPATH": str(clone / "packages/mlp/src")}  # instead of an environment of its own
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/mlp/test_mine.py"]
    done = subprocess.run(test, cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    left = git(
        clone, "grep", "--untracked", "-nE", r"mlp[./]single\b|launch single\b", "--", "packages/mlp/src/mlp/mine"
    )
    assert all(".copier-answers.yml" in line or "README.md" in line for line in left.splitlines()), left


@pytest.mark.packaging
def test_copies_of_every_template_are_in_order(clone: Path, made: Made) -> None:
    """Names, imports, format and the table of smallest jobs: what `make check` and tests ask of any template."""
    sources = [config.parent for config in sorted(clone.glob("packages/*/src/*/*/config.yaml"))]
    for folder in sources:
        package = folder.parent.name
        made(clone, "template", f"{package}/a_copy_of_{folder.name}", "--from", f"{package}/{folder.name}")
        copy = folder.with_name(f"a_copy_of_{folder.name}")
        files = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in (folder, copy)]
        assert set(files[1]) - set(files[0]) == {Path("README.md"), Path(".copier-answers.yml")}
        assert f'launch("{package}.{copy.name}")' in (copy / "launch.py").read_text()
        assert f"{package}.{folder.name}" not in "".join(p.read_text() for p in copy.rglob("*.py"))
        assert f"\na_copy_of_{folder.name} = " in (clone / "packages" / package / "pyproject.toml").read_text()
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, "."], cwd=clone, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.packaging
def test_an_update_brings_a_fix_and_keeps_what_was_changed(clone: Path, made: Made, mine: Path) -> None:
    change_source(clone, "lr=cfg.learning_rate)", "lr=cfg.learning_rate, weight_decay=0.0)")
    git(clone, "tag", "mlp-v0.3.0")  # tags of releases do not disturb it
    assert "changed   train.py" in made(clone, "update", "mlp/mine")
    text = (mine / "train.py").read_text()
    assert "weight_decay=0.0" in text
    assert "nn.GELU()" in text
    assert "from mlp.mine.schema import" in text
    commit_all(clone)
    assert "Nothing has changed in mlp/single since." in made(clone, "update", str(mine))
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.packaging
def test_an_update_that_contradicts_marks_the_lines_and_says_so(clone: Path, vec_new: VecNew, mine: Path) -> None:
    change_source(clone, "nn.ReLU()", "nn.SiLU()")
    answer = vec_new(clone, "update", "mlp/mine")
    assert answer.code == 1
    assert "conflict  train.py" in answer.out
    assert answer.err.startswith("Error: mlp/single and mlp/mine have changed the same lines")
    text = (mine / "train.py").read_text()
    assert "<<<<<<< before updating\n        nn.GELU()" in text
    assert git(clone, "status", "--porcelain", "--", str(mine / "train.py")).startswith("UU")


@pytest.mark.packaging
def test_an_update_that_fails_leaves_the_copy_as_it_was(
    clone: Path, vec_new: VecNew, mine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    git(clone, "rm", "-rq", "packages/mlp/src/mlp/single")
    commit_all(clone)
    answer = vec_new(clone, "update", "mlp/mine")
    assert answer.code == 1
    assert "Error: mlp/single is no template any more" in capfd.readouterr().err  # of the program that copier runs
    assert git(clone, "status", "--porcelain") == ""


BAD = [
    # what was typed, what the message says
    ("template mlp/mine --from mlp/singel", "--from mlp/singel: unknown template: did you mean mlp/single?"),
    ("template mlp/single --from mlp/ddp", "packages/mlp/src/mlp/single or a module of that name exists"),
    ("template llm/tokenizer --from llm/sft", "or a module of that name exists"),
    ("template mpl/mine --from mlp/single", "there is no package 'mpl': did you mean mlp?"),
    ("template llm/mine --from mlp/single", "mlp/single needs what mlp depends on: name it mlp/mine."),
    ("template mlp/my-task --from mlp/single", "'my-task' is no name of a Python module"),
    ("template mlp/class --from mlp/single", "'class' is no name of a Python module"),
    ("template mine --from mlp/single", "there is no package 'mine'"),
    ("template mlp/mine/more --from mlp/single", "'mine/more' is no name of a Python module"),
    ("package json", "Python or an installed package has a module 'json'"),
    ("package mlp", "Python or an installed package has a module 'mlp'"),
    ("package audio --from llm/sft", "needs llm.answers, llm.schema, llm.tokenizer, and packages do not import"),
    ("package audio --from rl/grpo", "rl/grpo needs rl.embedded"),
    ("project ../torch --from mlp/single --wheels w", "has a module 'torch'"),
    ("project ../mine --from mlp/single --wheels w", "there is no common-*.whl. In a checkout: uv build --wheel"),
    ("project ../mine --from mlp/single --wheels w --source ../nowhere", "repository '../nowhere' does not exist"),
    ("project ../no/mine --from mlp/single --wheels w", "/no does not exist: make it first"),
    ("update mlp/single", "is no copy that vec-new has made"),
]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone_to(tmp_path_factory.mktemp("untouched") / "clone")


@pytest.mark.parametrize(("typed", "message"), BAD, ids=[typed for typed, _ in BAD])
def test_a_mistake_is_told_in_one_line_and_nothing_is_made(
    untouched: Path, vec_new: VecNew, typed: str, message: str
) -> None:
    answer = vec_new(untouched, *typed.split())
    assert answer.code == 1
    assert message in answer.err
    assert answer.err.startswith("Error: ")
    assert answer.err.count("\n") == 1
    assert git(untouched, "status", "--porcelain", "--ignored") == ""
    assert [path.name for path in untouched.parent.iterdir()] == ["clone"]


def test_outside_of_a_checkout_and_without_a_commit_it_says_so(clone: Path, tmp_path: Path, vec_new: VecNew) -> None:
    answer = vec_new(tmp_path, "template", "mlp/mine", "--from", "mlp/single")
    assert "is in no checkout of the templates" in answer.err
    replace(clone / "packages/mlp/src/mlp/single/train.py", "nn.ReLU()", "nn.GELU()")
    answer = vec_new(clone, "template", "mlp/mine", "--from", "mlp/single")
    assert "mlp/single has changes that are not committed" in answer.err
    answer = vec_new(clone, "template", "mlp/mine", "--from", "mlp/ddp")
    assert answer.code == 0, answer.err
    answer = vec_new(clone, "update", "mlp/mine")
    assert "has changes that are not committed: commit them first" in answer.err


@pytest.mark.packaging
@pytest.mark.parametrize("typed", ["template mlp/mine --from mlp/single", "package audio"])
def test_a_failure_half_way_leaves_nothing_behind(clone: Path, vec_new: VecNew, typed: str) -> None:
    (clone / "blueprints/test.py.jinja").unlink()  # the last thing that is read
    assert vec_new(clone, *typed.split()).code == 1
    assert git(clone, "status", "--porcelain").splitlines() == [" D blueprints/test.py.jinja"]
