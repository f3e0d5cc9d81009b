"""Reinforcement learning with stable-baselines3 on any Gymnasium environment, with exact resume.

uv run --package rl rl-launch stable_baselines compute=local env=cartpole
uv run --package rl --extra mujoco rl-launch stable_baselines compute=bon_echo/cpu_1x env=halfcheetah trainer.seed=1,2,3
uv run --package rl rl-launch stable_baselines compute=local env=any env.id=Acrobot-v1 trainer.algo=dqn
"""

import importlib
import logging
import math
import re
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import torch
from matplotlib.figure import Figure
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from common import distributed
from common.adapters.gymnasium import can_restore
from common.adapters.stable_baselines3 import Resumable
from common.checkpoint import parameters_sha256
from common.metrics import MetricsLog
from common.paths import read_lines
from rl.stable_baselines import environments
from rl.stable_baselines.algorithms import ALGORITHMS
from rl.stable_baselines.schema import Config, Trainer

log = logging.getLogger(__name__)


def build_model(cfg: Trainer, env: VecEnv) -> BaseAlgorithm:
    """The algorithm with its hyperparameters as stable-baselines3 wants them: schedules, classes and tuples."""
    algorithm = ALGORITHMS[cfg.algo]
    given: dict[str, Any] = {key: _schedule(value) for key, value in cfg.hyperparameters.items()}
    if isinstance(given.get("train_freq"), list):  # [1, episode]
        given["train_freq"] = tuple(given["train_freq"])
    policy: dict[str, Any] = dict(given.pop("policy_kwargs", None) or {})
    if "activation_fn" in policy:
        policy["activation_fn"] = getattr(torch.nn, policy["activation_fn"])
    if cfg.action_noise:
        mean = np.zeros(env.action_space.shape or ())
        kind = NormalActionNoise if cfg.action_noise == "normal" else OrnsteinUhlenbeckActionNoise
        given["action_noise"] = kind(mean, cfg.action_noise_std * np.ones_like(mean))
    make = getattr(importlib.import_module(algorithm.module), algorithm.name)
    return make(cfg.policy, env, seed=cfg.seed, device=distributed.device(), policy_kwargs=policy, **given)


def _schedule(value: Any) -> Any:
    """lin_3e-4: from there to 0 along a line."""
    match = re.fullmatch(r"lin_(\S+)", value) if isinstance(value, str) else None
    return LinearSchedule(float(match[1]), 0.0, 1.0) if match else value


class Lines(KVWriter):
    """What stable-baselines3 records, to metrics.jsonl and what shows it."""

    def __init__(self, metrics: MetricsLog) -> None:
        self.metrics = metrics

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        values = {key: float(value) for key, value in key_values.items() if not key.startswith("time/")}
        if math.isnan(values.get("train/explained_variance", 0.0)):  # by its definition, where all returns are alike
            del values["train/explained_variance"]
        if values:
            self.metrics.write(step, **values)


class Evaluation:
    """Episodes of the policy's best actions in an environment of their own, always from the same starts.

    The best model so far is in outputs/best_model.zip; its score is a part of a checkpoint.
    """

    def __init__(self, config: Config, env: VecEnv) -> None:
        self.env = env
        self._out_dir = Path(config.paths.out_dir)
        self._seed = config.trainer.seed + 1_000_003
        self._best = -math.inf

    def score(self, model: BaseAlgorithm, episodes: int) -> tuple[float, float]:
        """Mean and standard deviation of the episodes' rewards, as the environment gives them."""
        assert model.env is not None
        sync_envs_normalization(model.env, self.env)
        self.env.seed(self._seed)
        mean, std = evaluate_policy(model, self.env, episodes, deterministic=True)
        return float(mean), float(std)  # pyright: ignore[reportArgumentType]

    def keep_best(self, model: BaseAlgorithm, mean: float) -> None:
        if mean > self._best:
            self._best = mean
            save(model, self._out_dir, "best_model")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best = state["best"]


