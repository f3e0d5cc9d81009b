"""A command on a terminal that a test has opened for it (pty)."""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable


def start(command: list[str], env: dict[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """In a session of its own.

    Returns:
        (its process, the test's end of the terminal)
    """
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=env, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    os.close(follower)
    return process, leader


def read_until(leader: int, ready: Callable[[str], bool], limit_s: float = 120) -> str:
    """Read while waiting: a terminal that nobody reads is full some time, and then the command waits.

    Args:
        leader: the test's end of the terminal.
        ready: told what was shown so far. The command's end is one in any case.

    Returns:
        What was shown meanwhile.
    """
    shown = b""
    give_up = time.monotonic() + limit_s
    while not ready(text := shown.decode(errors="replace")):
        assert time.monotonic() < give_up, f"not within {limit_s:.0f} s; shown so far:\n{text[-3000:]}"
        if select.select([leader], [], [], 0.1)[0]:
            try:
                shown += os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
    return shown.decode(errors="replace")


def interrupt(process: subprocess.Popen[bytes], leader: int) -> str:
    """What the terminal does at ctrl-C.

    Returns:
        What is shown from then to the command's end.
    """
    os.killpg(process.pid, signal.SIGINT)
    return read_until(leader, lambda _: False)
