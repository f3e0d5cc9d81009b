"""Who may write into a run directory: one process, the newest attempt at the run.

    outputs/owner.json   {"token", "job_id", "node", "pid", "born", "executor", "since"}: who holds it

Two jobs in one directory would overwrite each other: the second refuses while the first one lives. An older attempt of
the same job that lives on (its slurmd died, Slurm started it again elsewhere) cannot be refused; it is fenced instead:
the token is not its own any more, and it may not commit.
"""

import fcntl
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common import slurm
from common.errors import UserError
from common.paths import write_atomic

log = logging.getLogger(__name__)

_FILE = "owner.json"
_held: dict[Path, str] = {}  # what this process holds: directory -> token


class NotOwnerError(Exception):
    """A newer attempt owns the run directory."""


def hold(out_dir: Path) -> None:
    """Become the owner of a run directory, once per process and directory.

    Raises:
        UserError: another job holds it and lives; the message names it.
    """
    if out_dir in _held:
        return
    with nobody(out_dir):
        token = uuid.uuid4().hex
        us = {
            "token": token,
            "job_id": _job_id(),
            "node": socket.gethostname(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "executor": os.environ.get("SUBMITIT_EXECUTOR", "inprocess"),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_atomic(out_dir / _FILE, json.dumps(us))
        _held[out_dir] = token


@contextmanager
def nobody(out_dir: Path) -> Generator[None]:
    """While this lasts, nobody owns the run directory: who wants to become its owner waits.

    Raises:
        UserError: another job holds it and lives; the message names it.
    """
    with _one_at_a_time(out_dir):
        holder = _read(out_dir)
        if holder and _lives(holder):
            raise UserError(
                f"{out_dir} is in use by job {holder['job_id']} on {holder['node']} (process {holder['pid']}, since "
                f"{holder['since']}): wait for its end or cancel it, or choose another paths.work_dir."
            )
        yield


def check(out_dir: Path) -> None:
    """Whether we may still write.

    Raises:
        NotOwnerError: a newer attempt has taken the directory over.
    """
    holder = _read(out_dir)
    if out_dir not in _held or holder.get("token") != _held[out_dir]:
        raise NotOwnerError(
            f"A newer attempt (job {holder.get('job_id')}, process {holder.get('pid')} on {holder.get('node')}) owns "
            f"{out_dir}: this one must not write there any more."
        )


def release(out_dir: Path) -> None:
    """Give the directory back, if it is still ours."""
    token = _held.pop(out_dir, None)
    if token is not None and _read(out_dir).get("token") == token:
        with suppress(OSError):  # on a read-only disk it stays: a holder that has ended is taken over
            (out_dir / _FILE).unlink(missing_ok=True)


def _job_id() -> str:
    return os.environ.get("VEC_JOB_ID", "inprocess")


def _read(out_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((out_dir / _FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the holder is a process of another job that still runs. Where nobody can tell, it does not: should it
    live after all, it is fenced."""
    if holder["job_id"] == _job_id() and holder["executor"] != "inprocess":
        return False  # an earlier attempt of this very job
    if holder["node"] == socket.gethostname() and _born(holder["pid"]) is not None:
        return _born(holder["pid"]) == holder["born"]
    if holder["executor"] == "slurm":
        return slurm.states([holder["job_id"]])[holder["job_id"]].state in ("RUNNING", "COMPLETING", "SUSPENDED")
    return False


def _born(pid: int) -> str | None:
    """When a process of this machine started, in ticks after boot (proc(5)): with it a number names one process for
    good. "" where there is no /proc; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        if Path("/proc/self").exists():
            return None
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return ""


@contextmanager
def _one_at_a_time(out_dir: Path) -> Generator[None]:
    """Two jobs that start at the same moment look one after the other. On a file system without locks both may pass;
    then the later one owns the directory, and the other is fenced."""
    with (out_dir / f".{_FILE}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            log.warning("%s: no file locks here (%s)", out_dir, error)
        yield
