"""Release one package: check, build, try it where nothing of this checkout is, tag. Nothing is pushed.

    make release PKG=mlp
    make release PKG=mlp PYTHON="3.11 3.12"   # default: every Python that the package admits and uv finds here

What is broken is refused in a line, and then there is neither a tag nor a file in dist/ (docs/project/releasing.md).
"""

import argparse
import shlex
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from packaging.metadata import Metadata
from packaging.specifiers import SpecifierSet

from common.errors import UserError
from tools.preconditions import ROOT, Package, check_before_building, find_package, packages, run, tagged


def choose_pythons(package: Package, asked: list[str]) -> list[str]:
    """The Pythons to try it on: those that are asked for, or all that it admits and uv finds.

    Raises:
        UserError: one that is asked for is not there, or none at all.
    """
    admitted = SpecifierSet(package.project["requires-python"])
    wanted = asked or [f"3.{minor}" for minor in range(50) if f"3.{minor}" in admitted]
    found = [python for python in wanted if _is_here(python)]
    missing = [python for python in wanted if python not in found]
    if missing and (asked or not found):
        raise UserError(f"uv finds no Python {missing[0]}: uv python install {missing[0]}, or another PYTHON=.")
    return found


def _is_here(python: str) -> bool:
    try:
        run("uv", "python", "find", "--no-python-downloads", python)
    except UserError:
        return False
    return True


def trials(package: Package, common: Package, commit: str) -> list[tuple[Package, str]]:
    """What is tried: (template package, commit of common). A template package with the oldest common that it admits and
    with the present one; the present common with every template package that admits it.

    Raises:
        UserError: a package says nothing of its smallest jobs.
    """
    if package == common:
        found = [(one, commit) for one in packages() if one != common and common.version in one.common]
    else:
        admitted = [version for version in tagged("common") if version in package.common]
        older = [f"common-v{version}" for version in admitted[:1] if version < common.version]
        found = [(package, ref) for ref in [*older, commit]]
    for one, _ in found:
        if not one.smallest:
            raise UserError(f"packages/{one.name}/pyproject.toml has no [tool.vec.smallest]: what is to be tried?")
    return found


def build(package: Package, ref: str, work: Path) -> tuple[Path, Path]:
    """Wheel and sdist, the one built from the other, of what is committed at `ref`; once for each.

    Raises:
        UserError: they cannot be built, or their metadata are not valid.
    """
    checkout, out = work / "checkouts" / ref, work / "built" / ref / package.name
    if not checkout.exists():  # not this folder: it may hold files that git ignores
        run("git", "clone", "--quiet", "--no-checkout", ROOT, checkout)
        run("git", "checkout", "--quiet", "--detach", ref, cwd=checkout)
    if not out.exists():
        run("uv", "build", "--quiet", "--package", package.name, "--out-dir", out, cwd=checkout)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        try:
            Metadata.from_email(archive.read(metadata), validate=True)
        except ExceptionGroup as error:
            raise UserError(f"{wheel.name} has invalid metadata: {error.exceptions[0]}") from None
    (sdist,) = out.glob("*.tar.gz")
    return wheel, sdist


def run_smallest_jobs(package: Package, common: Path, own: Path, python: str, work: Path) -> None:
    """Each template once, as a user who has nothing but two wheels.

    Raises:
        UserError: they cannot be installed, or a job failed.
    """
    home = Path(tempfile.mkdtemp(prefix="user-", dir=work))
    extra = "[embedded]" if "embedded" in package.project.get("optional-dependencies", {}) else ""
    run("uv", "venv", "--quiet", "--python", python, home / "env")
    run("uv", "pip", "install", "--quiet", "--python", home / "env", common, f"{own}{extra}")
    of_common = common.name.removeprefix("common-").partition("-")[0]
    title = f"{package.name} with common {of_common} on Python {python}"
    took: list[str] = []
    for template, overrides in package.smallest.items():
        begun = time.monotonic()
        launch = [home / f"env/bin/{package.name}-launch", template, "compute=local", f"experiment_name={template}"]
        try:
            run(*launch, *shlex.split(overrides), cwd=home)
        except UserError as error:
            raise UserError(f"{title}: {template} {overrides} failed. {_why(home, template) or error}") from None
        took.append(f"{template} {time.monotonic() - begun:.0f} s")
    print(f"{title}: {', '.join(took)}", flush=True)
    shutil.rmtree(home)


def _why(home: Path, template: str) -> str | None:
    """What ended the run of a template; None where it was refused before it was one."""
    try:
        return run(home / "env/bin/vec-jobs", "why", template, "0", "--root", home)
    except UserError:
        return None


def publish(package: Package, commit: str, entry: str, built: list[Path]) -> None:
    """Move what was built to dist/<tag>/ and tag the commit: both, or neither."""
    target = ROOT / "dist" / package.tag
    shutil.rmtree(target, ignore_errors=True)  # of a release whose tag was taken back
    target.mkdir(parents=True)
    try:
        for path in built:
            shutil.copy(path, target)
        title = f"{package.name} {package.version}"
        run("git", "tag", "--annotate", "--cleanup=verbatim", "-m", title, "-m", entry, package.tag, commit)
    except BaseException:
        shutil.rmtree(target)
        raise
    wheels = " ".join(str(path.relative_to(ROOT)) for path in sorted(target.glob("*.whl")))
    print(f"tagged {package.tag}; its files are in dist/{package.tag}/")
    print(
        f"next: git push origin {package.tag}, and hand on what is in that folder; installed by uv pip install {wheels}"
    )


def release(name: str, asked: list[str]) -> None:
    """
    Raises:
        UserError: a precondition does not hold, a build or a job failed; nothing has been tagged, dist/ is as it was.
    """
    package, common = find_package(name), find_package("common")
    entry = check_before_building(package, common)
    commit = run("git", "rev-parse", "HEAD")
    to_try, pythons = trials(package, common, commit), choose_pythons(package, asked)
    print(f"{package.name} {package.version} at {run('git', 'log', '-1', '--format=%h %s')}", flush=True)
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        work = Path(folder)
        built = dict.fromkeys(path for one in (common, package) for path in build(one, commit, work))
        print(f"built {', '.join(path.name for path in built)}", flush=True)
        for one, common_ref in to_try:
            floor, own = build(common, common_ref, work)[0], build(one, commit, work)[0]
            for python in pythons:
                run_smallest_jobs(one, floor, own, python, work)
        publish(package, commit, entry, list(built))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make release")
    parser.add_argument("package", nargs="?", default="")
    parser.add_argument("python", nargs="*")
    given = parser.parse_args()
    try:
        release(given.package, given.python)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
