"""Algorithms of stable-baselines3 (and sb3-contrib) under the contract of common.checkpoint.

    run = Resumable(config, model, exact_episodes)
    step = run.resume()                       # transitions so far
    run.learn(total, at_boundary)             # model.learn, calling at_boundary(step) between two rollouts

A step boundary is where a rollout begins: the last one has been learnt from, and nothing is half done. `save` of
stable-baselines3 alone forgets the environments, the replay buffer, what VecNormalize has seen, the random numbers, and
where the schedules are; a checkpoint holds all of it:

    state.pt        parameters and optimizers; attributes of the algorithm; the state of each environment
    replay-*.pt     the replay buffer, see common.adapters.replay

An environment whose state cannot be read (see common.adapters.gymnasium) begins a new episode after a resume; the log
says so, and all else is exact.
"""

import logging
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from common import preempt, rng
from common.adapters.gymnasium import attributes, plain, set_attributes, unplain
from common.adapters.replay import Replay
from common.checkpoint import Checkpointer
from common.config import Config

__all__ = ["Resumable", "Subprocesses"]

log = logging.getLogger(__name__)

_PARTS = (ActionNoise, RunningMeanStd, StackedObservations)  # objects whose attributes are state
_OF_THIS_RUN = ("_total_timesteps", "start_time")  # a longer run may be asked for
_NOISE = ("exploration_mat", "exploration_matrices")  # gSDE's, drawn just before a boundary


class Resumable:
    """Saves, stops and resumes an algorithm between two rollouts.

    Args:
        config: the run's configuration.
        model: on new environments, each with common.adapters.gymnasium.Restorable outermost.
        exact_episodes: False where the environments' state cannot be restored.
        **parts: what else belongs to a checkpoint.
    """

    def __init__(self, config: Config, model: BaseAlgorithm, exact_episodes: bool, **parts: Any) -> None:
        self.model = model
        self._progress = _Progress(model, exact_episodes)
        names, _ = model._get_torch_save_params()
        replay = getattr(model, "replay_buffer", None)
        self._checkpointer = Checkpointer(
            config,
            growing=None if replay is None else Replay(replay),
            progress=self._progress,
            **{name: recursive_getattr(model, name) for name in names},
            **parts,
        )
        if not exact_episodes:
            log.warning("the state of this environment cannot be saved: after a requeue new episodes begin")

    def resume(self) -> int:
        """As Checkpointer.resume: the number of transitions so far."""
        self._step = self._checkpointer.resume()
        self.model.num_timesteps = self._step
        self._generators = rng.get_state()
        return self._step

    def learn(self, total: int, at_boundary: Callable[[int], None]) -> int:
        """Train until there are `total` transitions, or a few more: rollouts are whole.

        Args:
            at_boundary: called between two rollouts, before the run saves or leaves.

        Returns:
            The number of transitions.

        Raises:
            Preempted: the run was told to stop, and has saved.
        """
        callback = _AtBoundaries(self._begin, lambda step: self._reached(step, at_boundary))
        if self._step < total:
            # not reset: stable-baselines3 would begin to count, and its schedules, anew
            self.model.learn(total - self._step, callback, log_interval=None, reset_num_timesteps=False)  # pyright: ignore[reportArgumentType]
            at_boundary(self.model.num_timesteps)
        else:
            self._begin()  # what the end of the run needs, e.g. the statistics of VecNormalize
        self._checkpointer.save(self.model.num_timesteps)
        return self.model.num_timesteps

    def _begin(self) -> None:
        """Where the first rollout begins, and `learn` has reset what it resets; or behind the last one."""
        if self._step > 0:
            self._progress.restore()
            rng.set_state(self._generators)

    def _reached(self, step: int, at_boundary: Callable[[int], None]) -> None:
        at_boundary(step)
        self._checkpointer.save_or_leave(step)


class _AtBoundaries(BaseCallback):
    def __init__(self, begin: Callable[[], None], reached: Callable[[int], None]) -> None:
        super().__init__()
        self._begin, self._reached = begin, reached
        self._begun = False

    def _on_rollout_start(self) -> None:
        if self._begun:
            self._reached(self.num_timesteps)
        else:
            self._begin()
            self._begun = True

    def _on_step(self) -> bool:
        return True


class _Progress:
    """Everything of a run but its parameters, optimizers and replay buffer, as a part of a checkpoint.

    It is restored in two steps: `learn` resets some of it.
    """

    def __init__(self, model: BaseAlgorithm, exact_episodes: bool) -> None:
        self._model = model
        self._exact_episodes = exact_episodes
        self._kept: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        model = self._model
        assert model.env is not None
        return {
            "algorithm": attributes(model, _PARTS),
            "actions": plain(model.action_space.np_random),  # those before learning_starts are drawn from it
            "noise": [{name: plain(getattr(dist, name)) for name in _NOISE} for dist in self._gsde()],
            "lines": attributes(model.logger),
            "wrappers": [attributes(layer, _PARTS) for layer in _wrappers(model.env)],
            "environments": model.env.env_method("state_dict") if self._exact_episodes else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept = state_dict

    def restore(self) -> None:
        model, kept = self._model, self._kept
        assert model.env is not None
        set_attributes(model, {name: value for name, value in kept["algorithm"].items() if name not in _OF_THIS_RUN})
        unplain(kept["actions"], model.action_space.np_random)
        for dist, noise in zip(self._gsde(), kept["noise"], strict=True):
            for name, value in noise.items():
                setattr(dist, name, unplain(value))
        set_attributes(model.logger, kept["lines"])
        for layer, state in zip(_wrappers(model.env), kept["wrappers"], strict=True):
            set_attributes(layer, state)
        if self._exact_episodes and kept["environments"] is not None:
            for number, state in enumerate(kept["environments"]):
                model.env.env_method("load_state_dict", state, indices=number)
        else:
            self._begin_episodes()
        self._kept = {}

    def _begin_episodes(self) -> None:
        """With seeds that no attempt before has had."""
        model = self._model
        assert model.env is not None
        model.env.seed((model.seed or 0) + model.num_timesteps)
        model._last_obs = model.env.reset()  # pyright: ignore[reportAttributeAccessIssue]
        model._last_episode_starts = np.ones(model.n_envs, dtype=bool)
        if normalize := model.get_vec_normalize_env():
            model._last_original_obs = normalize.get_original_obs()

    def _gsde(self) -> list[Any]:
        if not getattr(self._model, "use_sde", False):
            return []
        return [getattr(self._model, "actor", self._model.policy).action_dist]


def _wrappers(env: VecEnv) -> list[VecEnvWrapper]:
    layers: list[VecEnvWrapper] = []
    while isinstance(env, VecEnvWrapper):
        layers.append(env)
        env = env.venv
    return layers


class Subprocesses(SubprocVecEnv):
    """Environments in processes of their own, which end with the run and not of the signals that tell it to stop."""

    def __init__(self, env_fns: list[Callable[[], Any]]) -> None:
        with preempt.unheard():
            resource_tracker.ensure_running()  # Python's own helper; its start ends the blocking of TERM
        with preempt.unheard():
            super().__init__(env_fns)
