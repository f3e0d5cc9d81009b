"""The algorithms: where they come from, which actions they can take, which hyperparameters they know.

Nothing here imports torch: it runs on the login node, too.
"""

import ast
import difflib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common.config import require
from common.errors import UserError

_ANY = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
_OURS = {"policy", "env", "seed", "device", "action_noise", "tensorboard_log", "verbose"}  # the template gives them


@dataclass(frozen=True)
class Algorithm:
    package: str
    name: str  # of the class
    actions: tuple[str, ...]  # kinds of Gymnasium's action spaces

    @property
    def module(self) -> str:
        """Of the class, e.g. stable_baselines3.ppo.ppo."""
        folder = "ppo_recurrent" if self.name == "RecurrentPPO" else self.name.lower()
        return f"{self.package}.{folder}.{folder}"


# https://stable-baselines3.readthedocs.io/en/master/guide/algos.html
ALGORITHMS = {
    "ppo": Algorithm("stable_baselines3", "PPO", _ANY),
    "a2c": Algorithm("stable_baselines3", "A2C", _ANY),
    "dqn": Algorithm("stable_baselines3", "DQN", ("Discrete",)),
    "sac": Algorithm("stable_baselines3", "SAC", ("Box",)),
    "td3": Algorithm("stable_baselines3", "TD3", ("Box",)),
    "recurrent_ppo": Algorithm("sb3_contrib", "RecurrentPPO", _ANY),
    "tqc": Algorithm("sb3_contrib", "TQC", ("Box",)),
}


def check(algo: str, hyperparameters: dict[str, Any], action_noise: str | None) -> None:
    """Before submission.

    Raises:
        UserError: an algorithm that does not exist or is not installed, a hyperparameter that it does not have.
    """
    require(algo in ALGORITHMS, f"trainer.algo is one of {', '.join(ALGORITHMS)}, not {algo}")
    known = hyperparameters_of(algo)
    for key in hyperparameters:
        require(key not in _OURS, f"trainer.hyperparameters.{key} is not yours to set: see the fields of trainer")
        near = difflib.get_close_matches(key, known, n=1)
        require(
            key in known,
            f"{algo} has no hyperparameter {key}"
            + (f": did you mean {near[0]}?" if near else "")
            + ". Those of an env=... file are tuned for one algorithm; env=any env.id=<id> has none",
        )
    require(
        action_noise is None or "action_noise" in _arguments(algo),
        f"{algo} takes no trainer.action_noise: td3, sac and tqc do",
    )


def hyperparameters_of(algo: str) -> list[str]:
    """What trainer.hyperparameters may hold."""
    return [name for name in _arguments(algo) if name not in _OURS and not name.startswith("_")]


def fitting(actions: str) -> list[str]:
    """The algorithms that can take actions of this kind of space."""
    return [name for name, algorithm in ALGORITHMS.items() if actions in algorithm.actions]


@cache
def _arguments(algo: str) -> list[str]:
    """Of the constructor, read from its source: importing it would import torch."""
    algorithm = ALGORITHMS[algo]
    package = importlib.util.find_spec(algorithm.package)
    if package is None or package.origin is None:
        raise UserError(
            f"trainer.algo={algo} needs {algorithm.package}: uv run --package rl --extra contrib rl-launch ..."
        )
    source = Path(package.origin).parent.joinpath(*algorithm.module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == algorithm.name)
    init = next(node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return [argument.arg for argument in init.args.args if argument.arg != "self"]
