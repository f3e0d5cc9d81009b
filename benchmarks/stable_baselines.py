"""What rl.stable_baselines costs over stable-baselines3 alone, and what a save of a large replay buffer costs.

    uv run python -m benchmarks.stable_baselines

Steps: the template's `train` on CartPole (PPO, 20,000 steps, one evaluation at the end), and `model.learn` of the same
model, in turns in one process; only the ratio within a pair counts. Save: a buffer of 1,000,000 transitions of
HalfCheetah's shape of which 10,000 are new, against torch.save of the whole of it with fsync. Seed 42.
"""

import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer

from benchmarks.trainers import configuration
from common.adapters.replay import Replay
from rl.stable_baselines import environments, train

PAIRS = 6  # an even number: whoever comes second is slower
STEPS = 20_000
OVERRIDES = ["env=cartpole", f"trainer.total_timesteps={STEPS}", "trainer.eval_every=1000000", "trainer.video_steps=0"]
TRANSITIONS, NEW = 1_000_000, 10_000


def main() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="vec-bench-") as folder:
        pairs: list[tuple[float, float]] = []
        for number in range(PAIRS):
            first, second = (bare, ours) if number % 2 else (ours, bare)
            one, other = first(Path(folder), number), second(Path(folder), number)
            pairs.append((one, other) if number % 2 else (other, one))
        ratios = [ours_ / bare_ for bare_, ours_ in pairs]
        print("| PPO on CartPole | bare, steps per CPU s | ours | ratio, mean of pairs (goal >= 0.98) | range |")
        print("|---|---|---|---|---|")
        bare_, ours_ = (statistics.median(values) for values in zip(*pairs, strict=True))
        mean = statistics.geometric_mean(ratios)
        print(f"| | {bare_:.0f} | {ours_:.0f} | {mean:.3f} | {min(ratios):.3f} to {max(ratios):.3f} |")
        stall, whole = save(Path(folder))
        print("\n| 1,000,000 transitions, 10,000 new | save, s | the whole, s | share (goal <= 5 %) |")
        print("|---|---|---|---|")
        print(f"| | {stall:.3f} | {whole:.2f} | {stall / whole:.1%} |")


def ours(folder: Path, number: int) -> float:
    """Steps per CPU second of the template's training, without what comes before and after it."""
    config = configuration("rl.stable_baselines", OVERRIDES, folder, f"ours_{number}")
    learn, seconds = train.Resumable.learn, 0.0

    def timed(self: Any, *args: Any) -> int:
        nonlocal seconds
        begun = time.process_time()
        step = learn(self, *args)
        seconds = time.process_time() - begun
        return step

    train.Resumable.learn = timed
    try:
        train.train(config)
    finally:
        train.Resumable.learn = learn
    return STEPS / seconds


def bare(folder: Path, number: int) -> float:
    config = configuration("rl.stable_baselines", OVERRIDES, folder, f"bare_{number}")
    env = environments.build(config.env, config.env.n_envs, 0.98, config.trainer.seed, subprocesses=False)
    model = train.build_model(config.trainer, env)
    evaluation = train.Evaluation(
        config, environments.build(config.env, 1, 0.98, config.trainer.seed, subprocesses=False)
    )
    begun = time.process_time()
    model.learn(STEPS, log_interval=4)
    evaluation.score(model, config.trainer.eval_episodes)
    return STEPS / (time.process_time() - begun)


def save(folder: Path) -> tuple[float, float]:
    """(seconds of our save, seconds of writing the whole buffer), medians of five."""
    space = gym.spaces.Box(-1, 1, (17,), np.float32)
    buffer = ReplayBuffer(TRANSITIONS, space, gym.spaces.Box(-1, 1, (6,), np.float32))
    buffer.observations[:] = np.random.default_rng(42).standard_normal(buffer.observations.shape, np.float32)
    replay = Replay(buffer)
    arrays = {name: torch.from_numpy(value) for name, value in vars(buffer).items() if isinstance(value, np.ndarray)}
    stalls: list[float] = []
    wholes: list[float] = []
    for number in range(6):
        begun = time.perf_counter()
        with (folder / "whole.pt").open("wb") as file:
            torch.save(arrays, file)
            file.flush()
            os.fsync(file.fileno())
        middle = time.perf_counter()
        step = TRANSITIONS + number * NEW
        target = folder / f"checkpoint-{step}"
        target.mkdir()
        taken = replay.take(step)
        replay.write(taken, target)
        replay.committed(taken, target)
        if number > 0:  # the first save writes everything
            wholes.append(middle - begun)
            stalls.append(time.perf_counter() - middle)
    return statistics.median(stalls), statistics.median(wholes)


if __name__ == "__main__":
    main()
