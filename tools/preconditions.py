"""What must hold before anything is built, each refusal in one line and in less than a second."""

import os
import re
import shlex
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from common.errors import UserError
from tools import interface

ROOT = Path(__file__).parents[1]
LEAKS = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "VEC_CONFIG_DIR", "VEC_WORK_ROOT")  # of this checkout


@dataclass(frozen=True)
class Package:
    """A package of the workspace, as its pyproject.toml describes it."""

    name: str
    folder: Path
    project: dict[str, Any]
    smallest: dict[str, str]  # a template's name -> the overrides of the smallest run that it can do

    @property
    def version(self) -> Version:
        return Version(self.project["version"])

    @property
    def tag(self) -> str:
        return f"{self.name}-v{self.version}"

    @property
    def common(self) -> SpecifierSet:
        """The versions of common that it admits."""
        wanted = [Requirement(one) for one in self.project["dependencies"]]
        return next(one.specifier for one in wanted if one.name == "common")


def packages() -> list[Package]:
    """All that the workspace has."""
    return [_read_package(path) for path in sorted(ROOT.glob("packages/*/pyproject.toml"))]


def _read_package(path: Path) -> Package:
    """
    Raises:
        UserError: its version is none.
    """
    pyproject = tomllib.loads(path.read_text())
    project, own = pyproject["project"], pyproject.get("tool", {}).get("vec", {})
    try:
        Version(project["version"])
    except InvalidVersion:
        raise UserError(f"{path.relative_to(ROOT)}: {project['version']} is no version (e.g. 1.2.0).") from None
    return Package(project["name"], path.parent, project, own.get("smallest", {}))


def find_package(name: str) -> Package:
    """
    Raises:
        UserError: there is no such package.
    """
    known = {package.name: package for package in packages()}
    if name not in known:
        raise UserError(f"There is no package {name or 'without a name'}: PKG is one of {', '.join(known)}.")
    return known[name]


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command prints.

    Raises:
        UserError: it failed; with the last line that it said.
    """
    env = {"USER": "me"} | {name: value for name, value in os.environ.items() if name not in LEAKS}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UserError(f"{shlex.join(map(str, command))} failed: {said[-1].strip() if said else done.returncode}")
    return done.stdout.strip()


def tagged(name: str) -> list[Version]:
    """The versions of a package that have been released."""
    prefix = f"{name}-v"
    return sorted(Version(tag.removeprefix(prefix)) for tag in run("git", "tag", "--list", f"{prefix}*").splitlines())


def changelog_entry(package: Package) -> str:
    """What the changelog says about the version that is to be released.

    Raises:
        UserError: the newest heading is another version's, or nothing stands below it.
    """
    place = f"packages/{package.name}/CHANGELOG.md"
    sections = re.split(r"^## ", (package.folder / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    heading, _, entry = (sections or [""])[0].partition("\n")
    if heading.split(maxsplit=1)[:1] != [str(package.version)]:
        raise UserError(
            f"{place}: the newest heading is {heading.strip() or 'missing'}, the version in pyproject.toml "
            f"{package.version}: write down under '## {package.version}' what has changed."
        )
    if not re.search(r"^- \S", entry, re.MULTILINE):
        raise UserError(f"{place}: nothing stands under {package.version}: say what has changed, '- ...'.")
    return entry.strip()


def check_before_building(package: Package, common: Package) -> str:
    """All that takes no time: the tree, the version, the changelog, the interface. Returns the changelog's entry.

    Raises:
        UserError: a precondition that does not hold, and what to do.
    """
    changed = run("git", "status", "--porcelain", "--untracked-files=all").splitlines()
    if changed:
        raise UserError(
            f"{len(changed)} file(s) are not committed, e.g. {changed[0].split()[-1]}: commit or remove them."
        )
    entry = changelog_entry(package)
    released = tagged(package.name)
    if package.version in released:
        raise UserError(
            f"{package.tag} has been released: raise the version in packages/{package.name}/pyproject.toml."
        )
    if released and package.version < released[-1]:
        raise UserError(f"{package.name} {package.version} is older than {released[-1]}, which has been released.")
    if package == common:
        check_interface(common, released)
    else:
        check_requirement(package, common)
    run("git", "var", "GIT_COMMITTER_IDENT")  # a tag has an author
    return entry


def check_interface(common: Package, released: list[Version]) -> None:
    """Semantic versioning of common, against its last release.

    Raises:
        UserError: the interface is broken, has grown, or is not written down.
    """
    present = interface.describe(common.folder / "src")
    if interface.read(interface.FILE.read_text()) != (str(common.version), present):
        raise UserError("packages/common/interface.txt is not up to date: run uv run python -m tools.interface.")
    if not released:
        return
    recorded = run("git", "show", f"common-v{released[-1]}:{interface.FILE.relative_to(ROOT)}")
    interface.refuse_broken(recorded, present, str(common.version))
    more = interface.names(present) - interface.names(interface.read(recorded)[1])
    if more and common.version.release[:2] == released[-1].release[:2]:
        raise UserError(
            f"The interface has grown since common {released[-1]}, e.g. {min(more)}: raise the minor version."
        )


def check_requirement(package: Package, common: Package) -> None:
    """
    Raises:
        UserError: the common of this checkout is not admitted, or not the one that bears its version.
    """
    if common.version not in package.common:
        raise UserError(
            f"{package.name} wants common{package.common}, and packages/common is {common.version}: "
            f"change the dependency in packages/{package.name}/pyproject.toml."
        )
    if common.version in tagged("common") and run(
        "git", "diff", "--name-only", common.tag, "--", common.folder, "configs"
    ):
        raise UserError(
            f"packages/common has changed since {common.tag}, and is {common.version} still: raise it first."
        )
