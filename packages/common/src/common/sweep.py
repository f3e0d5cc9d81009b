"""sweep.json: what was submitted into a sweep folder, how, and as which jobs.

    {"submissions": [{"time", "command", "template", "preset", "executor",
                      "state": "submitting" | "submitted" | "broken off", "objective", "direction",
                      "git": {...}, "code", "python", "versions": {...},
                      "points": [{"index", "overrides", "job_id", "request", "suffix", "config": {flat key: value}}]}]}

Each submission into the same folder appends one entry; the file is replaced as a whole, atomically. A launcher may be
killed at any moment: what it asks for is written down before a job exists (`request`), a job waits on hold until its
id is written down, and while one launcher works on a folder, no other does.
"""

import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import re
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.config import differences
from common.errors import UserError
from common.paths import write_atomic

log = logging.getLogger(__name__)

SWEEP_FILE = "sweep.json"
_LOCK = ".submitting.lock"
# A name of which one part is a secret's word: HF_TOKEN, wandb.api_key, but not tokenizer or max_tokens.
_SECRET = r"(?:[\w.\-]*[_.\-])?(?:token|secrets?|password|passwd|apikey|key)(?:[_.\-][\w.\-]*)?"
_ASSIGNED = re.compile(rf"(?i)(?<![\w.\-])({_SECRET}[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;]+)")
_DIFF_LIMIT = 1_000_000  # characters of uncommitted changes that are kept


@dataclass
class Point:
    """One run of a sweep: `config` is what decides its result (common.config.identity)."""

    index: int
    overrides: list[str]
    config: dict[str, Any]
    job_id: str | None = None
    request: str | None = None  # part of the name of the batch script of its job
    suffix: str = ""  # of its job's id, behind that of the whole request: _3 in an array, .1 in a shared job
    service_request: str | None = None
    service_job_id: str | None = None  # of the server that it needs beside it, if it does


@dataclass
class Submission:
    time: str  # local time, ISO 8601
    command: list[str]
    template: str
    preset: str
    executor: str
    points: list[Point]
    state: str = "submitting"
    objective: str = ""  # the final metric by which the runs are compared
    direction: str = ""  # minimize | maximize
    git: dict[str, str] = field(default_factory=dict)
    code: str | None = None  # folder in code/, see common.snapshot
    python: str = field(default_factory=platform.python_version)
    versions: dict[str, str] = field(default_factory=dict)


def read(sweep_dir: Path) -> list[Submission]:
    """The submissions into a folder, oldest first; none where there is no sweep.json.

    Raises:
        UserError: the file is there but cannot be read or understood.
    """
    path = sweep_dir / SWEEP_FILE
    try:
        if not path.exists():
            return []
        raw = json.loads(path.read_text(encoding="utf-8"))["submissions"]
        return [Submission(**entry | {"points": [Point(**p) for p in entry["points"]]}) for entry in raw]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): move it away, or use another paths.work_dir.") from error


def write(sweep_dir: Path, submissions: list[Submission]) -> None:
    """Replace sweep.json."""
    record = {"submissions": [asdict(submission) for submission in submissions]}
    write_atomic(sweep_dir / SWEEP_FILE, json.dumps(record, indent=1))


def submitting(sweep_dir: Path) -> AbstractContextManager[int]:
    """One launcher at a time puts jobs into a folder; see one_at_a_time."""
    return one_at_a_time(sweep_dir, _LOCK)


