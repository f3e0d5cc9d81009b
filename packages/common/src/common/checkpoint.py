"""The step boundary at which a run saves or leaves, and what a checkpoint holds.

    outputs/checkpoint-<step>/
        state.pt        state_dict() of every part (model, optimizer, ...)
        shards/         what is spread over the ranks (FSDP), see common.sharded
        replay-*.pt     what only grows (a replay buffer), see common.adapters.replay
        rng.pt          state of every random number generator, a list with one entry per rank
        manifest.json   step, world size, the configuration it belongs to, checksums (common.storage)

Rank 0 writes; of a sharded state every rank what it holds. With `requeue.async_save` a periodic save copies the state
to memory at the step boundary and writes it while the training goes on; at most one copy exists, and its buffers are
allocated once. A save at a signal and the last one wait until they are on the disk. Loading unpickles tensors and
plain data only (`weights_only=True`): scratch is shared with others.
"""

import copy
import hashlib
import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import OmegaConf
from torch.distributed.tensor import DTensor

from common import attempts, distributed, ownership, rng, sharded, storage
from common.boundary import StepBoundary
from common.config import Config, Requeue, differences, identity
from common.errors import NonFiniteError, UserError
from common.paths import sync_lines
from common.storage import CheckpointError

__all__ = ["Checkpointer", "Growing", "Stateful", "parameters_sha256"]

log = logging.getLogger(__name__)


