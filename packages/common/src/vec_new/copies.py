"""Making a copy, and bringing later changes of its source into it: both are copier's work."""

import shutil
from collections.abc import Generator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import copier
import yaml
from copier.errors import CopierError, TaskError
from plumbum import ProcessExecutionError

from common.errors import UserError
from vec_new.checkout import git

ANSWERS = ".copier-answers.yml"
_SETTINGS: dict[str, Any] = {"defaults": True, "overwrite": True, "unsafe": True, "quiet": True}
# "unsafe": copier.yml runs a program of the repository, as does every training that is copied from it


@contextmanager
def all_or_nothing(*paths: Path) -> Generator[None]:
    """Whatever fails within leaves these files and folders as they are now."""
    before = {path: path.read_bytes() if path.is_file() else None for path in paths}
    there = {path for path in paths if path.exists()}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is not None:
                path.write_bytes(content)
            elif path not in there and path.is_dir():
                shutil.rmtree(path)
            elif path not in there:
                path.unlink(missing_ok=True)
        raise


def make(source: str, commit: str, folder: Path, answers: dict[str, str]) -> None:
    """Copy a commit of a repository of templates into a new folder.

    Args:
        source: path or address of the repository; it is written down for updates.
        answers: to the questions in copier.yml.

    Raises:
        UserError: copier or git fails.
    """
    with _told():
        copier.run_copy(source, folder, answers, vcs_ref=commit, **_SETTINGS)


@dataclass(frozen=True)
class Update:
    source: str  # the template that was copied, e.g. mlp/single
    changed: list[str]  # files of the copy
    conflicts: list[str]  # those of them with marks <<<<<<<


def update(folder: Path) -> Update:
    """Merge what has changed in the source since a copy was made, or updated last, into the copy.

    Raises:
        UserError: it is no copy, has changes that are not committed, or copier fails; the copy is then as it was.
    """
    if not (folder / ANSWERS).is_file():
        raise UserError(f"{folder} is no copy that vec-new has made: {ANSWERS} is not there.")
    answers = yaml.safe_load((folder / ANSWERS).read_text(encoding="utf-8"))
    root = Path(git(folder, "rev-parse", "--show-toplevel"))
    if git(folder, "status", "--porcelain", "--", "."):
        raise UserError(f"{folder} has changes that are not committed: commit them first, then what comes can be told.")
    with chdir(root), _told():  # a copy in a checkout says that its source is "."
        source = Path(answers["_src_path"])
        commit = git(source, "rev-parse", "HEAD") if source.is_dir() else "HEAD"
        try:
            copier.run_update(folder, vcs_ref=commit, **_SETTINGS)
        except BaseException:
            _restore(folder)
            raise
    conflicts = git(folder, "diff", "--name-only", "--diff-filter=U", "--relative").splitlines()
    changed = git(folder, "diff", "--name-only", "--relative", "HEAD").splitlines()
    changed += git(folder, "ls-files", "--others", "--exclude-standard").splitlines()
    if set(changed) <= {ANSWERS}:
        _restore(folder)
    return Update(answers["source"], sorted({*changed} - {ANSWERS}), conflicts)


def _restore(folder: Path) -> None:
    """As it is committed: it was so before the update, too."""
    git(folder, "restore", "--source=HEAD", "--staged", "--worktree", "--", ".")
    git(folder, "clean", "-fdq", "--", ".")


@contextmanager
def _told() -> Generator[None]:
    """copier's and git's errors in a line."""
    try:
        yield
    except TaskError as error:
        raise UserError("The code could not be brought into the copy, see above; nothing is left of it.") from error
    except (CopierError, ProcessExecutionError, ValueError) as error:
        text = error.stderr if isinstance(error, ProcessExecutionError) else str(error)
        raise UserError(str(text).strip().splitlines()[-1]) from error
