"""States that are spread over the ranks (FSDP2: parameters are DTensors), through torch.distributed.checkpoint.

    outputs/checkpoint-<step>/
        shards/__<rank>_0.distcp    what this rank holds
        shards/.metadata            which slice of which tensor lies where; any number of ranks can read it
        state.pt                    what every rank holds alike, e.g. learning rates

Parameters are named by their full name in the model, so the optimizer's state finds its way to other ranks, too.
https://docs.pytorch.org/docs/stable/distributed.checkpoint.html
"""

import pickle
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from common import distributed, storage
from common.storage import CheckpointError, FileFacts

__all__ = ["is_sharded"]

_FOLDER = "shards"
_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)  # {"state.0.weight.exp_avg": ...}: names, not numbers
_BETWEEN = ":"  # part and key, e.g. "optimizer:state.0.weight.exp_avg"


def is_sharded(parts: Mapping[str, Any]) -> bool:
    """Whether any parameter of any module is spread over the ranks."""
    modules = [part for part in parts.values() if isinstance(part, nn.Module)]
    return any(isinstance(parameter, DTensor) for module in modules for parameter in module.parameters())


def has_shards(folder: Path) -> bool:
    """Whether a checkpoint was saved from a sharded state."""
    return (folder / _FOLDER).is_dir()


def state_of(parts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The state of every part, flat. An optimizer that has made no step yet gets its state first."""
    return {name: _state(part, parts) for name, part in parts.items()}


def split(state: dict[str, dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """(what every rank holds alike, what is spread over the ranks)."""
    alike = {name: {k: v for k, v in part.items() if not isinstance(v, DTensor)} for name, part in state.items()}
    return alike, {
        f"{name}{_BETWEEN}{key}": value
        for name, part in state.items()
        for key, value in part.items()
        if isinstance(value, DTensor)
    }


class Background:
    """What saves beside the training need: a copy in memory, and a process group of their own, for the training uses
    its own at the same time."""

    def __init__(self) -> None:
        self.group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        gpu = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=gpu, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=gpu
            )
        )

    def copy(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, where later steps do not change it; in the same memory every time."""
        return cast(dict[str, Tensor], self._stager.stage(cast(Any, tensors)))


def write(out_dir: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None = None) -> "Shards":
    """All ranks together: every rank writes what it holds, on the disk for good, into a temporary folder.

    Args:
        group: of all ranks; a thread beside the training needs one of its own.

    Raises:
        OSError: a rank could not write; raised on all of them, and nothing is left behind.
    """
    unique = [uuid.uuid4().hex[:8]]
    dist.broadcast_object_list(unique, src=0, group=group)
    folder = out_dir / f".checkpoint-shards.{unique[0]}.tmp"
    try:
        dcp.save(dict(tensors), storage_writer=dcp.FileSystemWriter(folder), process_group=group)
        mine = sorted(folder.iterdir())[distributed.rank() :: distributed.world_size()]
        facts: list[Any] = [None] * distributed.world_size()
        dist.all_gather_object(facts, {path.name: storage.file_facts(path) for path in mine}, group=group)
    except dcp.CheckpointException as error:
        if distributed.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        causes = [cause for cause, _ in error.failures.values()]
        if all(isinstance(cause, OSError) for cause in causes):
            raise OSError(f"rank(s) {sorted(error.failures)} could not write: {causes[0]}") from error
        raise
    return Shards(folder, {name: fact for part in facts for name, fact in part.items()})


class Shards:
    """What `write` has written, until rank 0 puts it into a checkpoint."""

    def __init__(self, folder: Path, facts: dict[str, FileFacts]) -> None:
        self._folder = folder
        self._facts = facts

    def move_into(self, checkpoint: Path) -> dict[str, FileFacts]:
        """Returns the facts of every file, by its path in the checkpoint."""
        self._folder.rename(checkpoint / _FOLDER)
        return {f"{_FOLDER}/{name}": facts for name, facts in self._facts.items()}

    def discard(self) -> None:
        """What no checkpoint has taken."""
        shutil.rmtree(self._folder, ignore_errors=True)


def restore(folder: Path, alike: dict[str, dict[str, Any]], parts: Mapping[str, Any]) -> None:
    """All ranks together: every rank reads what it is to hold, whoever wrote it.

    Raises:
        CheckpointError: a tensor is missing, or does not fit.
    """
    state = state_of(parts)
    wanted = {
        f"{name}{_BETWEEN}{key}": value
        for name, part in state.items()
        for key, value in part.items()
        if isinstance(value, Tensor) and key not in alike[name]
    }
    try:
        dcp.load(wanted, storage_reader=_TensorReader(folder / _FOLDER), no_dist=not dist.is_initialized())
    except dcp.CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise CheckpointError(f"{folder} does not fit this code: {' '.join(str(cause).split())}") from error
    for name, part in parts.items():
        read = {key: wanted[f"{name}{_BETWEEN}{key}"] for key in state[name] if f"{name}{_BETWEEN}{key}" in wanted}
        _load(part, alike[name] | read, parts)


def read_metadata(shards: Path) -> Metadata:
    """`.metadata` is a pickle: read it without letting it name anything but shapes, types and places, for scratch is
    shared with others.

    Raises:
        CheckpointError: it names something else.
    """
    with (shards / ".metadata").open("rb") as file:
        return _MetadataUnpickler(file).load()


def _state(part: Any, parts: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(part, nn.Module):
        return get_model_state_dict(part)
    if isinstance(part, torch.optim.Optimizer):
        return cast(dict[str, Any], get_optimizer_state_dict(_model_of(part, parts), part, options=_FLAT))
    return part.state_dict()


def _load(part: Any, state: dict[str, Any], parts: Mapping[str, Any]) -> None:
    if isinstance(part, nn.Module):
        set_model_state_dict(part, state)
    elif isinstance(part, torch.optim.Optimizer):
        set_optimizer_state_dict(_model_of(part, parts), part, state, options=_FLAT)
    else:
        part.load_state_dict(state)


def _model_of(optimizer: torch.optim.Optimizer, parts: Mapping[str, Any]) -> nn.Module:
    """The module among the parts whose parameters the optimizer changes."""
    changed = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    modules = [part for part in parts.values() if isinstance(part, nn.Module)]
    return next(module for module in modules if changed & {id(parameter) for parameter in module.parameters()})


class _TensorReader(dcp.FileSystemReader):
    """The tensors themselves are read with weights_only=True by torch."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata = read_metadata(Path(self.path))
        assert metadata.storage_meta is not None
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    _CLASSES = frozenset({
        "torch.distributed.checkpoint.metadata.Metadata",
        "torch.distributed.checkpoint.metadata.MetadataIndex",
        "torch.distributed.checkpoint.metadata.StorageMeta",
        "torch.distributed.checkpoint.metadata.TensorStorageMetadata",
        "torch.distributed.checkpoint.metadata.TensorProperties",
        "torch.distributed.checkpoint.metadata.ChunkStorageMetadata",
        "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING",
        "torch.distributed.checkpoint.filesystem._StorageInfo",
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",  # Python 3.13
        "torch.Size",
        "torch.serialization._get_layout",
    })  # fmt: skip

    def find_class(self, module_name: str, global_name: str) -> Any:
        full = f"{module_name}.{global_name}"
        if full in self._CLASSES or isinstance(getattr(torch, global_name, None), torch.dtype):
            return super().find_class(module_name, global_name)
        raise CheckpointError(f".metadata names {full}, which no checkpoint of ours holds: it was tampered with.")