class Stateful(Protocol):
    """Anything that can go into a checkpoint: a module, an optimizer, a scheduler, a scaler."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class Growing(Protocol):
    """Something too large to be written anew at each save; it keeps files of its own in the checkpoint folder."""

    def take(self, step: int) -> Any:
        """At the step boundary: a copy of what is new since the last committed save."""
        ...

    def write(self, taken: Any, folder: Path) -> dict[str, storage.FileFacts]:
        """Perhaps in the background: make the folder hold everything."""
        ...

    def committed(self, taken: Any, folder: Path) -> None:
        """The folder is in its place."""
        ...

    def read(self, folder: Path, step: int, facts: dict[str, storage.FileFacts]) -> None:
        """Everything comes from this folder."""
        ...


class Checkpointer:
    """Saves and restores the named parts of a run, and its random number generators, at step boundaries.

    Args:
        cfg: the run's configuration; a checkpoint of another configuration is refused.
        growing: a part that is written piece by piece, if there is one; for runs of one process.
        parts: what the next step depends on, e.g. `model=..., optimizer=...`; the unwrapped module, not DDP's.

    The position in the data belongs to it, too: derive it from the step (see mlp), or pass a part that holds it.

    Raises:
        UserError: another job holds the run directory and lives.
    """

    def __init__(self, cfg: Config, growing: Growing | None = None, **parts: Stateful) -> None:
        self._out_dir = Path(cfg.paths.out_dir)
        self._config = identity(OmegaConf.structured(cfg))
        self._requeue = cfg.requeue
        self._parts = parts
        self._growing = growing
        self._first = distributed.rank() == 0
        if self._first:
            ownership.hold(self._out_dir)
        self._boundary = StepBoundary(cfg.requeue)
        self._saved_step = -1
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None  # the save in the background, on every rank that takes part in it
        self._writing_step = -1
        self._buffers: Any = None  # the copy in memory, used again for every background save
        self._sharded = sharded.is_sharded(parts)
        self._shards = sharded.Background() if self._sharded and cfg.requeue.async_save else None

    # ----- resume -----

    def resume(self) -> int:
        """Restore the newest whole checkpoint, if there is one.

        Returns:
            The number of optimizer steps done: 0 for a new run.

        Raises:
            CheckpointError: there are checkpoints, but none is whole.
            UserError: the checkpoint belongs to another configuration.
            Preempted: TERM came before the first step.
        """
        begun = time.monotonic()
        newest: tuple[Path, _Content] | None = None  # on rank 0, which has read it while it verified it

        def find() -> Path | None:
            nonlocal newest
            newest = storage.latest(self._out_dir, _read)
            return newest[0] if newest else None

        folder = distributed.on_rank_0(find)
        step = 0 if folder is None else self._restore(folder, newest[1] if newest else _read(folder))
        if self._first:
            attempts.resume(self._out_dir, step, restore_s=time.monotonic() - begun)
        self._boundary.begin(step)
        return step

    def _restore(self, folder: Path, content: "_Content") -> int:
        state, ranks = content
        manifest = storage.read_manifest(folder)
        changed = allowed_changes(folder, manifest, self._config, self._requeue)
        if state.keys() != self._parts.keys():
            raise CheckpointError(f"{folder} holds {sorted(state)}, but this code saves {sorted(self._parts)}.")
        if sharded.has_shards(folder):
            sharded.restore(folder, state, self._parts)
        elif self._sharded:
            raise CheckpointError(
                f"{folder} was saved by a run that was not sharded, this one is: that cannot be read."
            )
        else:
            self._load(state, folder)
        if self._growing:
            self._growing.read(folder, manifest["step"], manifest["files"])
        # a rank that did not exist at the save takes over the generators of rank 0
        rng.set_state(ranks[distributed.rank() if distributed.rank() < len(ranks) else 0])
        self._saved_step = int(manifest["step"])
        log.info("resumed from %s%s", folder.name, "".join(f"; changed: {text}" for text in changed))
        if manifest["world_size"] != distributed.world_size():
            log.info("saved by %d rank(s), now %d", manifest["world_size"], distributed.world_size())
        return self._saved_step

    def _load(self, state: dict[str, Any], folder: Path) -> None:
        for name, part in self._parts.items():
            try:
                part.load_state_dict(state[name])
            except (RuntimeError, ValueError) as error:
                words = " ".join(str(error).split())
                raise CheckpointError(f"{name} in {folder} does not fit this code: {words}") from error

    # ----- save -----

    def save_or_leave(self, step: int) -> None:
        """Call at the end of every step: save when it is time, or when the run is told to stop; then leave. A run whose
        next step would not end before its time limit leaves, too.

        A periodic save that fails for want of space (or any other OSError) is a warning: the older checkpoints stand,
        and the next one may succeed.

        Raises:
            Preempted: after the save.
        """
        due, stop = self._boundary.reached(step)
        if stop:
            self.save(step)
            raise stop
        if due:
            self._save_periodically(step)
        self._boundary.go_on()

    def save(self, step: int) -> None:
        """Write and commit a checkpoint now; all ranks together. Does nothing if this step is saved already.

        Raises:
            NonFiniteError: a parameter is nan or infinite; such a state is never committed.
            NotOwnerError: a newer attempt owns the run.
            OSError: the disk is full, read-only, ...; the older checkpoints are untouched.
        """
        self._finish_writing()
        if step == self._saved_step:
            return
        begun = time.monotonic()
        files, tensors = self._state(step)
        shards = sharded.write(self._out_dir, tensors) if self._sharded else None
        new = self._growing.take(step) if self._growing else None
        distributed.on_rank_0(lambda: self._commit(step, files, shards, new, begun))
        self._saved_step = step
        self._boundary.saved(time.monotonic() - begun)

    def _save_periodically(self, step: int) -> None:
        try:
            if self._requeue.async_save:
                self._save_in_background(step)
            else:
                self.save(step)
        except OSError as error:
            self._warn_unsaved(step, error)
            self._boundary.saved()

    def _save_in_background(self, step: int) -> None:
        self._finish_writing()
        begun = time.monotonic()
        files, tensors = self._state(step)
        if self._first:
            self._buffers = _copy(files, self._buffers)
        if self._shards:
            tensors = self._shards.copy(tensors)
        new = self._growing.take(step) if self._growing else None
        if self._first or self._sharded:
            stall_s = time.monotonic() - begun
            self._writing = self._writer.submit(self._write_in_background, step, tensors, new, begun, stall_s)
        self._writing_step = step
        self._boundary.saved()

    def _write_in_background(
        self, step: int, tensors: dict[str, torch.Tensor], new: Any, begun: float, stall_s: float
    ) -> None:
        shards = sharded.write(self._out_dir, tensors, self._shards.group) if self._shards else None
        if self._first:
            self._commit(step, self._buffers, shards, new, begun, stall_s)

    def _finish_writing(self) -> None:
        """Wait for the save in the background. A full disk is a warning, as every periodic save's: the save that
        follows tells whether it is still so. Anything else that went wrong is raised, on every rank."""
        if self._writing_step < 0:
            return
        step, self._writing_step = self._writing_step, -1
        if self._writing:
            wait([self._writing])
        try:
            distributed.on_rank_0(lambda: self._writing.result() if self._writing else None)
            self._saved_step = step
        except OSError as error:
            self._warn_unsaved(step, error)

    def _state(self, step: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What a checkpoint holds: ({"state": {part: state_dict}, "rng": [one per rank]}, what is spread over the
        ranks)."""
        for name, part in self._parts.items():
            if isinstance(part, torch.nn.Module):
                check_finite(name, part, step, self._saved_step)
        generators = distributed.gather(rng.get_state())
        if self._sharded:
            alike, tensors = sharded.split(sharded.state_of(self._parts))
        else:
            alike, tensors = {name: part.state_dict() for name, part in self._parts.items()}, {}
        for name, state in alike.items():
            _check_loadable(state, name)
        return {"state": alike, "rng": generators}, tensors

    def _commit(
        self,
        step: int,
        files: dict[str, Any],
        shards: sharded.Shards | None,
        new: Any,
        begun: float,
        stall_s: float | None = None,
    ) -> None:
        """On rank 0, perhaps in the background: write, commit, and note how long it took."""

        def write(folder: Path) -> dict[str, storage.FileFacts]:
            sync_lines(self._out_dir / "metrics.jsonl")  # no step before this checkpoint may be missing from it
            facts = {f"{name}.pt": storage.write_file(folder / f"{name}.pt", files[name]) for name in files}
            facts |= self._growing.write(new, folder) if self._growing else {}
            return facts | (shards.move_into(folder) if shards else {})

        facts = {"world_size": len(files["rng"]), "config": self._config}
        may_commit = lambda: ownership.check(self._out_dir)  # noqa: E731
        try:
            storage.commit(self._out_dir, step, write, facts, may_commit, self._requeue.keep)
            if self._growing:
                self._growing.committed(new, self._out_dir / f"checkpoint-{step}")
        finally:
            if shards:
                shards.discard()
        write_s = time.monotonic() - begun
        attempts.save(self._out_dir, step, stall_s=write_s if stall_s is None else stall_s, write_s=write_s)

    def _warn_unsaved(self, step: int, error: OSError) -> None:
        if self._first:
            kept = (
                f"the last checkpoint is of step {self._saved_step}" if self._saved_step >= 0 else "there is none yet"
            )
            log.warning("could not save step %d (%s): going on; %s", step, error, kept)


