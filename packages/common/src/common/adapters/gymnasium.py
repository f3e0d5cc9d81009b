"""The state of a Gymnasium environment as tensors and plain data: a resumed run goes on in the midst of an episode.

    env = Restorable(gymnasium.make("CartPole-v1"))
    state = env.state_dict()
    env.load_state_dict(state)

Most environments keep their state in attributes: numbers, arrays, generators of random numbers. MuJoCo and the Arcade
Learning Environment keep it behind calls of their own. An environment of yours that keeps it anywhere else defines
`state_dict()` and `load_state_dict(state)` itself. Nothing is pickled: an environment may pickle without a word and
come back as new (gymnasium.utils.EzPickle does that), and loading a pickle from a shared folder runs what is in it.

Whether all of the state has been found cannot be seen from outside: `can_restore` tries it.
"""

import importlib
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from common import rng

__all__ = ["Restorable", "can_restore"]

_NOT_STATE = {"env", "spec", "metadata", "observation_space", "action_space", "_ezpickle_args", "_ezpickle_kwargs"}
_TRIED_STEPS = 200
_NONE = object()  # what has no plain form


class Restorable(gym.Wrapper[Any, Any, Any, Any]):
    """The outermost wrapper of an environment: `state_dict` and `load_state_dict` for all that it wraps."""

    def state_dict(self) -> dict[str, Any]:
        """{layer, from outside to inside: its state}, of types that `torch.load(weights_only=True)` reads."""
        return {f"{n} {type(layer).__name__}": _state(layer) for n, layer in enumerate(self._layers())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for layer, kept in zip(self._layers(), state.values(), strict=True):
            _restore(layer, kept)

    def _layers(self) -> list[Any]:
        layers: list[Any] = [self.env]
        while isinstance(layers[-1], gym.Wrapper):
            layers.append(layers[-1].env)
        return layers


def can_restore(make: Callable[[], Restorable], seed: int) -> bool:
    """Whether an environment whose state is put into a second one goes on as the first: 200 random actions, compared
    bit for bit. The generators of random numbers of this process are left as they were.

    Args:
        make: a new environment.
    """
    generators = rng.get_state()
    one, other = make(), make()
    try:
        one.action_space.seed(seed)
        one.reset(seed=seed)
        other.reset(seed=seed + 1)
        _walk(one, [one.action_space.sample() for _ in range(_TRIED_STEPS // 4)])
        state, actions = one.state_dict(), [one.action_space.sample() for _ in range(_TRIED_STEPS)]
        numbers = rng.get_state()
        straight = _walk(one, actions)
        rng.set_state(numbers)
        other.load_state_dict(state)
        return _equal(straight, _walk(other, actions))
    finally:
        rng.set_state(generators)
        one.close()
        other.close()


def _walk(env: gym.Env[Any, Any], actions: list[Any]) -> list[Any]:
    seen: list[Any] = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append([observation, reward, terminated, truncated])
        if terminated or truncated:
            seen.append(env.reset()[0])
    return seen


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f")


# ----- one layer -----


def _state(layer: Any) -> Any:
    if not isinstance(layer, gym.Wrapper) and hasattr(layer, "load_state_dict"):
        return {"own": layer.state_dict()}
    state: dict[str, Any] = {"attributes": attributes(layer)}
    if ale := getattr(layer, "ale", None):
        state["ale"] = ale.cloneState(include_rng=True).serialize()
    elif _is_mujoco(layer):
        state["mujoco"] = _mujoco_state(layer)
    return state


def _restore(layer: Any, state: Any) -> None:
    if "own" in state:
        layer.load_state_dict(state["own"])
        return
    if "ale" in state:
        from ale_py import ALEState

        layer.ale.restoreState(ALEState(state["ale"]))
    elif "mujoco" in state:
        _restore_mujoco(layer, state["mujoco"])
    set_attributes(layer, state["attributes"])


def _is_mujoco(layer: Any) -> bool:
    return type(getattr(layer, "data", None)).__name__ == "MjData"


def _mujoco_state(layer: Any) -> dict[str, Any]:
    """What the next step depends on by MuJoCo's own account, and what an environment may read of the last one."""
    mujoco: Any = importlib.import_module("mujoco")
    whole = np.empty(mujoco.mj_stateSize(layer.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(layer.model, layer.data, whole, mujoco.mjtState.mjSTATE_INTEGRATION)
    names = [name for name in dir(layer.data) if not name.startswith("_")]
    derived = {name: value for name in names if isinstance(value := getattr(layer.data, name), np.ndarray)}
    return {"whole": plain(whole), "derived": plain(derived)}


def _restore_mujoco(layer: Any, state: dict[str, Any]) -> None:
    mujoco: Any = importlib.import_module("mujoco")
    whole = unplain(state["whole"])
    mujoco.mj_setState(layer.model, layer.data, whole, mujoco.mjtState.mjSTATE_INTEGRATION)
    for name, value in unplain(state["derived"]).items():
        target = getattr(layer.data, name)
        if target.shape == value.shape:
            target[...] = value


# ----- attributes as plain data -----


def attributes(holder: Any, parts: tuple[type, ...] = ()) -> dict[str, Any]:
    """The attributes of an object that have a plain form.

    Args:
        parts: kinds of objects whose attributes are stored with it.
    """
    pairs = ((name, plain(value, parts)) for name, value in vars(holder).items() if name not in _NOT_STATE)
    return {name: value for name, value in pairs if value is not _NONE}


def set_attributes(holder: Any, state: dict[str, Any]) -> None:
    """Put what `attributes` found back. Arrays, tensors and generators are filled: others may hold them, too."""
    for name, value in state.items():
        setattr(holder, name, unplain(value, getattr(holder, name, None)))


def plain(value: Any, parts: tuple[type, ...] = ()) -> Any:
    """A value as tensors, texts, numbers, lists and dicts, each with its kind where that would be lost."""
    match value:
        case None | bool() | int() | float() | str() | bytes() if type(value).__module__ == "builtins":
            return value
        case np.ndarray() | np.generic():
            kind = "array" if isinstance(value, np.ndarray) else "scalar"
            return [kind, torch.from_numpy(np.array(value))] if value.dtype.kind in "biufc" else _NONE
        case torch.Tensor():
            return ["tensor", value.detach().cpu().clone()]
        case np.random.Generator():
            return ["generator", value.bit_generator.state] if _is_plain_generator(value) else _NONE
        case dict():
            pairs = [[plain(key), plain(item, parts)] for key, item in value.items()]
            return _NONE if any(_NONE in pair for pair in pairs) else ["dict", pairs]
        case list() | tuple() | deque():
            items = [plain(item, parts) for item in value]
            kind = "list" if isinstance(value, list) else "tuple" if isinstance(value, tuple) else "deque"
            return _NONE if any(item is _NONE for item in items) else [kind, items]
        case _ if isinstance(value, parts):
            return ["part", attributes(value, parts)]
        case _:
            return _NONE


def unplain(value: Any, present: Any = None) -> Any:
    """The value that `plain` was given.

    Args:
        present: what stands in its place now; arrays, tensors, generators and parts are filled, not replaced.
    """
    if not isinstance(value, list):
        return value
    kind, content = value
    match kind:
        case "array":
            array = content.numpy()
            fits = isinstance(present, np.ndarray) and present.shape == array.shape and present.dtype == array.dtype
            if not fits or not present.flags.writeable:
                return array.copy()
            present[...] = array
            return present
        case "scalar":
            return content.numpy()[()]
        case "tensor":
            if isinstance(present, torch.Tensor) and present.shape == content.shape:
                present.data.copy_(content)
                return present
            return content.clone()
        case "generator":
            generator = present if isinstance(present, np.random.Generator) else np.random.default_rng()
            generator.bit_generator.state = content
            return generator
        case "dict":
            now = present if isinstance(present, dict) else {}
            filled = {unplain(key): unplain(item, now.get(unplain(key))) for key, item in content}
            if isinstance(present, dict):
                present.clear()
                present.update(filled)
                return present
            return filled
        case "part":
            set_attributes(present, content)
            return present
        case _:
            now = list(present) if isinstance(present, list | tuple | deque) else []
            items = [unplain(item, now[n] if n < len(now) else None) for n, item in enumerate(content)]
            if kind == "deque":
                return deque(items, present.maxlen if isinstance(present, deque) else None)
            if kind == "tuple":
                return type(present)(*items) if hasattr(present, "_fields") else tuple(items)
            return items


def _is_plain_generator(generator: np.random.Generator) -> bool:
    return isinstance(generator.bit_generator, np.random.PCG64)
