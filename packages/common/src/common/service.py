"""A server that a run needs beside it, in a job of its own: started, watched, announced to the run, and ended with it.

    <run>/outputs/service.json   {"url", "instance"}: while it answers; an instance is one start of the server

Either job may be preempted alone. The run waits for the next instance (`find` says where it is), and the server
goes on as long as the run is queued or running.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

from common import preempt
from common.config import Service
from common.paths import write_atomic

__all__ = ["find"]

log = logging.getLogger(__name__)

_FILE = "service.json"
_POLL_S = 0.5
_STARTS = 5  # without one that became ready; then the job fails
_KILL_AFTER_S = 20.0  # between TERM and KILL


def find(out_dir: Path) -> dict[str, str] | None:
    """{"url", "instance"} of the server that answers now; None while there is none."""
    try:
        return json.loads((out_dir / _FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def serve(service: Service, out_dir: Path, host: str, needed: Callable[[], bool]) -> None:
    """Run the server as long as it is needed, and start it again when it ends.

    Args:
        host: the name of this machine for others.
        needed: whether the run is still queued or running.

    Raises:
        Preempted: this job was told to stop; the server has ended.
        RuntimeError: the server does not come up.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    failed = 0
    while needed():
        if sig := preempt.requested():
            raise preempt.Preempted(sig, None)
        if not Path(service.needs).exists():
            time.sleep(_POLL_S)
            continue
        ready, code = _serve_once(service, out_dir, host, needed)
        if code is None:
            return
        failed = 0 if ready else failed + 1
        log.warning("the server has ended with exit code %d", code)
        if failed >= _STARTS:
            raise RuntimeError(f"the server ended {failed} times before it was ready: {' '.join(service.command)}")
        time.sleep(_POLL_S)


def _serve_once(service: Service, out_dir: Path, host: str, needed: Callable[[], bool]) -> tuple[bool, int | None]:
    """One instance: (whether it was ready, its exit code; None where it was ended because nobody needs it)."""
    port = _free_port()
    command = [part.replace("{port}", str(port)) for part in service.command]
    log.info("starting %s", " ".join(command))
    process = subprocess.Popen(command, env=os.environ | service.env, start_new_session=True)
    ready = False
    try:
        while process.poll() is None:
            if sig := preempt.requested():
                raise preempt.Preempted(sig, None)
            if not needed():
                return ready, None
            if not ready and _answers(f"http://localhost:{port}{service.health}"):
                ready = True
                place = {"url": f"http://{host}:{port}", "instance": uuid.uuid4().hex}
                write_atomic(out_dir / _FILE, json.dumps(place))
                log.info("ready at %s", place["url"])
            time.sleep(_POLL_S)
        return ready, process.returncode
    finally:
        (out_dir / _FILE).unlink(missing_ok=True)
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The server and what it has started."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
            process.wait(_KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
