"""The state of every random number generator of a process, as plain data (bytes as hexadecimal text)."""

import random
from typing import Any

import numpy as np
import torch


def get_state() -> dict[str, Any]:
    """Python's, numpy's and torch's generators, those of this process's GPUs too."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": [str(name), np.asarray(keys).tobytes().hex(), int(position), int(has_gauss), float(gauss)],
        "torch": _to_text(torch.get_rng_state()),
        "cuda": [_to_text(state) for state in gpus],
    }


def set_state(state: dict[str, Any]) -> None:
    """Put the generators back to where `get_state` found them."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.frombuffer(bytes.fromhex(keys), dtype=np.uint32), *rest))
    torch.set_rng_state(_from_text(state["torch"]))
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_from_text(text) for text in state["cuda"]])


def _to_text(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_text(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