def save(model: BaseAlgorithm, folder: Path, name: str) -> None:
    """`<name>.zip`, which `PPO.load` reads, and what VecNormalize has seen."""
    for kind, part in ((".zip", model), (".normalize.pkl", model.get_vec_normalize_env())):
        if part is not None:
            part.save(str(folder / f".{name}{kind}"))
            (folder / f".{name}{kind}").replace(folder / f"{name}{kind}")


def save_video(model: BaseAlgorithm, env: VecEnv, steps: int, path: Path) -> None:
    """outputs/policy.mp4, where the environment can draw itself on this machine."""
    if env.render_mode != "rgb_array" or steps == 0:
        return
    try:
        fps = min(60, env.get_attr("metadata")[0].get("render_fps", 30))
        observations, states, starts = env.reset(), None, np.ones(1, dtype=bool)
        with imageio.get_writer(path, fps=fps, macro_block_size=2) as video:
            for _ in range(steps):
                actions, states = model.predict(observations, states, starts, deterministic=True)  # pyright: ignore[reportArgumentType]
                observations, _, starts, _ = env.step(actions)
                video.append_data(env.render())  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # a node without OpenGL, ...: no reason to lose the run
        path.unlink(missing_ok=True)
        log.warning("no %s: %s: %s", path.name, type(error).__name__, error)


def save_curve(lines: list[dict[str, Any]], published: float | None, path: Path) -> None:
    """Mean reward of an episode over the steps, in training and in the evaluations."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("rollout/ep_rew_mean", "training, mean of 100 episodes"), ("eval/mean_reward", "evaluation")):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points, strict=True) if points else ([], []), label=label)
    if published is not None:
        axes.axhline(published, color="gray", linestyle="--", label="published")
    axes.set(xlabel="steps", ylabel="reward of an episode")
    axes.legend()
    figure.savefig(path)


def train(config: Config) -> dict[str, float]:
    cfg, out_dir = config.trainer, Path(config.paths.out_dir)

    # ----- build -----
    gamma = cfg.hyperparameters.get("gamma", 0.99)
    env = environments.build(config.env, config.env.n_envs, gamma, cfg.seed, config.env.subprocesses)
    eval_env = environments.build(config.env, 1, gamma, cfg.seed, subprocesses=False)
    model = build_model(cfg, env)
    evaluation = Evaluation(config, eval_env)

    # ----- resume -----
    exact = can_restore(lambda: environments.restorable(config.env), cfg.seed)
    run = Resumable(config, model, exact_episodes=exact, evaluation=evaluation)
    reached = run.resume()
    metrics = MetricsLog(config, reached, cfg.total_timesteps)
    model.set_logger(Logger(str(out_dir), [Lines(metrics)]))

    # ----- train -----
    def at_boundary(step: int) -> None:
        """Between two rollouts: the last one has been learnt from."""
        nonlocal reached
        over = step >= cfg.total_timesteps
        evaluate = over or step // cfg.eval_every > reached // cfg.eval_every
        write = evaluate or step // cfg.log_every > reached // cfg.log_every
        reached = step
        if evaluate:
            mean, std = evaluation.score(model, cfg.eval_episodes)
            evaluation.keep_best(model, mean)
            model.logger.record("eval/mean_reward", mean)
            model.logger.record("eval/std_reward", std)
        if write:
            model.dump_logs()  # pyright: ignore[reportAttributeAccessIssue]

    step = run.learn(cfg.total_timesteps, at_boundary)

    # ----- finish -----
    mean, std = evaluation.score(model, cfg.final_eval_episodes)
    save(model, out_dir, "model")
    save_curve(read_lines(out_dir / "metrics.jsonl"), config.env.published_score, out_dir / "learning_curve.png")
    save_video(model, eval_env, cfg.video_steps, out_dir / "policy.mp4")
    env.close()
    eval_env.close()
    digest = parameters_sha256(model.policy.state_dict().items())
    return metrics.finish(step, digest, eval_mean_reward=mean, eval_std_reward=std)
