"""Checkpoint folders on disk: committed whole or not at all, verified before use.

    outputs/checkpoint-<step>/
        <files>         whatever the writer puts there
        manifest.json   step, size and crc32 of every file, the best step, and the writer's own facts; written last

A save goes to a temporary folder: files, fsync, manifest, fsync, rename, fsync of the parent. A reader sees a whole
checkpoint or none, whenever the writer dies. Order is by the step in the name: clocks jump, and copies lose their
times.
"""

import json
import logging
import os
import re
import shutil
import threading
import uuid
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from common.paths import fsync_path, write_atomic

log = logging.getLogger(__name__)

DELETING = "delete checkpoints"  # name of the thread
T = TypeVar("T")
FileFacts = dict[str, int]  # {"size": bytes, "crc32": checksum}


class CheckpointError(Exception):
    """There are checkpoints, but none that this run can go on from."""


def commit(
    out_dir: Path, step: int, write: Callable[[Path], dict[str, FileFacts]], facts: dict[str, Any],
    may_commit: Callable[[], None], keep: int, best: int | None = None,
) -> None:  # fmt: skip
    """Write checkpoint-<step> and make it visible as a whole; then drop all but the `keep` newest.

    Args:
        write: fills the temporary folder that it is given; returns the facts of every file in it.
        facts: what the manifest says besides.
        best: a step whose checkpoint is kept besides.
        may_commit: called just before the rename; raises where another process owns the folder by now.

    Raises:
        OSError: the disk is full, read-only, ...; the older checkpoints are untouched, and nothing is left behind.
    """
    temporary = out_dir / f".checkpoint-{step}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        temporary.mkdir(parents=True)
        manifest = {"step": step, "files": write(temporary), "best": best} | facts
        write_atomic(temporary / "manifest.json", json.dumps(manifest, indent=1))
        may_commit()
        final = out_dir / f"checkpoint-{step}"
        shutil.rmtree(final, ignore_errors=True)  # only a damaged one can stand here: whole ones are resumed from
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_path(out_dir)
    _drop_old(out_dir, keep, best)


def write_file(path: Path, content: Any) -> FileFacts:
    """torch.save, on the disk for good.

    Raises:
        OSError: it could not be written.
    """
    import torch  # not where checkpoints are only looked at: vec-jobs clean
    from torch.serialization import get_crc32_options, set_crc32_options

    checksums = get_crc32_options()
    set_crc32_options(False)  # the manifest has one of the whole file
    with _Growing(path, "wb") as file, ThreadPoolExecutor(1) as beside:
        checksum = beside.submit(file.checksum, path)
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch hides the system's reason when it closes its half of the file
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error
        finally:
            set_crc32_options(checksums)
            file.complete.set()
        os.fsync(file.fileno())
        return checksum.result()


class _Growing(FileIO):
    """A file of which another thread takes the checksum while it is written: from the file, so that it holds for what
    was written, and only up to where a write has returned."""

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self._size = 0
        self.complete = threading.Event()

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        while rest:  # the system may take a part
            written = super().write(rest)
            self._size += written
            rest = rest[written:]
        return memoryview(data).nbytes

    def checksum(self, path: Path) -> FileFacts:
        """Returns when the file is complete; called in the other thread."""
        crc = read = 0
        with path.open("rb", buffering=0) as file:
            while True:
                complete, size = self.complete.is_set(), self._size
                while read < size and (chunk := file.read(min(1 << 20, size - read))):
                    crc = zlib.crc32(chunk, crc)
                    read += len(chunk)
                if complete:
                    return {"size": read, "crc32": crc}
                self.complete.wait(0.002)


