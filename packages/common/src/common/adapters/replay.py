"""A replay buffer in files that only grow: a save writes the new transitions, and links to what older saves wrote.

    outputs/checkpoint-<step>/
        replay-<first>-<last>.pt    slots of the buffer, numbered from the start of the run; one file a save

Each checkpoint is whole by itself: a file stands in all that need it (hard links), and goes with the last of them.
Slots that the buffer has overwritten since are in no new checkpoint.
"""

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from common import storage
from common.config import require
from common.paths import fsync_path


@dataclass(frozen=True)
class _File:
    first: int  # number of its first slot, counted from the start of the run
    last: int  # and the one behind its last
    folder: Path
    facts: storage.FileFacts

    @property
    def name(self) -> str:
        return f"replay-{self.first}-{self.last}.pt"


@dataclass(frozen=True)
class _New:
    first: int
    last: int
    slots: dict[str, torch.Tensor]


class Replay:
    """What common.checkpoint calls a growing part.

    Args:
        buffer: stable-baselines3's; one slot holds a transition of each environment.

    Raises:
        UserError: a kind of buffer that changes slots later (HER's), so that written files would not hold.
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        require(
            type(buffer) in (ReplayBuffer, DictReplayBuffer),
            f"trainer.hyperparameters: a {type(buffer).__name__} cannot be saved part by part, and is not supported",
        )
        self._buffer = buffer
        self._files: list[_File] = []  # those of the last committed checkpoint
        self._written: list[_File] = []  # those of the checkpoint that is being written

    def take(self, step: int) -> _New:
        """Copies of the slots since the last committed save, shape (slots, environments, ...).

        Args:
            step: transitions so far, of all environments together.
        """
        size, last = self._buffer.buffer_size, step // self._buffer.n_envs
        first = max(self._files[-1].last if self._files else 0, last - size)
        # one slot more: with optimize_memory_usage the next observation of the last transition stands there
        slots = np.arange(first, last + 1) % size
        return _New(first, last, {name: torch.from_numpy(array[slots]) for name, array in _arrays(self._buffer)})

    def write(self, taken: _New, folder: Path) -> dict[str, storage.FileFacts]:
        oldest = taken.last - self._buffer.buffer_size
        self._written = [file for file in self._files if file.last > oldest]
        for file in self._written:
            _link(file.folder / file.name, folder / file.name)
        if taken.last > taken.first:
            new = _File(taken.first, taken.last, folder, {})
            self._written.append(replace(new, facts=storage.write_file(folder / new.name, taken.slots)))
        return {file.name: file.facts for file in self._written}

    def committed(self, taken: _New, folder: Path) -> None:
        self._files = [replace(file, folder=folder) for file in self._written]

    def read(self, folder: Path, step: int, facts: dict[str, storage.FileFacts]) -> None:
        size, last = self._buffer.buffer_size, step // self._buffer.n_envs
        arrays = dict(_arrays(self._buffer))
        found = [(re.fullmatch(r"replay-(\d+)-(\d+)\.pt", name), name) for name in facts]
        self._files = sorted(
            (_File(int(match[1]), int(match[2]), folder, facts[name]) for match, name in found if match),
            key=lambda file: file.first,
        )
        for file in self._files:
            slots = torch.load(folder / file.name, weights_only=True)
            for name, values in slots.items():
                arrays[name][np.arange(file.first, file.last + 1) % size] = values.numpy()
        self._buffer.pos, self._buffer.full = last % size, last >= size


def _arrays(buffer: ReplayBuffer) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """The buffer's arrays, shape (slots, environments, ...); those of dict observations as `observations/<key>`."""
    arrays: list[tuple[str, np.ndarray[Any, Any]]] = []
    for name, value in vars(buffer).items():
        parts = {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        arrays += [(key, part) for key, part in parts.items() if isinstance(part, np.ndarray)]
    return arrays


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without hard links; where the disk is full, the copy says so
        shutil.copyfile(old, new)
        fsync_path(new)
