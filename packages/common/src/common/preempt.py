"""Signals that ask a run to stop: they set a flag, and nothing else.

A handler that saves would run between two arbitrary instructions, on one rank only, perhaps in the middle of a save or
of a collective. The trainer looks at the flag at a step boundary instead (common.checkpoint).

    USR2, USR1   a notice (time limit, preemption with grace, sent by hand): save, then requeue
    TERM         preemption without notice, scancel, end of the time limit: save, then leave; Slurm itself decides
                 whether the job comes back

This module imports nothing but the standard library, so that it can be the first thing a job does.
"""

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

TERM = signal.SIGTERM
NOTICE = signal.SIGUSR2  # what Slurm sends before a time limit (sbatch --signal)
_NOTICES = (signal.SIGUSR1, signal.SIGUSR2)
_received: list[signal.Signals] = []


class Preempted(BaseException):
    """The run was told to stop and has saved. Not an Exception: nothing on the way may swallow it.

    Args:
        step: the last one that is done, and saved; None where this process had not begun to train.
        why: where no signal was the reason.
    """

    def __init__(self, sig: signal.Signals, step: int | None, why: str = "") -> None:
        where = "before the training began" if step is None else f"at step {step}"
        super().__init__(f"stopped {where}: {why}" if why else f"stopped by {sig.name} {where}")
        self.signal = sig
        self.step = step


def install() -> None:
    """Catch the signals from now on, in this process and not in its forked children.

    Slurm signals every process of a step; a DataLoader worker that dies of it takes the save down with it.
    """
    for sig in (*_NOTICES, TERM):
        signal.signal(sig, _note)


def uninstall() -> None:
    """For a run that cannot save: TERM ends it at once, a notice changes nothing."""
    signal.signal(TERM, signal.SIG_DFL)
    for sig in _NOTICES:
        signal.signal(sig, signal.SIG_IGN)


def requested() -> signal.Signals | None:
    """The signal to act on, or None. TERM wins: whoever sent it has decided about the job's future already."""
    if not _received:
        return None
    return TERM if TERM in _received else _received[0]


@contextmanager
def unheard() -> Generator[None]:
    """Processes that are started here never hear of the signals, not even those that start anew (spawn, forkserver).

    A blocked signal stays blocked in a child. This process gets those that come meanwhile at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_NOTICES, TERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def forget() -> None:
    """Clear the flag, when one process runs one run after the other."""
    _received.clear()


def _note(signum: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(signum))


def _shield_child() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)  # it is the parent's
    for sig in (*_NOTICES, TERM):
        if signal.getsignal(sig) is _note:
            signal.signal(sig, signal.SIG_IGN)


os.register_at_fork(after_in_child=_shield_child)
