"""What the promise of requeue costs a training, and how long a run takes to leave.

    uv run python -m benchmarks.preemption

Signals come at random moments (seed below), in this process, to a loop with steps of 50 ms and a state of 64 MiB. The
agreement is measured between two processes over gloo. All times are medians of one run but for the 99th percentile.
"""

import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.checkpoint import State, checkpointer, met
from common import distributed, preempt
from common.checkpoint import _AGREE_EVERY_S
from common.config import Requeue

SEED = 0
SIGNALS = 100
STEP_S = 0.05
STATE_MIB = 64
AGREEMENTS = 2000


def main() -> None:
    print("| | measured | goal | |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        p99_s, save_s = leaving(Path(folder))
        goal_s = STEP_S + save_s + 2
        row(
            f"signal to committed checkpoint, p99 of {SIGNALS}", f"{p99_s:.2f} s", f"<= {goal_s:.2f} s", p99_s <= goal_s
        )
    agree_s = agreement()
    row("two ranks agree on the flag", f"{agree_s * 1e6:.0f} us")
    share = agree_s / _AGREE_EVERY_S
    row(f"share of the time, every {_AGREE_EVERY_S} s", f"{share:.3%}", "<= 0.5 %", share <= 0.005)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        saves(Path(folder))


def row(what: str, measured: str, goal: str = "", reached: bool | None = None) -> None:
    print(f"| {what} | {measured} | {goal} | {'' if reached is None else met(reached)} |", flush=True)


def leaving(folder: Path) -> tuple[float, float]:
    """(99th percentile of the seconds from a signal to the committed checkpoint, median seconds of a save)."""
    preempt.install()
    draw = random.Random(SEED)
    saver = checkpointer(folder, State(STATE_MIB), in_background=False, save_every_min=60)
    step, latencies_s, saves_s = 0, [], []
    for _ in range(SIGNALS):
        sent: list[float] = []

        def send(sent: list[float] = sent) -> None:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGUSR2)

        threading.Timer(draw.uniform(0, 3 * STEP_S), send).start()
        try:
            while True:
                time.sleep(STEP_S)
                step += 1
                begun = time.monotonic()
                saver.save_or_leave(step)
        except preempt.Preempted:
            saves_s.append(time.monotonic() - begun)
            latencies_s.append(time.monotonic() - sent[0])
        preempt.forget()
    return statistics.quantiles(latencies_s, n=100)[98], statistics.median(saves_s)


def agreement() -> float:
    """Median seconds of one agreement of two ranks that arrive together."""
    theirs, ours = Pipe()
    ranks = [Process(target=agree_often, args=(rank, theirs)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    median_s = ours.recv()
    for rank in ranks:
        rank.join()
    return median_s


def agree_often(rank: int, connection: Connection) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29871"}
    distributed.start()
    times_s: list[float] = []
    for _ in range(AGREEMENTS):
        begun = time.perf_counter()
        distributed.agree([0.0, 0.0, 1.0])
        times_s.append(time.perf_counter() - begun)
    if rank == 0:
        connection.send(statistics.median(times_s))
    distributed.stop()


def saves(folder: Path) -> None:
    """The share of a run that goes into saves of 1 GiB at the default interval."""
    every_s = Requeue().save_every_min * 60
    for in_background in (False, True):
        saver = checkpointer(folder / str(in_background), State(1024), in_background)
        stalls_s: list[float] = []
        for step in range(1, 5):
            begun = time.monotonic()
            saver.save_or_leave(step)
            stalls_s.append(time.monotonic() - begun)
            saver.save(step)  # wait for the one in the background
        share = statistics.median(stalls_s[1:]) / every_s  # the first one allocates the buffers
        how = "in the background" if in_background else "synchronous"
        row(f"saves of 1 GiB every {every_s:.0f} s, {how}", f"{share:.3%}", "<= 1 %", share <= 0.01)


if __name__ == "__main__":
    sys.exit(main())
