"""The checkpoint contract (docs: common/checkpoint.py), on one process and without Slurm."""

import json
import logging
import os
import pickle
import random
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkContext
from pathlib import Path

import numpy as np
import pytest
import torch

from common import ownership, preempt
from common.checkpoint import Checkpointer, _copy, parameters_sha256
from common.errors import NonFiniteError, UserError
from common.storage import DELETING, CheckpointError, commit, latest, verify
from tests.children import tell_signal, tiny
from tests.conftest import SEED
from tests.disk import full_disk
from tests.kills import kill_in_saves


@pytest.fixture(autouse=True)
def known_generators() -> Iterator[None]:
    """Every test starts from the same random state, and from no signal."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    preempt.forget()
    yield
    preempt.forget()


def parts() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
    model = torch.nn.Linear(4, 3)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def one_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()


def saved(out_dir: Path, *steps: int) -> None:
    """A run that has saved at each of `steps`."""
    model, optimizer = parts()
    checkpointer = Checkpointer(tiny(out_dir), model=model, optimizer=optimizer)
    for step in steps:
        one_step(model, optimizer)
        checkpointer.save(step)


def resumed(out_dir: Path) -> int:
    model, optimizer = parts()
    return Checkpointer(tiny(out_dir), model=model, optimizer=optimizer).resume()


def names(out_dir: Path) -> list[str]:
    for thread in threading.enumerate():
        if thread.name == DELETING:
            thread.join()
    return sorted(path.name for path in out_dir.iterdir() if "checkpoint" in path.name)


# ----- save and resume -----


def test_a_new_run_starts_at_step_0(tmp_path: Path) -> None:
    assert resumed(tmp_path) == 0


def test_a_resumed_run_goes_on_exactly_where_it_stopped(tmp_path: Path) -> None:
    model, optimizer = parts()
    checkpointer = Checkpointer(tiny(tmp_path), model=model, optimizer=optimizer)
    for _ in range(3):
        one_step(model, optimizer)
    checkpointer.save(3)
    for _ in range(3):
        one_step(model, optimizer)  # draws its data from torch's generator; AdamW has moments
    wanted = parameters_sha256(model.named_parameters())

    torch.manual_seed(7)
    again, its_optimizer = parts()
    assert Checkpointer(tiny(tmp_path), model=again, optimizer=its_optimizer).resume() == 3
    for _ in range(3):
        one_step(again, its_optimizer)
    assert parameters_sha256(again.named_parameters()) == wanted


def test_every_random_number_generator_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def draws() -> tuple[float, list[float], list[float], float, list[float]]:
        # random.gauss and numpy's legacy normal keep a second value back: that belongs to the state, too
        return (random.random(), list(np.random.rand(3)), list(np.random.randn(3)), random.gauss(0, 1),
                torch.rand(3).tolist())  # fmt: skip

    draws()
    model, _ = parts()
    Checkpointer(tiny(tmp_path), model=model).save(1)
    wanted = draws()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert draws() != wanted
    assert Checkpointer(tiny(tmp_path), model=model).resume() == 1
    assert draws() == wanted


def test_saving_a_step_again_writes_nothing(tmp_path: Path) -> None:
    model, optimizer = parts()
    checkpointer = Checkpointer(tiny(tmp_path), model=model, optimizer=optimizer)
    checkpointer.save(1)
    before = (tmp_path / "checkpoint-1" / "state.pt").stat().st_ino
    checkpointer.save(1)
    assert (tmp_path / "checkpoint-1" / "state.pt").stat().st_ino == before


def test_two_checkpoints_are_kept_and_no_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-9.dead.tmp").mkdir()  # of a writer that was killed
    saved(tmp_path, 1, 2, 10, 9)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-9"]  # by number, not by name
    assert latest(tmp_path, lambda folder: folder.name) == (tmp_path / "checkpoint-10", "checkpoint-10")


def test_the_best_checkpoint_is_kept_besides_the_newest(tmp_path: Path) -> None:
    for step in range(1, 6):
        commit(tmp_path, step, lambda folder: {}, {}, lambda: None, keep=2, best=2)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]


def test_a_run_saves_when_it_is_time(tmp_path: Path) -> None:
    model, _ = parts()
    patient = Checkpointer(tiny(tmp_path / "a", save_every_min=5), model=model)
    patient.save_or_leave(1)
    assert names(tmp_path / "a") == []
    hasty = Checkpointer(tiny(tmp_path / "b", save_every_min=1e-9), model=model)
    hasty.save_or_leave(1)
    assert names(tmp_path / "b") == ["checkpoint-1"]


@pytest.mark.parametrize("sig", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_saves_at_the_next_step_boundary_and_leaves(tmp_path: Path, sig: signal.Signals) -> None:
    model, _ = parts()
    checkpointer = Checkpointer(tiny(tmp_path), model=model)
    preempt.install()
    checkpointer.save_or_leave(1)
    os.kill(os.getpid(), sig)
    assert names(tmp_path) == [], "a handler must do nothing but set a flag"
    with pytest.raises(preempt.Preempted) as stop:
        checkpointer.save_or_leave(2)
    assert (stop.value.signal, stop.value.step) == (sig, 2)
    assert names(tmp_path) == ["checkpoint-2"]
    assert not isinstance(stop.value, Exception), "an `except Exception` on the way would swallow it"


def test_term_wins_over_a_notice(tmp_path: Path) -> None:
    preempt.install()
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGTERM)
    assert preempt.requested() == signal.SIGTERM


def test_a_child_process_ignores_the_signals_of_its_step(children: ForkContext) -> None:
    # Slurm signals DataLoader workers, too: one that dies takes the save down with it
    preempt.install()
    theirs, ours = children.Pipe()
    worker = children.Process(target=tell_signal, args=(theirs,))
    worker.start()
    assert worker.pid is not None
    assert ours.recv() == "ready"
    for sig in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        os.kill(worker.pid, sig)
    worker.join(0.2)
    assert worker.is_alive()
    ours.send("go")
    assert ours.recv() is None, "the worker believes that it was told to stop"
    worker.join(5)
    assert worker.exitcode == 0
    assert preempt.requested() is None


# ----- damaged checkpoints -----


def truncate(folder: Path) -> None:
    path = folder / "state.pt"
    os.truncate(path, path.stat().st_size // 2)


def flip_one_bit(folder: Path) -> None:
    data = bytearray((folder / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "state.pt").write_bytes(data)


def empty_rng(folder: Path) -> None:
    (folder / "rng.pt").write_bytes(b"")


def remove_state(folder: Path) -> None:
    (folder / "state.pt").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def tear_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:50])


def empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = [truncate, flip_one_bit, empty_rng, remove_state, remove_manifest, tear_manifest, empty_folder]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    saved(tmp_path, 1, 2)
    damage(tmp_path / "checkpoint-2")
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(tmp_path / "checkpoint-2") in caplog.text


def test_when_none_is_whole_it_refuses_to_start_again_at_0(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    truncate(tmp_path / "checkpoint-1")
    remove_manifest(tmp_path / "checkpoint-2")
    with pytest.raises(CheckpointError, match="None of the 2 checkpoints"):
        resumed(tmp_path)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"], "what is left belongs to the user"


MODES = pytest.mark.parametrize("async_save", [False, True], ids=["sync", "async"])


@MODES
def test_a_full_disk_is_a_warning_in_between_and_an_error_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, async_save: bool
) -> None:
    model = torch.nn.Linear(300, 300)  # 0.36 MB
    cfg = tiny(tmp_path, save_every_min=1e-9)
    cfg.requeue.async_save = async_save
    checkpointer = Checkpointer(cfg, model=model)
    checkpointer.save(1)
    with full_disk(100_000):
        checkpointer.save_or_leave(2)
        checkpointer.save_or_leave(3)
        assert "could not save step 2" in caplog.text
        assert "File too large" in caplog.text
        assert "going on; the last checkpoint is of step 1" in caplog.text
        with pytest.raises(OSError, match="File too large"):
            checkpointer.save(4)
        assert names(tmp_path) == ["checkpoint-1"], "the older one is gone, or rubbish is left"
    checkpointer.save_or_leave(5)
    checkpointer.save(6)
    assert names(tmp_path) == ["checkpoint-5", "checkpoint-6"]


def test_a_save_in_the_background_holds_the_state_of_its_step(tmp_path: Path) -> None:
    model, optimizer = parts()
    cfg = tiny(tmp_path, save_every_min=1e-9)
    cfg.requeue.async_save = True
    checkpointer = Checkpointer(cfg, model=model, optimizer=optimizer)
    hashes: dict[int, str] = {}
    for step in range(1, 6):
        one_step(model, optimizer)
        hashes[step] = parameters_sha256(model.named_parameters())
        checkpointer.save_or_leave(step)  # written while the next steps change the parameters
    checkpointer.save(5)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5"]
    for step in (4, 5):
        state = torch.load(tmp_path / f"checkpoint-{step}" / "state.pt", weights_only=True)
        assert parameters_sha256(state["model"].items()) == hashes[step]


def test_a_signal_waits_for_the_save_in_the_background_and_saves_its_own_step(tmp_path: Path) -> None:
    model, optimizer = parts()
    cfg = tiny(tmp_path, save_every_min=1e-9)
    cfg.requeue.async_save = True
    checkpointer = Checkpointer(cfg, model=model, optimizer=optimizer)
    preempt.install()
    one_step(model, optimizer)
    checkpointer.save_or_leave(1)
    os.kill(os.getpid(), signal.SIGUSR2)
    one_step(model, optimizer)
    with pytest.raises(preempt.Preempted):
        checkpointer.save_or_leave(2)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert [verify(tmp_path / name) for name in names(tmp_path)] == [None, None]


def test_an_error_in_the_background_is_raised(tmp_path: Path) -> None:
    model, _ = parts()
    cfg = tiny(tmp_path, save_every_min=1e-9)
    cfg.requeue.async_save = True
    checkpointer = Checkpointer(cfg, model=model)
    (tmp_path / "owner.json").write_text('{"token": "another", "job_id": "9", "pid": 1, "node": "n1"}')
    checkpointer.save_or_leave(1)
    with pytest.raises(ownership.NotOwnerError, match="newer attempt"):
        checkpointer.save_or_leave(2)


def test_the_copy_in_memory_is_allocated_once() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": [torch.ones(2), (1, "x")], "step": 3}
    first = _copy(state, None)
    state["a"][0, 0] = 9
    state["b"][0][0] = 7
    assert first["a"][0, 0] == 0
    assert first["b"][0][0] == 1
    second = _copy(state, first)
    assert second["a"].data_ptr() == first["a"].data_ptr()
    assert second["a"][0, 0] == 9
    assert second["b"][1] == (1, "x")


def test_term_before_the_first_step_leaves_at_once_and_a_notice_after_one_step(tmp_path: Path) -> None:
    model, _ = parts()
    preempt.install()
    os.kill(os.getpid(), signal.SIGUSR2)
    checkpointer = Checkpointer(tiny(tmp_path), model=model)
    assert checkpointer.resume() == 0
    with pytest.raises(preempt.Preempted) as notice:
        checkpointer.save_or_leave(1)
    assert (notice.value.step, names(tmp_path)) == (1, ["checkpoint-1"]), "the next attempt must begin further on"
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(preempt.Preempted) as term:
        Checkpointer(tiny(tmp_path), model=model).resume()
    assert term.value.step == 1


def test_a_damaged_step_is_saved_again_and_not_counted_among_those_that_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    truncate(tmp_path / "checkpoint-2")
    model, optimizer = parts()
    checkpointer = Checkpointer(tiny(tmp_path), model=model, optimizer=optimizer)
    assert checkpointer.resume() == 1
    checkpointer.save(2)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-2.damaged"]
    assert verify(tmp_path / "checkpoint-2") is None
    truncate(tmp_path / "checkpoint-2")
    assert resumed(tmp_path) == 1


def test_the_newest_is_the_one_of_the_highest_step_whatever_the_clock_says(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    hour_ahead = time.time() + 3600
    os.utime(tmp_path / "checkpoint-1", (hour_ahead, hour_ahead))
    os.utime(tmp_path / "checkpoint-1" / "manifest.json", (hour_ahead, hour_ahead))
    assert resumed(tmp_path) == 2


def test_a_change_that_is_allowed_is_taken_and_a_shape_that_does_not_fit_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 1)
    model, optimizer = parts()
    cfg = tiny(tmp_path, num_epochs=9)
    cfg.requeue.allow_changes = ["trainer.num_epochs"]
    with caplog.at_level(logging.INFO):
        assert Checkpointer(cfg, model=model, optimizer=optimizer).resume() == 1
    assert "changed: trainer.num_epochs: 3 -> 9" in caplog.text
    with pytest.raises(CheckpointError, match=r"model in .*checkpoint-1 does not fit this code: .*size mismatch"):
        Checkpointer(tiny(tmp_path), model=torch.nn.Linear(5, 3), optimizer=optimizer).resume()


def test_a_kill_at_any_moment_of_a_save_leaves_the_newest_checkpoint_whole(
    tmp_path: Path, children: ForkContext
) -> None:
    kill_in_saves(tmp_path, children, 20)  # 1000 of them: row 10 of tests/slurm/test_faults.py


# ----- refusals -----


def test_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    model, optimizer = parts()
    changed = Checkpointer(tiny(tmp_path, hidden_dim=16, seed=7), model=model, optimizer=optimizer)
    with pytest.raises(UserError, match=r"trainer\.hidden_dim: 8 -> 16; trainer\.seed: 42 -> 7"):
        changed.resume()


def test_where_a_run_is_executed_may_change(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    model, optimizer = parts()
    cfg = tiny(tmp_path, save_every_min=1)
    cfg.compute.mem_gb = 7
    cfg.experiment_name = "moved"
    assert Checkpointer(cfg, model=model, optimizer=optimizer).resume() == 1


def test_other_parts_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    model, _ = parts()
    with pytest.raises(CheckpointError, match=r"holds \['model', 'optimizer'\], but this code saves \['model'\]"):
        Checkpointer(tiny(tmp_path), model=model).resume()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_or_infinite_parameters_are_never_committed(tmp_path: Path, value: float) -> None:
    model, optimizer = parts()
    checkpointer = Checkpointer(tiny(tmp_path), model=model, optimizer=optimizer)
    checkpointer.save(1)
    with torch.no_grad():
        model.bias[1] = value
    with pytest.raises(NonFiniteError, match=r"step 2.*last good checkpoint is of step 1"):
        checkpointer.save(2)
    assert names(tmp_path) == ["checkpoint-1"]


def test_nan_in_a_buffer_is_never_committed_but_an_infinite_mask_is(tmp_path: Path) -> None:
    norm = torch.nn.BatchNorm1d(3)
    norm.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    checkpointer = Checkpointer(tiny(tmp_path), norm=norm)
    checkpointer.save(1)
    norm.get_buffer("running_mean")[0] = float("nan")
    with pytest.raises(NonFiniteError, match="norm has nan or infinite values at step 2"):
        checkpointer.save(2)
    assert names(tmp_path) == ["checkpoint-1"]


class Malice:
    """Unpickling it makes a file: what foreign code could do in a shared scratch folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", ["state.pt", "rng.pt"])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, file: str) -> None:
    saved(tmp_path, 1)
    folder, ran = tmp_path / "checkpoint-1", tmp_path / "ran"
    content = torch.load(folder / file, weights_only=True)
    torch.save([content, Malice(ran)], folder / file)
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / file).read_bytes()
    manifest["files"][file] = {"size": len(data), "crc32": zlib.crc32(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert verify(folder) is None
    with pytest.raises(pickle.UnpicklingError):
        resumed(tmp_path)
    assert not ran.exists()


# ----- the hash that compares two runs -----


def test_parameters_sha256_changes_with_one_bit_and_not_with_the_order() -> None:
    state = {"a": torch.randn(3, 2), "b": torch.randn(4).to(torch.bfloat16), "c": torch.tensor(1.0)}
    digest = parameters_sha256(state.items())
    assert parameters_sha256(reversed(state.items())) == digest
    assert parameters_sha256({name: value.clone() for name, value in state.items()}.items()) == digest
    for name in state:
        changed = {key: value.clone() for key, value in state.items()}
        changed[name].view(-1).view(torch.uint8)[0] ^= 1
        assert parameters_sha256(changed.items()) != digest, name


def test_parameters_sha256_changes_with_name_shape_and_dtype() -> None:
    value = torch.zeros(6)
    digests = {
        parameters_sha256([("a", value)]),
        parameters_sha256([("b", value)]),
        parameters_sha256([("a", value.reshape(2, 3))]),
        parameters_sha256([("a", value.to(torch.int32))]),  # the same bytes
    }
    assert len(digests) == 4


def test_parameters_sha256_does_not_depend_on_the_layout_in_memory() -> None:
    value = torch.randn(3, 5)
    assert parameters_sha256([("a", value.t().contiguous().t())]) == parameters_sha256([("a", value)])
