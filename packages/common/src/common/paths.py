"""Where things are on disk, and how files get there whole."""

import errno
import json
import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from common.errors import UserError

__all__ = ["read_lines"]

log = logging.getLogger(__name__)


def check_work_dir(work_dir: Path, work_root: Path) -> None:
    """Refuse a sweep folder that cannot be made or written to.

    Args:
        work_root: must exist, where work_dir lies in it: it is a site's scratch, a missing one is a mistake.

    Raises:
        UserError: naming the folder that is in the way.
    """
    if work_root in work_dir.parents and not work_root.exists():
        raise UserError(
            f"The work root {work_root} does not exist: create it, or give another one with paths.work_root=<folder>."
        )
    existing = next(folder for folder in (work_dir, *work_dir.parents) if folder.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is not a folder: give another one with paths.work_root or paths.work_dir.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{existing} is not writable for you: give another one with paths.work_root or paths.work_dir.")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    Raises:
        OSError: the old file is untouched then.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def fsync_path(path: Path) -> None:
    """Make a file, or the renames inside a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class LineFile:
    """Appends JSON objects to a file, one a line. Those for which the disk has no room wait in memory: a full disk is
    no reason to stop a training that may find room later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._waiting = b""
        self._lock = threading.Lock()  # a background save syncs while the training writes
        _line_files[path] = self

    def append(self, record: dict[str, Any]) -> None:
        """Write a line, after those that wait."""
        with self._lock:
            first = not self._waiting
            self._waiting += json.dumps(record).encode() + b"\n"
            try:
                self._flush()
            except OSError as error:
                if first:
                    log.warning("could not write to %s (%s): its lines wait in memory", self._path, error)

    def sync(self) -> None:
        """Make all lines durable.

        Raises:
            OSError: there is no room for them yet.
        """
        with self._lock:
            self._flush()
        os.fsync(self._handle)

    def close(self) -> None:
        """sync(), and no more.

        Raises:
            OSError: as sync().
        """
        self.sync()
        os.close(self._handle)
        del _line_files[self._path]

    def _flush(self) -> None:
        if not self._waiting:
            return
        size = os.fstat(self._handle).st_size
        try:
            if os.write(self._handle, self._waiting) < len(self._waiting):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._handle, size)  # all of them or none
            raise
        self._waiting = b""


_line_files: dict[Path, LineFile] = {}  # that this process writes


def sync_lines(path: Path) -> None:
    """LineFile.sync, where this process writes the file."""
    if path in _line_files:
        _line_files[path].sync()


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON object as one line; also after a torn one, which stays a line of its own."""
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        else:
            torn = False
        file.write(b"\n" * torn + json.dumps(record).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a .jsonl file; a torn line (its writer was killed) is left out."""
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def last_line(path: Path) -> dict[str, Any]:
    """The last whole JSON object of a .jsonl file, read from its end; {} where there is none."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 100_000))
        for line in reversed(file.read().splitlines()):
            try:
                return json.loads(line)
            except ValueError:
                continue
    return {}
