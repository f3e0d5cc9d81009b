"""A release is refused in one line where something is missing; where nothing is, it is built, tried and tagged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NO_PYTHON = "3.99"  # refused last: a refusal before it that does not come costs no build

pytestmark = pytest.mark.packaging


@dataclass
class Clone:
    """A clone of this repository to release from."""

    folder: Path

    def git(self, *args: str) -> str:
        done = subprocess.run(["git", *args], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert old in text
        (self.folder / path).write_text(text.replace(old, new))

    def commit(self) -> None:
        self.git("commit", "--quiet", "--all", "--message", "a change")

    def release(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`make release`, without uv's environment for the clone: this one is good enough for the script."""
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        package, *pythons = args
        return subprocess.run(
            ["make", "--silent", "release", "RUN=", f"PKG={package}", f"PYTHON={' '.join(pythons) or python}"],
            cwd=self.folder,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | env,
            capture_output=True,
            text=True,
        )


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """What is committed here, without tags, and of templates mlp.single alone: one job is enough to see that it ran."""
    made = Clone(tmp_path / "a clone")
    subprocess.run(["git", "clone", "--quiet", "--no-tags", ROOT, made.folder], check=True)
    made.git("config", "user.name", "Ada")
    made.git("config", "user.email", "ada@example.org")
    made.edit("packages/mlp/pyproject.toml", 'ddp = "trainer.num_epochs=1"\n', "")
    made.edit("packages/mlp/pyproject.toml", 'single_not_checkpointable = "trainer.num_epochs=1"\n', "")
    made.commit()
    return made


def tag_of(clone: Clone, package: str, version: str) -> None:
    clone.git("tag", "--annotate", "--message", "released", f"{package}-v{version}")


def bump(clone: Clone, package: str, version: str) -> None:
    """A new version, written down."""
    changelog = clone.folder / f"packages/{package}/CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("\n## ", f"\n## {version}\n- Something new.\n\n## ", 1))
    pyproject = clone.folder / f"packages/{package}/pyproject.toml"
    pyproject.write_text(
        re.sub(r'^version = ".*"', f'version = "{version}"', pyproject.read_text(), flags=re.MULTILINE)
    )
    if package == "common":
        interface = clone.folder / "packages/common/interface.txt"
        interface.write_text(re.sub(r"\Acommon .*", f"common {version}", interface.read_text()))
    clone.commit()


MLP = "packages/mlp/pyproject.toml"
FLOOR = "packages/common/src/common"


def dirty(clone: Clone) -> None:
    clone.edit("README.md", "# Slurm", "# Our Slurm")


def untracked(clone: Clone) -> None:
    (clone.folder / "packages/mlp/src/mlp/forgotten.py").touch()


def version_not_written_down(clone: Clone) -> None:
    clone.edit(MLP, 'version = "0.1.0"', 'version = "0.2.0"')
    clone.commit()


def nothing_written_down(clone: Clone) -> None:
    version_not_written_down(clone)
    clone.edit("packages/mlp/CHANGELOG.md", "## 0.1.0", "## 0.2.0\n\n## 0.1.0")
    clone.commit()


def no_version(clone: Clone) -> None:
    clone.edit(MLP, 'version = "0.1.0"', 'version = "next"')
    clone.commit()


def older(clone: Clone) -> None:
    tag_of(clone, "mlp", "0.10.0")  # as a text it is less than 0.2.0
    bump(clone, "mlp", "0.2.0")


def not_admitted(clone: Clone) -> None:
    clone.edit(MLP, "common>=1,<2", "common>=1.1,<2")
    clone.commit()


def another_common_of_the_same_version(clone: Clone) -> None:
    tag_of(clone, "common", "1.0.0")
    clone.edit(f"{FLOOR}/errors.py", "Errors with", "Mistakes with")
    clone.commit()


def no_smallest_job(clone: Clone) -> None:
    clone.edit(MLP, "[tool.vec.smallest]", "[tool.vec.largest]")
    clone.commit()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (dirty, "1 file(s) are not committed, e.g. README.md: commit or remove them."),
        (untracked, "1 file(s) are not committed, e.g. packages/mlp/src/mlp/forgotten.py: commit or remove them."),
        (version_not_written_down, "packages/mlp/CHANGELOG.md: the newest heading is 0.1.0, the version in pyproject"),
        (nothing_written_down, "packages/mlp/CHANGELOG.md: nothing stands under 0.2.0"),
        (no_version, "packages/mlp/pyproject.toml: next is no version"),
        (lambda clone: tag_of(clone, "mlp", "0.1.0"), "mlp-v0.1.0 has been released: raise the version"),
        (older, "mlp 0.2.0 is older than 0.10.0, which has been released"),
        (not_admitted, "mlp wants common<2,>=1.1, and packages/common is 1.0.0"),
        (another_common_of_the_same_version, "packages/common has changed since common-v1.0.0, and is 1.0.0 still"),
        (no_smallest_job, "packages/mlp/pyproject.toml has no [tool.vec.smallest]"),
    ],
)
def test_release_is_refused_in_a_line_before_anything_is_built(clone: Clone, broken, said: str) -> None:
    broken(clone)
    tags = clone.git("tag")
    done = clone.release("mlp", NO_PYTHON)
    assert_refused(clone, done, said, tags)
    assert done.stdout == ""  # it says what it builds


def assert_refused(clone: Clone, done: subprocess.CompletedProcess[str], said: str, tags: str = "") -> None:
    *lines, of_make = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert "Error 1" in of_make
    assert said in lines[0]
    assert len(lines) == 1
    assert clone.git("tag") == tags
    assert not (clone.folder / "dist").exists()