def file_facts(path: Path) -> FileFacts:
    """Size in bytes and crc32 of a file."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return {"size": path.stat().st_size, "crc32": crc}


def latest(out_dir: Path, read: Callable[[Path], T]) -> tuple[Path, T] | None:
    """The newest whole checkpoint, by step, and what `read` makes of it; damaged ones that are newer are set aside with
    a warning.

    Set aside (checkpoint-7 -> checkpoint-7.damaged) they are never counted among those that are kept.

    Args:
        read: runs beside the verification, so that every byte comes from the disk once.

    Raises:
        CheckpointError: there are checkpoints, but none is whole: starting again at step 0 would hide a loss.
        Exception: what `read` raises for a checkpoint that is whole.
    """
    damaged: list[Path] = []
    for folder in _committed(out_dir):
        with ThreadPoolExecutor(1) as beside:
            reading = beside.submit(read, folder)
            fault = verify(folder)
        if fault is None:
            for bad in damaged:
                shutil.rmtree(bad.with_name(f"{bad.name}.damaged"), ignore_errors=True)
                bad.rename(bad.with_name(f"{bad.name}.damaged"))
            return folder, reading.result()
        log.warning("skipping damaged checkpoint %s: %s", folder, fault)
        damaged.append(folder)
    if damaged:
        raise CheckpointError(
            f"None of the {len(damaged)} checkpoints in {out_dir} is whole. "
            "Move them away to start again at step 0, or bring an intact one back."
        )
    return None


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None when every file has the size and crc32 of the manifest."""
    try:
        for name, facts in read_manifest(folder)["files"].items():
            if file_facts(folder / name) != facts:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def _committed(out_dir: Path) -> list[Path]:
    """Checkpoint folders, newest step first."""
    found = [(re.fullmatch(r"checkpoint-(\d+)", folder.name), folder) for folder in out_dir.glob("checkpoint-*")]
    return [folder for _, folder in sorted(((int(m.group(1)), f) for m, f in found if m), reverse=True)]


def superfluous(out_dir: Path) -> list[Path]:
    """What no resume needs, in the folder of a run that is not live: checkpoints, whole, damaged or set aside, from
    before the newest whole one, but for the best; and what killed writers left behind.

    Raises:
        CheckpointError: none of the checkpoints is whole: somebody should look at them.
    """
    committed = _committed(out_dir)
    set_aside = [folder for folder in out_dir.iterdir() if re.fullmatch(r"checkpoint-\d+\.damaged", folder.name)]
    if not (committed[1:] or set_aside or _rubbish(out_dir)):
        return []
    newest = next((folder for folder in committed if verify(folder) is None), None)
    if newest is None:
        if committed or set_aside:
            raise CheckpointError(f"none of the checkpoints in {out_dir} is whole")
        return _rubbish(out_dir)
    best = f"checkpoint-{read_manifest(newest).get('best')}"
    older = [folder for folder in [*committed, *set_aside] if _step(folder) < _step(newest) and folder.name != best]
    return [*older, *_rubbish(out_dir)]


def take_away(folder: Path) -> Path:
    """Rename what is to be deleted, so that it is never seen in part; returns what to delete."""
    if folder.name.startswith(".removed-"):
        return folder
    hidden = folder.with_name(f".removed-{folder.name}.{uuid.uuid4().hex[:8]}")
    folder.rename(hidden)
    return hidden


def _step(folder: Path) -> int:
    """Of checkpoint-12 and checkpoint-12.damaged."""
    return int(folder.name.removeprefix("checkpoint-").removesuffix(".damaged"))


def _rubbish(out_dir: Path) -> list[Path]:
    return [*out_dir.glob(".removed-*"), *out_dir.glob(".checkpoint-*.tmp")]


def _drop_old(out_dir: Path, keep: int, best: int | None) -> None:
    """Keep the newest; remove the others, and what killed writers left behind. They are renamed at once, so that none
    is ever seen in part, and deleted while the training goes on."""
    for folder in _committed(out_dir)[keep:]:
        if folder.name != f"checkpoint-{best}":
            take_away(folder)
    threading.Thread(target=_delete, args=(_rubbish(out_dir),), name=DELETING).start()


def _delete(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