@contextmanager
def one_at_a_time(sweep_dir: Path, name: str) -> Generator[int]:
    """A lock that goes with its process, and with those that inherit it.

    Args:
        name: of its file.

    Yields:
        Its descriptor.

    Raises:
        UserError: another launcher has it; which.
    """
    with (sweep_dir / name).open("a+", encoding="utf-8") as file:
        try:
            _lock(file.fileno())
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another launcher"
            raise UserError(f"{sweep_dir} is in the hands of {holder}: wait for its end.") from None
        except OSError as error:
            log.warning("%s: no file locks here (%s)", sweep_dir, error)
        file.truncate(0)
        file.write(f"the launcher with process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield file.fileno()


def _lock(handle: int) -> None:
    """Somebody who only looks holds a lock, too, for a moment (is_being_submitted)."""
    give_up = time.monotonic() + 0.5
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def is_being_submitted(sweep_dir: Path) -> bool:
    """Whether a launcher works on the folder."""
    try:
        with (sweep_dir / _LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:  # no lock there, or another user's
        return False


def check_same_runs(
    sweep_dir: Path, earlier: list[Submission], points: list[Point], allowed: list[str]
) -> dict[int, list[str]]:
    """Refuse to put other runs into a used folder: a run's index and configuration belong together.

    Args:
        allowed: keys that may differ (requeue.allow_changes).

    Returns:
        What differs by leave, by the run's index: `{0: ["trainer.num_epochs: 10 -> 20"]}`.

    Raises:
        UserError: naming the first run that differs, and in what.
    """
    known = {point.index: point.config for submission in earlier for point in submission.points}
    differ: dict[int, list[str]] = {}
    for point in points:
        changed = differences(known.get(point.index, point.config), redact_values(point.config))
        refused = [text for key, text in changed.items() if key not in allowed]
        if point.index in known and refused:
            raise UserError(
                f"{sweep_dir} already holds another run {point.index}: {'; '.join(refused)}. Resubmit it unchanged to "
                "resume it, choose another experiment_name, or name the keys in requeue.allow_changes=[...]."
            )
        if point.index in known and changed:
            differ[point.index] = list(changed.values())
    return differ


def provenance() -> tuple[dict[str, str], dict[str, str]]:
    """(git commit and uncommitted diff of the working directory, version of every installed package)."""
    git: dict[str, str] = {}
    for name, command in (("commit", ["rev-parse", "HEAD"]), ("diff", ["diff", "HEAD"])):
        try:
            answer = subprocess.run(["git", *command], capture_output=True, text=True, errors="replace", timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            break
        if answer.returncode != 0:
            break
        git[name] = redact(answer.stdout.strip()[:_DIFF_LIMIT])
    versions = {dist.name: dist.version for dist in importlib.metadata.distributions()}
    return git, dict(sorted(versions.items()))


def code_changes(old: Submission, new: Submission) -> list[str]:
    """What differs in the code of two submissions: commit, uncommitted changes by file, Python and packages."""
    return git_changes(old, new) + environment_changes(old, new)


def environment_changes(old: Submission, new: Submission) -> list[str]:
    """What differs in the versions of Python and of the installed packages."""
    before, after = {"python": old.python} | old.versions, {"python": new.python} | new.versions
    return list(differences(before, after).values())


def git_changes(old: Submission, new: Submission) -> list[str]:
    """What differs in the commit, and in uncommitted changes by file."""
    changes: list[str] = []
    if (old.git.get("commit"), new.git.get("commit")) != (None, None):
        changes += differences({"commit": old.git.get("commit")}, {"commit": new.git.get("commit")}).values()
    before, after = _by_file(old.git.get("diff", "")), _by_file(new.git.get("diff", ""))
    return changes + [f"uncommitted changes in {name}" for name in differences(before, after)]


def _by_file(diff: str) -> dict[str, str]:
    """git's diff, file by file."""
    parts = re.split(r"^diff --git a/(\S+) .*$", diff, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def common_overrides(points: list[Point]) -> set[str]:
    """Those that all points of a sweep have, which tell nothing about any of them."""
    return set.intersection(*(set(point.overrides) for point in points)) if len(points) > 1 else set()


def redact(text: str) -> str:
    """Blank the value in every `name=value` or `name: value` whose name looks like a secret's."""
    return _ASSIGNED.sub(r"\1***", text)


def redact_values(config: dict[str, Any]) -> dict[str, Any]:
    """The same for a flat config."""
    return {
        key: "***" if value is not None and re.fullmatch(_SECRET, key, re.IGNORECASE) else value
        for key, value in config.items()
    }
