"""When a run saves and when it leaves: asked at the end of every step, and agreed over all ranks.

One rank may get a signal, or run late, and the others not: all act on what any of them knows, at the same step. Where
steps are short they ask each other about twice a second, not at every step.
"""

import math
import os
import signal
import time

from common import distributed, preempt
from common.config import Requeue

_AGREE_EVERY_S = 0.5  # how often several ranks ask each other whether to stop


class StepBoundary:
    """The clock and the flag of a run, looked at between two steps.

    Args:
        requeue: how often to save.
    """

    def __init__(self, requeue: Requeue) -> None:
        self._save_every_s = requeue.save_every_min * 60
        self._several = distributed.world_size() > 1
        ends_at = float(os.environ.get("VEC_ENDS_AT", "inf"))
        self._ends_at = time.monotonic() + ends_at - time.time()  # a clock that jumps changes nothing from here on
        self._step_s = 0.0  # the slowest of the last steps
        self._stepped_at = time.monotonic()
        self._save_s = 0.0  # the slowest save
        self._saved_at = time.monotonic()
        self._next_look = 0  # step at which several ranks look at the flag together
        self._looked = (0, time.monotonic())  # (step, time) of the last look

    def begin(self, step: int) -> None:
        """Before the first step of this attempt.

        Args:
            step: the number of steps done.

        Raises:
            Preempted: TERM has come. There is no time, and nothing is done yet that a save would keep.
        """
        self._next_look = step
        self._looked = (step, time.monotonic())
        sig = self._agree(step, time.monotonic(), False, preempt.requested())[1]
        self._next_look = step
        if sig == preempt.TERM:
            raise preempt.Preempted(sig, step)
        # after a notice there is time for one step: a run that left here each time would never get further
        self.go_on()

    def reached(self, step: int) -> tuple[bool, preempt.Preempted | None]:
        """At the end of a step, on all ranks.

        Returns:
            (whether a periodic save is due, what to raise after a save if the run is to leave: it was told to, or its
            next step would not end before its time limit).
        """
        now = time.monotonic()
        self._step_s = max(now - self._stepped_at, 0.9 * self._step_s)
        if self._several and step < self._next_look:
            return False, None
        due = now - self._saved_at >= self._save_every_s
        late = now + self._step_s + 2 * self._save_s > self._ends_at
        sig = preempt.requested() or (preempt.NOTICE if late else None)
        if self._several:
            due, sig = self._agree(step, now, due, sig)
        if sig is None:
            return due, None
        told = preempt.requested() is not None or not late
        return due, preempt.Preempted(sig, step, "" if told else "the next step would not end before the time limit")

    def saved(self, seconds: float = 0.0) -> None:
        """A save has ended, or was tried: the next one is due an interval later."""
        self._saved_at = time.monotonic()
        self._save_s = max(self._save_s, seconds)

    def go_on(self) -> None:
        """The next step begins now."""
        self._stepped_at = time.monotonic()

    def _agree(
        self, step: int, now: float, due: bool, sig: signal.Signals | None
    ) -> tuple[bool, signal.Signals | None]:
        """Whether any rank wants to save or stop; and at which step to ask again."""
        last_step, last_time = self._looked
        step_s = (now - last_time) / max(1, step - last_step)
        # the largest signal number wins: USR1 10, USR2 12, TERM 15
        save, number, slowest_s = distributed.agree([float(due), float(sig or 0), step_s])
        self._next_look = step + max(1, math.floor(_AGREE_EVERY_S / max(slowest_s, 1e-6)))
        self._looked = (step, now)
        return bool(save), signal.Signals(int(number)) if number else None
