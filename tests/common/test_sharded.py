"""States that are spread over the ranks (common/sharded.py): real FSDP on gloo, two and more processes."""

import pickle
import shutil
import socket
from collections.abc import Callable
from multiprocessing.context import ForkContext
from pathlib import Path
from typing import Any

import pytest

from common.sharded import read_metadata
from common.storage import CheckpointError, latest
from tests.children import tiny, train_sharded

Train = Callable[..., Any]


@pytest.fixture
def train(children: ForkContext, tmp_path: Path) -> Train:
    """`train(2, 4)`: two ranks until step 4, resumed if there is a checkpoint; what rank 0 says in the end."""

    def run(world: int, until: int, name: str = "run", async_save: bool = False) -> Any:
        cfg = tiny(tmp_path / name, save_every_min=1e-9 if async_save else 5.0)
        cfg.requeue.async_save = async_save
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        pipes = [children.Pipe() for _ in range(world)]
        ranks = [
            children.Process(target=train_sharded, args=(rank, cfg, world, port, until, theirs))
            for rank, (theirs, _) in enumerate(pipes)
        ]
        for rank in ranks:
            rank.start()
        assert pipes[0][1].poll(60), "the ranks hang"
        said = pipes[0][1].recv()
        for rank in ranks:
            rank.join(30)
            assert rank.exitcode == 0
        return said

    return run


def test_a_sharded_run_resumes_on_as_many_ranks_and_on_others(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, sha256, straight = train(2, 4, "straight")
    train(2, 2)
    train(2, 3)
    shards = sorted(path.name for path in (tmp_path / "run" / "checkpoint-3" / "shards").iterdir())
    assert shards == [".metadata", "__0_0.distcp", "__1_0.distcp"], "each rank writes what it holds"
    for name in ("on 1", "on 2", "on 3", "flipped", "missing"):
        shutil.copytree(tmp_path / "run", tmp_path / name)

    resumed, ours, _ = train(2, 4, "on 2")
    assert (resumed, ours) == (3, sha256), "bit for bit"
    for world in (1, 3):
        resumed, _, values = train(world, 4, f"on {world}")
        assert resumed == 3
        for value, wanted in zip(values, straight, strict=True):
            assert value == pytest.approx(wanted, abs=1e-6)  # the gradients are summed in another order

    shard = Path("checkpoint-3", "shards", "__1_0.distcp")
    (tmp_path / "missing" / shard).unlink()
    (tmp_path / "flipped" / shard).write_bytes((tmp_path / "run" / shard).read_bytes()[:-1] + b"\xff")
    for name in ("missing", "flipped"):
        caplog.clear()
        newest, _ = latest(tmp_path / name, lambda folder: None) or (None, None)
        assert newest == tmp_path / name / "checkpoint-2"
        assert "__1_0.distcp" in caplog.text


def test_steps_during_a_background_save_do_not_reach_the_shards(train: Train, tmp_path: Path) -> None:
    _, straight, _ = train(2, 5, async_save=True)
    assert sorted(path.name for path in (tmp_path / "run").glob("*checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    shutil.rmtree(tmp_path / "run" / "checkpoint-5")  # the other one was written while step 5 was made
    resumed, sha256, _ = train(2, 5)
    assert resumed == 4
    assert sha256 == straight


class Planted:
    """What somebody else with access to the folder could put there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_metadata_that_names_anything_else_is_not_unpickled(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Planted(tmp_path / "planted")))
    with pytest.raises(CheckpointError, match=r"\.metadata names .*touch.*tampered"):
        read_metadata(tmp_path)
    assert not (tmp_path / "planted").exists()


def test_an_unsharded_checkpoint_is_refused_by_a_sharded_run(train: Train) -> None:
    train(1, 1)
    assert "saved by a run that was not sharded" in str(train(2, 2))
