"""The fields of rl.stable_baselines: types, units, and what contradicts itself."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from common.config import Config as CommonConfig
from common.config import require
from rl.stable_baselines import algorithms, environments

NOISES = ("normal", "ornstein-uhlenbeck")


@dataclass
class Env:
    id: str = MISSING  # of Gymnasium, e.g. CartPole-v1; my_package:Mine-v0 imports my_package first
    kwargs: dict[str, Any] = field(default_factory=dict)  # of gymnasium.make
    n_envs: int = 1  # environments side by side
    subprocesses: bool = False  # each in a process of its own, for environments that are slow
    atari: bool = False  # the usual preprocessing (frame skip, 84 x 84 pixels, one life an episode, clipped rewards)
    frame_stack: int = 1  # observations that the policy sees at once
    normalize_observations: bool = False  # by their running mean and variance
    normalize_rewards: bool = False  # by the running variance of the return
    published_score: float | None = None  # mean reward that others report for this algorithm; a line in the picture

    def __post_init__(self) -> None:
        for name in ("n_envs", "frame_stack"):
            require(getattr(self, name) >= 1, f"env.{name} must be at least 1, got {getattr(self, name)}")


@dataclass
class Trainer:
    algo: str = MISSING  # ppo, a2c, dqn, sac, td3; with --extra contrib recurrent_ppo, tqc
    policy: str = MISSING  # MlpPolicy, CnnPolicy, MultiInputPolicy; recurrent_ppo: MlpLstmPolicy, CnnLstmPolicy
    total_timesteps: int = MISSING  # steps of all environments together; rollouts are whole, so it may be a few more
    hyperparameters: dict[str, Any] = field(default_factory=dict)  # of the algorithm; lin_3e-4 falls to 0 along a line
    action_noise: str | None = None  # normal or ornstein-uhlenbeck, for td3 and sac
    action_noise_std: float = 0.1  # of the actions scaled to -1 .. 1
    log_every: int = MISSING  # steps between two lines of metrics.jsonl
    eval_every: int = MISSING  # steps between two evaluations
    eval_episodes: int = MISSING  # episodes of an evaluation on the way, always the same starts
    final_eval_episodes: int = MISSING  # episodes of the evaluation at the end
    video_steps: int = MISSING  # steps of the final policy in outputs/policy.mp4; 0: none
    seed: int = MISSING  # of the environments, the initial weights and the exploration

    def __post_init__(self) -> None:
        for name in ("total_timesteps", "log_every", "eval_every", "eval_episodes", "final_eval_episodes"):
            require(getattr(self, name) >= 1, f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("video_steps", "seed", "action_noise_std"):
            require(getattr(self, name) >= 0, f"trainer.{name} must not be negative, got {getattr(self, name)}")
        algorithms.check(self.algo, self.hyperparameters, self.action_noise)
        require(
            self.action_noise in (None, *NOISES),
            f"trainer.action_noise is null or one of {', '.join(NOISES)}, not {self.action_noise}",
        )


@dataclass
class Config(CommonConfig):
    several_processes: ClassVar[str | None] = "env.n_envs and env.subprocesses"

    env: Env = MISSING
    trainer: Trainer = MISSING

    def before_submission(self) -> None:
        environments.check(self.env.id, self.env.kwargs, self.env.atari, self.trainer.algo)
