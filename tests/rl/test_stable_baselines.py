"""rl.stable_baselines: it learns, resumes every algorithm exactly, and tells mistakes before queueing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from omegaconf import open_dict
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.logger import Logger

from common import preempt
from common.adapters.gymnasium import Restorable, can_restore
from common.adapters.replay import Replay
from common.adapters.stable_baselines3 import Subprocesses
from common.config import to_typed
from common.errors import UserError
from common.paths import read_lines
from rl.stable_baselines import environments, train
from rl.stable_baselines.schema import Config, Env
from tests.conftest import SEED, Cli, Compose, Refused
from tests.events import shown

TEMPLATE = "rl.stable_baselines"
SHORT = [
    "trainer.eval_every=10000",
    "trainer.eval_episodes=1",
    "trainer.final_eval_episodes=1",
    "trainer.video_steps=0",
]
PENDULUM = ["env=pendulum", "trainer.hyperparameters.learning_starts=50", "trainer.total_timesteps=300"]

Trained = Callable[..., dict[str, Any]]


@pytest.fixture
def trained(composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """trained(name, *overrides, stop_at=step): the result of a run in this process; with a stop, of two attempts."""

    def config(name: str, overrides: tuple[str, ...]) -> Config:
        where = ["compute=inprocess", f"paths.work_root={tmp_path}", f"experiment_name={name}"]
        (run,) = composed(*where, *SHORT, *overrides, template=TEMPLATE)
        with open_dict(run.cfg):
            run.cfg.pop("hydra")
        typed = to_typed(run.cfg)
        assert isinstance(typed, Config)
        Path(typed.paths.out_dir).mkdir(parents=True, exist_ok=True)
        return typed

    def start(name: str, *overrides: str, stop_at: int | None = None) -> dict[str, Any]:
        cfg = config(name, overrides)
        out_dir = Path(cfg.paths.out_dir)
        if stop_at is not None:
            write = train.Lines.write

            def write_and_stop(self: train.Lines, values: Any, excluded: Any, step: int) -> None:
                write(self, values, excluded, step)
                if step >= stop_at:
                    os.kill(os.getpid(), signal.SIGUSR2)

            preempt.install()
            monkeypatch.setattr(train.Lines, "write", write_and_stop)
            with pytest.raises(preempt.Preempted) as stopped:
                train.train(cfg)
            monkeypatch.setattr(train.Lines, "write", write)
            assert stopped.value.step is not None
            assert stop_at <= stopped.value.step < cfg.trainer.total_timesteps
            preempt.forget()
            np.random.seed(0)  # nothing may depend on what this process did before
            torch.manual_seed(0)
        train.train(cfg)
        result = json.loads((out_dir / "result.json").read_text())
        lines = read_lines(out_dir / "metrics.jsonl")
        dropped = {"time_s", "attempt"}
        series = [{key: value for key, value in line.items() if key not in dropped} for line in lines]
        return {"sha256": result["parameters_sha256"], "metrics": result["metrics"], "series": series}

    return start


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["env=cartpole", "trainer.total_timesteps=2000"], id="ppo"),
        pytest.param(
            ["env=any", "env.id=Pendulum-v1", "env.n_envs=2", "trainer.algo=ppo", "trainer.total_timesteps=600"]
            + ["trainer.hyperparameters={n_steps: 64, use_sde: true, sde_sample_freq: 4}"]
            + ["env.normalize_observations=true", "env.normalize_rewards=true", "env.frame_stack=2"],
            id="ppo with gSDE, normalised, stacked",
        ),
        pytest.param(
            ["env=any", "env.id=CartPole-v1", "trainer.algo=a2c"]
            + ["trainer.total_timesteps=800", "env.subprocesses=true", "env.n_envs=2"],
            id="a2c in subprocesses",
        ),
        pytest.param(
            ["env=cartpole_dqn", "trainer.total_timesteps=800", "trainer.hyperparameters.learning_starts=100"]
            + ["trainer.hyperparameters.train_freq=16", "trainer.hyperparameters.gradient_steps=2"]
            + ["trainer.hyperparameters.optimize_memory_usage=true", "trainer.hyperparameters.buffer_size=300"]
            + ["trainer.hyperparameters.replay_buffer_kwargs={handle_timeout_termination: false}"],
            id="dqn with half the memory",
        ),
        pytest.param(PENDULUM, id="sac"),
        pytest.param(
            [*PENDULUM, "trainer.hyperparameters.use_sde=true", "trainer.hyperparameters.buffer_size=100"],
            id="sac with gSDE and a small buffer",
        ),
        pytest.param(
            ["env=pendulum_td3", "trainer.total_timesteps=300", "trainer.hyperparameters.learning_starts=50"]
            + ["env.n_envs=2", "trainer.action_noise=ornstein-uhlenbeck"],
            id="td3 with Ornstein-Uhlenbeck noise",
        ),
        pytest.param(
            ["env=any", "env.id=CartPole-v1", "trainer.algo=recurrent_ppo", "trainer.policy=MlpLstmPolicy"]
            + ["trainer.total_timesteps=600", "trainer.hyperparameters={n_steps: 32, n_epochs: 1}"],
            id="recurrent ppo",
        ),
        pytest.param([*PENDULUM, "trainer.algo=tqc"], id="tqc"),
        pytest.param(
            ["env=halfcheetah", "trainer.total_timesteps=1200", "trainer.hyperparameters.n_steps=200"]
            + ["trainer.hyperparameters.n_epochs=1"],
            id="MuJoCo",
        ),
        pytest.param(
            ["env=breakout", "env.n_envs=2", "trainer.total_timesteps=200", "trainer.hyperparameters.n_steps=16"]
            + ["trainer.hyperparameters.batch_size=32", "trainer.hyperparameters.n_epochs=1"],
            id="Atari",
        ),
    ],
)
@pytest.mark.learns
@pytest.mark.minutes(1)
def test_every_algorithm_stopped_between_two_rollouts_ends_as_the_uninterrupted_run(
    trained: Trained, overrides: list[str]
) -> None:
    total = int(next(text for text in reversed(overrides) if "total_timesteps" in text).partition("=")[2])
    often = f"trainer.log_every={total // 20}"
    straight = trained("straight", *overrides, often)
    stopped = trained("stopped", *overrides, often, stop_at=total // 2)
    assert stopped == straight


@pytest.mark.learns
def test_stopped_behind_its_last_rollout_is_evaluated_with_what_it_had_seen(trained: Trained, tmp_path: Path) -> None:
    normalized = ["env=any", "env.id=Pendulum-v1", "trainer.algo=ppo", "env.normalize_observations=true"]
    short = ["trainer.total_timesteps=600", "trainer.hyperparameters={n_steps: 64}", "trainer.log_every=100"]
    straight = trained("stopped", *normalized, *short)
    (tmp_path / "vec_jobs" / "stopped" / "0" / "outputs" / "result.json").unlink()
    assert trained("stopped", *normalized, *short) == straight


@pytest.mark.learns
@pytest.mark.minutes(1)
@pytest.mark.parametrize("env", ["lunarlander", "bipedalwalker"])
def test_an_environment_that_cannot_be_saved_begins_new_episodes_and_says_so(
    trained: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path, env: str
) -> None:
    often = [f"env={env}", "env.n_envs=2", "trainer.hyperparameters.n_steps=64", "trainer.total_timesteps=1000"]
    trained("stopped", *often, "trainer.log_every=100", stop_at=500)
    assert (
        "the state of this environment cannot be saved: after a requeue new episodes begin" in capsys.readouterr().out
    )
    steps = [line["step"] for line in read_lines(tmp_path / "vec_jobs/stopped/0/outputs/metrics.jsonl")]
    assert steps == sorted(set(steps))  # nothing else is lost
    assert steps[-1] >= 1000


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_cartpole_is_balanced_and_shown(run: Callable[..., Path]) -> None:
    out_dir = run(TEMPLATE, "env=cartpole")  # seed 42 of the template
    metrics = json.loads((out_dir / "result.json").read_text())["metrics"]
    assert metrics == {"eval_mean_reward": 500.0, "eval_std_reward": 0.0}
    assert (out_dir / "policy.mp4").stat().st_size > 1000
    assert (out_dir / "learning_curve.png").stat().st_size > 1000
    assert {"rollout/ep_rew_mean", "train/loss", "eval/mean_reward"} <= set(shown(out_dir).Tags()["scalars"])
    for name in ("model", "best_model"):
        PPO.load(out_dir / f"{name}.zip")


@pytest.mark.learns
@pytest.mark.minutes(3)
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["env=cartpole", "trainer.total_timesteps=16000", "trainer.log_every=256"], id="ppo"),
        pytest.param(
            ["env=pendulum", "trainer.total_timesteps=1500", "trainer.hyperparameters.buffer_size=600"]
            + ["env.normalize_observations=true", "env.normalize_rewards=true", "trainer.log_every=20"],
            id="sac, normalised, with a replay buffer that comes round",
        ),
    ],
)
def test_stopped_at_random_steps_ends_as_the_uninterrupted_run(
    drill: Callable[..., None], overrides: list[str]
) -> None:
    drill(TEMPLATE, *overrides, "trainer.eval_every=500", "trainer.eval_episodes=2")


@pytest.mark.bench  # 20,000 steps take some six minutes of one core
def test_sac_reaches_the_published_score_of_pendulum(run: Callable[..., Path]) -> None:
    out_dir = run(TEMPLATE, "env=pendulum")
    mean = json.loads((out_dir / "result.json").read_text())["metrics"]["eval_mean_reward"]
    assert abs(mean - -157) < 89  # RL Baselines3 Zoo: mean and standard deviation


# ----- the state of environments -----


@pytest.mark.parametrize(
    ("env", "exact"),
    [("CartPole-v1", True), ("Pendulum-v1", True), ("HalfCheetah-v5", True), ("LunarLander-v3", False)],
)
def test_whether_an_environment_can_be_saved_is_tried(env: str, exact: bool) -> None:
    torch.manual_seed(SEED)
    before = torch.get_rng_state()
    assert can_restore(lambda: environments.restorable(Env(id=env)), SEED) is exact
    assert torch.equal(before, torch.get_rng_state())


class Hidden(gym.Env[Any, Any]):
    """Keeps its state where no attribute shows it, and gives it by its own methods if asked to."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self._hidden = iter(())

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._hidden = iter(range(10**6))
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.array([next(self._hidden)], np.float32), 0.0, False, False, {}


