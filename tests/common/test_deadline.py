"""A run that is told to stop in the middle of a long step leaves in time (hydra_plugins/vec_launcher/_deadline.py)."""

import os
import signal
import time
from multiprocessing.context import ForkContext

import pytest

from hydra_plugins.vec_launcher import _deadline
from tests.children import busy_in_c


@pytest.mark.parametrize("sig", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_notice_during_one_long_call_of_c_is_noticed_before_the_limit(
    children: ForkContext, sig: signal.Signals
) -> None:
    theirs, ours = children.Pipe()
    ends_at = time.time() + _deadline.MARGIN_S + 1.5
    child = children.Process(target=busy_in_c, args=(ends_at, theirs))
    child.start()
    assert child.pid is not None
    assert ours.recv() == "busy"
    os.kill(child.pid, sig)
    assert ours.poll(10), "nobody noticed that the step does not end"
    assert ours.recv() == sig.name
    assert ends_at - _deadline.MARGIN_S <= time.time() < ends_at, "the step has the time until then"
    child.kill()
    child.join()


def test_without_a_signal_the_limit_is_not_our_business(children: ForkContext) -> None:
    theirs, ours = children.Pipe()
    child = children.Process(target=busy_in_c, args=(time.time() + _deadline.MARGIN_S + 0.3, theirs))
    child.start()
    assert ours.recv() == "busy"
    assert not ours.poll(1.0)
    child.kill()
    child.join()
