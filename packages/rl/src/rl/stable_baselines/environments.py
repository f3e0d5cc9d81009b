"""Environments: whether one exists and fits the algorithm, before submission; and how they are built.

Nothing at the top imports torch: `check` runs on the login node, too.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from common.config import require
from common.errors import UserError
from rl.stable_baselines import algorithms

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from common.adapters.gymnasium import Restorable
    from rl.stable_baselines.schema import Env

_EXTRAS = {"box2d": "Box2D", "mujoco": "MuJoCo", "atari": "the Arcade Learning Environment"}


def check(env_id: str, kwargs: dict[str, Any], atari: bool, algo: str) -> None:
    """Build the environment once, and compare its actions with what the algorithm can take.

    Raises:
        UserError: no such environment, what it needs is not installed, or the algorithm does not fit.
    """
    env = make(env_id, kwargs, atari)
    actions = type(env.action_space).__name__
    env.close()
    require(
        actions in algorithms.ALGORITHMS[algo].actions,
        f"{algo} cannot take actions of the kind {actions}, which {env_id} has. "
        f"These can: {', '.join(algorithms.fitting(actions)) or 'none'}",
    )


def make(env_id: str, kwargs: dict[str, Any], atari: bool) -> gym.Env[Any, Any]:
    """gymnasium.make, with pictures where the environment can draw them.

    Raises:
        UserError: no such environment, or what it needs is not installed.
    """
    if importlib.util.find_spec("ale_py"):
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        gym.register_envs(ale_py)
    elif atari or env_id.startswith("ALE/"):
        raise UserError(_not_installed(env_id, "atari"))
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        pictures: dict[str, Any] = {"render_mode": "rgb_array"} if "rgb_array" in _render_modes(name) else {}
        return gym.make(name, **(pictures | kwargs))
    except (gym.error.NameNotFound, gym.error.NamespaceNotFound, gym.error.VersionNotFound, gym.error.DeprecatedEnv):
        near = difflib.get_close_matches(env_id, gym.registry, n=3)
        raise UserError(
            f"env.id={env_id}: Gymnasium has no such environment"
            + (f"; near it: {', '.join(near)}" if near else "")
            + ". One of your own: env.id=my_package:My-v0, where importing my_package registers it."
        ) from None
    except gym.error.DependencyNotInstalled as error:
        extra = next((extra for extra in _EXTRAS if extra in str(gym.spec(name).entry_point)), None)
        raise UserError(_not_installed(env_id, extra) if extra else f"env.id={env_id}: {error}") from None
    except ModuleNotFoundError as error:
        raise UserError(
            f"env.id={env_id}: {error}. Is its package installed (uv add --package rl <package>)?"
        ) from None
    except TypeError as error:
        raise UserError(f"env.kwargs={kwargs}: {error}") from None


def restorable(env: Env) -> Restorable:
    """One environment, with the wrappers that belong to it alone, whose state can be saved."""
    from stable_baselines3.common.atari_wrappers import AtariWrapper
    from stable_baselines3.common.monitor import Monitor

    from common.adapters.gymnasium import Restorable

    made: Any = Monitor(make(env.id, env.kwargs, env.atari))
    return Restorable(AtariWrapper(made) if env.atari else made)


def build(env: Env, n_envs: int, gamma: float, seed: int, subprocesses: bool) -> VecEnv:
    """`n_envs` environments side by side; the first reset takes the seeds `seed`, `seed + 1`, ..."""
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

    from common.adapters.stable_baselines3 import Subprocesses

    def start(rank: int) -> Restorable:
        made = restorable(env)
        made.action_space.seed(seed + rank)
        return made

    kind = Subprocesses if subprocesses else DummyVecEnv
    built: VecEnv = kind([lambda rank=rank: start(rank) for rank in range(n_envs)])
    built.seed(seed)
    if env.frame_stack > 1:
        built = VecFrameStack(built, env.frame_stack)
    if env.normalize_observations or env.normalize_rewards:
        built = VecNormalize(built, norm_obs=env.normalize_observations, norm_reward=env.normalize_rewards, gamma=gamma)
    space: Any = built.observation_space
    if is_image_space(space) and not is_image_space_channels_first(space):
        built = VecTransposeImage(built)  # as the algorithm would, but also for the evaluation
    return built


def _render_modes(env_id: str) -> list[str]:
    """What the class says; Gymnasium refuses a mode that an environment does not have."""
    creator = gym.spec(env_id).entry_point
    kind: Any = load_env_creator(creator) if isinstance(creator, str) else creator
    return getattr(kind, "metadata", {}).get("render_modes", [])


def _not_installed(env_id: str, extra: str) -> str:
    return f"env.id={env_id} needs {_EXTRAS[extra]}: uv run --package rl --extra {extra} rl-launch ..."
