"""Notices in time that no step boundary comes: in a long step, a load, an evaluation or a compilation nobody looks at
the flag, and while one call of C lasts not even Python's own signal handlers run. The pipe of `set_wakeup_fd` is
written by the C handler itself, and a thread reads it.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable

from common import preempt, slurm

MARGIN_S = 5.0  # what is left for the way out: a line in the log, and the requeue


def watch(ends_at: float, too_late: Callable[[signal.Signals], None]) -> None:
    """Call `too_late` from a thread when a signal was received and the process still runs shortly before its end.

    Args:
        ends_at: when the time limit ends the run, seconds since the epoch. After TERM it is Slurm's KillWait instead.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    end = time.monotonic() + ends_at - time.time()  # a clock that jumps changes nothing from here on
    threading.Thread(target=_wait, args=(reader, end, too_late), name="deadline", daemon=True).start()


def _wait(reader: int, end: float, too_late: Callable[[signal.Signals], None]) -> None:
    received: signal.Signals | None = None
    while received is None or time.monotonic() < end - MARGIN_S:
        timeout = None if received is None else max(0.0, end - MARGIN_S - time.monotonic())
        if not select.select([reader], [], [], timeout)[0]:
            continue
        number = os.read(reader, 1)[0]
        if number == preempt.TERM and received != preempt.TERM:
            received = preempt.TERM
            end = min(end, time.monotonic() + slurm.kill_wait_s())
        elif number in (signal.SIGUSR1, signal.SIGUSR2) and received is None:
            received = signal.Signals(number)
    too_late(received)