@pytest.mark.parametrize("package", ["nope", ""])
def test_unknown_package_is_told_the_known_ones(clone: Clone, package: str) -> None:
    assert_refused(clone, clone.release(package), "PKG is one of common, llm, mlp, rl, vlm.")


def test_python_that_is_not_here_is_refused(clone: Clone) -> None:
    assert_refused(clone, clone.release("mlp", "3.11", NO_PYTHON), "uv finds no Python 3.99")


def test_common_that_breaks_or_extends_its_interface_is_refused_within_the_version(clone: Clone) -> None:
    tag_of(clone, "common", "1.0.0")
    clone.edit(f"{FLOOR}/paths.py", '__all__ = ["read_lines"]', '__all__ = ["last_line"]')
    clone.edit("packages/common/interface.txt", "def common.paths.read_lines(path: Path) -> list[dict[str, Any]]\n",
               "def common.paths.last_line(path: Path) -> dict[str, Any]\n")  # fmt: skip
    bump(clone, "common", "1.0.1")
    done = clone.release("common", NO_PYTHON)
    assert "The interface of common 1.0.0 is broken: a new major version of common, or keep it." in done.stderr
    assert "gone: def common.paths.read_lines(path: Path) -> list[dict[str, Any]]" in done.stderr

    clone.edit(f"{FLOOR}/paths.py", '__all__ = ["last_line"]', '__all__ = ["last_line", "read_lines"]')
    clone.commit()
    assert_refused(clone, clone.release("common", NO_PYTHON), "interface.txt is not up to date", "common-v1.0.0")
    subprocess.run([sys.executable, "-m", "tools.interface"], cwd=clone.folder, check=True)
    clone.commit()
    grown = "The interface has grown since common 1.0.0, e.g. common.paths.last_line: raise the minor version."
    assert_refused(clone, clone.release("common", NO_PYTHON), grown, "common-v1.0.0")


def test_job_that_fails_leaves_no_tag_and_no_file(clone: Clone) -> None:
    clone.edit("packages/mlp/src/mlp/single/train.py", "\nimport torch\n", "\nimport torsh\n")
    clone.commit()
    done = clone.release("mlp")
    assert_refused(clone, done, "single trainer.num_epochs=1 failed. Run 0")
    assert "ModuleNotFoundError: No module named 'torsh'" in done.stderr


def test_tag_that_cannot_be_made_leaves_no_file(clone: Clone) -> None:
    publish = "publish(find_package('mlp'), 'no commit', '- Something new.', [ROOT / 'README.md'])"
    command = [sys.executable, "-c", f"from tools.release import *; {publish}"]
    done = subprocess.run(command, cwd=clone.folder, capture_output=True, text=True)
    assert "git tag" in done.stderr
    assert not (clone.folder / "dist/mlp-v0.1.0").exists()


def test_release_is_built_tried_outside_the_checkout_and_tagged(clone: Clone, tmp_path: Path) -> None:
    ignored = clone.folder / "packages/mlp/src/mlp/MUJOCO_LOG.TXT"
    ignored.touch()
    (tmp_path / "mlp.py").write_text("raise ImportError('not the wheel')")
    (tmp_path / "user.yaml").write_text("not: the packaged configuration")
    done = clone.release("mlp", PYTHONPATH=str(tmp_path), VEC_CONFIG_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^mlp with common 1\.0\.0 on Python [\d.]+: single \d+ s$", done.stdout, re.MULTILINE)
    assert clone.git("tag") == "mlp-v0.1.0"
    assert clone.git("rev-parse", "mlp-v0.1.0^{commit}") == clone.git("rev-parse", "HEAD")
    message = clone.git("tag", "--list", "--format=%(contents)", "mlp-v0.1.0")
    assert message.startswith("mlp 0.1.0\n\n- Templates `single`, `single_not_checkpointable` and `ddp`.")
    built = clone.folder / "dist/mlp-v0.1.0"
    wheels = {f"{name}-py3-none-any.whl" for name in ("common-1.0.0", "mlp-0.1.0")}
    assert {path.name for path in built.iterdir()} == wheels | {"common-1.0.0.tar.gz", "mlp-0.1.0.tar.gz"}
    with tarfile.open(built / "common-1.0.0.tar.gz") as archive:  # the shared configs, no link out of it
        assert archive.getmember("common-1.0.0/src/common/configs/_global.yaml").isfile()
    assert ignored.name not in str(zipfile.ZipFile(built / "mlp-0.1.0-py3-none-any.whl").namelist())
    assert all(f"dist/mlp-v0.1.0/{wheel}" in done.stdout for wheel in wheels)
    assert clone.git("status", "--porcelain") == ""


def test_template_package_runs_with_the_oldest_common_that_it_admits_and_with_the_newest(clone: Clone) -> None:
    for other in ("llm", "vlm", "rl"):  # else they are tried with the new common, too
        clone.edit(f"packages/{other}/pyproject.toml", '"common>=1,<2"', '"common>=2,<3"')
    clone.commit()
    first = clone.release("common")
    assert first.returncode == 0, first.stderr
    assert "mlp with common 1.0.0" in first.stdout
    clone.edit(f"{FLOOR}/errors.py", "Errors with", "Mistakes with")
    bump(clone, "common", "1.1.0")
    bump(clone, "common", "1.2.0")  # 1.1.0 was never released
    done = clone.release("mlp")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"mlp with common (\S+)", done.stdout) == ["1.0.0", "1.2.0"]
    assert (clone.folder / "dist/mlp-v0.1.0/common-1.2.0-py3-none-any.whl").exists()
    assert not (clone.folder / "dist/mlp-v0.1.0/common-1.0.0-py3-none-any.whl").exists()