class Telling(Hidden):
    def state_dict(self) -> dict[str, int]:
        at = next(self._hidden)
        self._hidden = iter(range(at, 10**6))
        return {"at": at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._hidden = iter(range(state["at"], 10**6))


def test_an_environment_of_ones_own_may_give_its_state_itself() -> None:
    assert not can_restore(lambda: Restorable(Hidden()), SEED)
    assert can_restore(lambda: Restorable(Telling()), SEED)


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_environments_in_processes_of_their_own_do_not_end_of_the_signals() -> None:
    from multiprocessing import forkserver

    env = environments.build(Env(id="CartPole-v1"), 2, 0.99, SEED, subprocesses=True)
    assert isinstance(env, Subprocesses)
    pids = [process.pid for process in env.processes]
    helper = forkserver._forkserver._forkserver_pid  # pyright: ignore[reportAttributeAccessIssue]
    env.reset()
    for pid in (*pids, helper):
        for sig in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):  # Slurm signals every process of a job
            os.kill(pid, sig)
    for _ in range(3):
        env.step(np.zeros(2, dtype=int))
    env.close()
    assert all(process.exitcode == 0 for process in env.processes)


# ----- the replay buffer -----


def test_a_save_writes_the_new_transitions_and_links_the_others(tmp_path: Path) -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=100, learning_starts=1000, seed=SEED)
    assert model.replay_buffer is not None
    model.set_logger(Logger(None, []))  # SB3's own makes a folder beside the test's
    replay = Replay(model.replay_buffer)
    for step in (40, 80, 130):
        model.learn(step - model.num_timesteps, reset_num_timesteps=False)
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        taken = replay.take(step)
        facts = replay.write(taken, folder)
        replay.committed(taken, folder)
    assert list(facts) == ["replay-0-40.pt", "replay-40-80.pt", "replay-80-130.pt"]
    first = tmp_path / "checkpoint-40" / "replay-0-40.pt"
    assert first.samefile(tmp_path / "checkpoint-130" / "replay-0-40.pt")

    fresh = SAC("MlpPolicy", "Pendulum-v1", buffer_size=100, seed=SEED)
    assert fresh.replay_buffer is not None
    Replay(fresh.replay_buffer).read(folder, 130, facts)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        assert np.array_equal(getattr(fresh.replay_buffer, name), getattr(model.replay_buffer, name))
    assert (fresh.replay_buffer.pos, fresh.replay_buffer.full) == (30, True)

    model.learn(30, reset_num_timesteps=False)  # the first file's slots are overwritten
    (tmp_path / "last").mkdir()
    assert list(replay.write(replay.take(160), tmp_path / "last")) == [
        "replay-40-80.pt", "replay-80-130.pt", "replay-130-160.pt",
    ]  # fmt: skip