def allowed_changes(folder: Path, manifest: dict[str, Any], config: dict[str, Any], requeue: Requeue) -> list[str]:
    """What has changed since a checkpoint, e.g. ["trainer.num_epochs: 10 -> 20"].

    Args:
        config: the present `identity`.

    Raises:
        UserError: a change that `requeue.allow_changes` does not name.
    """
    changed = differences(manifest["config"], config)
    refused = [text for key, text in changed.items() if key not in requeue.allow_changes]
    if refused:
        raise UserError(
            f"{folder} belongs to another configuration: {'; '.join(refused)}. If that is meant, name the key in "
            "requeue.allow_changes=[...]."
        )
    return list(changed.values())


def check_finite(name: str, module: torch.nn.Module, step: int, saved_step: int) -> None:
    """All ranks together, before a save.

    Raises:
        NonFiniteError: a parameter is nan or infinite; such a state is never committed.
    """
    # a buffer may hold infinities by design (masks), a parameter may not
    broken = any(not torch.isfinite(_local(p)).all() for p in module.parameters())
    broken = broken or any(torch.isnan(_local(b)).any() for b in module.buffers())
    if distributed.agree([float(broken)]) != [0.0]:  # each rank knows its own shards only
        kept = f"The last good checkpoint is of step {saved_step}." if saved_step >= 0 else ""
        raise NonFiniteError(f"{name} has nan or infinite values at step {step}. {kept}".rstrip())


_Content = tuple[dict[str, Any], list[Any]]  # ({part: state_dict}, [random number generators of each rank])


def _read(folder: Path) -> _Content:
    """What a checkpoint holds but for shards, on the CPU."""
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return state, torch.load(folder / "rng.pt", weights_only=True)


def _check_loadable(value: Any, name: str) -> None:
    """Refuse at the save what the resume could not read.

    Raises:
        TypeError: naming the entry.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            _check_loadable(item, f"{name}.{key}")
    elif isinstance(value, list | tuple | set):
        for item in value:
            _check_loadable(item, name)
    elif type(value).__module__.partition(".")[0] not in ("builtins", "torch"):
        kind = type(value)
        raise TypeError(
            f"{name} is a {kind.__module__}.{kind.__name__}, which a resume could not load: let state_dict() give "
            "tensors, numbers and texts"
        )


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def parameters_sha256(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """One hash over name, shape, dtype and bytes of every parameter: equal hashes, equal models.

    Args:
        parameters: `module.named_parameters()` or the items of a state dict. Sharded ones are gathered: all ranks call.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(parameters, key=lambda item: item[0]):
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        value = whole.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _copy(state: Any, buffer: Any) -> Any:
    """A copy of a state on the CPU that later steps do not change, in the tensors of an earlier copy where they fit."""
    if isinstance(state, torch.Tensor):
        fits = isinstance(buffer, torch.Tensor) and buffer.shape == state.shape and buffer.dtype == state.dtype
        target = buffer if fits else torch.empty_like(state, device="cpu", pin_memory=state.is_cuda)
        return target.copy_(state.detach())
    if isinstance(state, dict):
        return {
            key: _copy(value, buffer.get(key) if isinstance(buffer, dict) else None) for key, value in state.items()
        }
    if isinstance(state, list | tuple):
        old = buffer if isinstance(buffer, list | tuple) and len(buffer) == len(state) else [None] * len(state)
        copied = [_copy(value, earlier) for value, earlier in zip(state, old, strict=True)]
        return copied if isinstance(state, list) else tuple(copied)
    return copy.deepcopy(state)
