"""sweep.json: what was submitted into a sweep folder, how, and as which jobs.

    {"submissions": [{"time", "command", "template", "preset", "executor", "state": "submitting" | "submitted",
                      "git": {...}, "python", "versions": {...},
                      "points": [{"index", "overrides", "job_id", "config": {flat key: value}}]}]}

Each submission into the same folder appends one entry; the file is replaced as a whole, atomically.
"""

import importlib.metadata
import json
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.config import differences
from common.errors import UserError
from common.paths import write_atomic

SWEEP_FILE = "sweep.json"
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
    git: dict[str, str] = field(default_factory=dict)
    python: str = field(default_factory=platform.python_version)
    versions: dict[str, str] = field(default_factory=dict)


def read(sweep_dir: Path) -> list[Submission]:
    """The submissions into a folder, oldest first; none where there is no sweep.json.

    Raises:
        UserError: the file is there but cannot be understood.
    """
    path = sweep_dir / SWEEP_FILE
    if not path.exists():
        return []
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))["submissions"]
        return [Submission(**entry | {"points": [Point(**p) for p in entry["points"]]}) for entry in raw]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): move it away, or use another paths.work_dir.") from error


def write(sweep_dir: Path, submissions: list[Submission]) -> None:
    """Replace sweep.json."""
    record = {"submissions": [asdict(submission) for submission in submissions]}
    write_atomic(sweep_dir / SWEEP_FILE, json.dumps(record, indent=1))


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
    """What differs in the code of two submissions: commit, uncommitted changes by file, versions of packages."""
    changes: list[str] = []
    if (old.git.get("commit"), new.git.get("commit")) != (None, None):
        changes += differences({"commit": old.git.get("commit")}, {"commit": new.git.get("commit")}).values()
    before, after = _by_file(old.git.get("diff", "")), _by_file(new.git.get("diff", ""))
    changes += [f"uncommitted changes in {name}" for name in differences(before, after)]
    return changes + list(differences(old.versions, new.versions).values())


def _by_file(diff: str) -> dict[str, str]:
    """git's diff, file by file."""
    parts = re.split(r"^diff --git a/(\S+) .*$", diff, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def redact(text: str) -> str:
    """Blank the value in every `name=value` or `name: value` whose name looks like a secret's."""
    return _ASSIGNED.sub(r"\1***", text)


def redact_values(config: dict[str, Any]) -> dict[str, Any]:
    """The same for a flat config."""
    return {
        key: "***" if value is not None and re.fullmatch(_SECRET, key, re.IGNORECASE) else value
        for key, value in config.items()
    }