def test_a_buffer_that_changes_old_transitions_is_refused() -> None:
    from stable_baselines3.common.buffers import NStepReplayBuffer

    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=10, replay_buffer_class=NStepReplayBuffer)
    assert model.replay_buffer is not None
    with pytest.raises(UserError, match="NStepReplayBuffer cannot be saved part by part"):
        Replay(model.replay_buffer)


# ----- mistakes -----


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.algo=dqn"], "dqn has no hyperparameter n_epochs"),
        (["trainer.algo=dqn"], "Those of an env=... file are tuned for one algorithm; env=any env.id=<id> has none"),
        (
            ["env.id=CartPole-v1", "env=pendulum"],
            "sac cannot take actions of the kind Discrete, which CartPole-v1 has. These can: ppo, a2c, dqn, recurrent",
        ),
        (["env.id=CartPoel-v1"], "Gymnasium has no such environment; near it: CartPole-v1"),
        (["env.id=nothing_here:Mine-v0"], "No module named 'nothing_here'. Is its package installed"),
        (["env.kwargs.gravitation=1"], "env.kwargs={'gravitation': 1}: "),
        (["env=cartpol"], "env=cartpol: no such preset. Valid: any, bipedalwalker, breakout, cartpole"),
        (
            ["trainer.hyperparameters.learning_rat=1"],
            "ppo has no hyperparameter learning_rat: did you mean learning_rate?",
        ),
        (["trainer.hyperparameters.seed=1"], "trainer.hyperparameters.seed is not yours to set"),
        (["trainer.action_noise=normal"], "ppo takes no trainer.action_noise"),
        (["trainer.algo=ddpg"], "trainer.algo is one of ppo, a2c, dqn"),
        (["trainer.total_timesteps=0"], "trainer.total_timesteps must be at least 1, got 0"),
        (["compute.tasks_per_node=2"], "use env.n_envs and env.subprocesses, or a preset ending in _1x"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_queued(
    refused: Refused, overrides: list[str], message: str
) -> None:
    assert message in refused(TEMPLATE, *overrides)


@pytest.mark.parametrize(
    ("env", "module", "extra"), [("breakout", "ale_py", "atari"), ("lunarlander", "Box2D", "box2d")]
)
def test_an_extra_that_is_not_installed_is_named_with_the_command(
    cli: Cli, work_root: Path, monkeypatch: pytest.MonkeyPatch, env: str, module: str, extra: str
) -> None:
    import importlib.util
    import sys

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == module else find(name, *more))
    monkeypatch.setitem(sys.modules, module, None)  # as Python marks what cannot be imported
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    answer = cli("compute=local", f"paths.work_root={work_root}", f"env={env}", template=TEMPLATE)
    assert f"uv run --package rl --extra {extra} rl-launch ..." in answer.err
    assert len(answer.err.strip().splitlines()) == 1
