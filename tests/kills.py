"""A process that saves step after step is killed again and again."""

import random
from multiprocessing.context import ForkContext
from pathlib import Path

from common.storage import verify
from tests.children import save_for_ever

SEED = 42  # of the moments


def kill_in_saves(out_dir: Path, children: ForkContext, times: int) -> tuple[int, int]:
    """SIGKILL at a random moment of a save, resume, kill again; after each kill the newest checkpoint is whole and none
    that was committed is lost.

    Returns:
        (kills, how many of them left a torn temporary folder behind: they came in the middle of a write)
    """
    draw = random.Random(SEED)
    last = torn = 0
    for _ in range(times):
        theirs, ours = children.Pipe()
        writer = children.Process(target=save_for_ever, args=(out_dir, theirs))
        writer.start()
        theirs.close()
        assert ours.poll(120)  # it has committed once
        last = max(last, ours.recv())
        writer.join(draw.uniform(0, 0.03))  # a save takes about 10 ms
        assert writer.is_alive(), "it could not go on from what the last kill left"
        writer.kill()
        writer.join()
        writer.close()
        while ours.poll():
            try:
                last = ours.recv()
            except EOFError:
                break
        ours.close()
        torn += any(out_dir.glob(".checkpoint-*.tmp"))
        newest = max(out_dir.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
        assert verify(newest) is None, f"{newest.name} is torn, after step {last} was committed"
        assert int(newest.name.split("-")[1]) >= last, "a committed step is lost"
    assert last >= times, (
        "the runs did not go on from each other"
    )  # each has committed once, on a loaded machine no more
    return times, torn
