"""The fields of rl.grpo: types, units, and what contradicts itself."""

import importlib
import importlib.util
import re
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from common import assets
from common.config import Compute, Service, require
from common.config import Config as CommonConfig
from common.errors import UserError
from common.finetuning import Lora

EMBEDDED = "rl.embedded"  # the module that makes what assets=embedded names
REWARDS = ("math_verify", "regex_match", "format", "length_penalty", "judge")
ROLLOUTS = ("transformers", "vllm_colocate", "vllm_server")


@dataclass
class Assets(assets.Assets):
    train_split: str = MISSING
    eval_split: str = MISSING
    train_rows: int | None = None  # the first of the split; null: all
    eval_rows: int | None = None  # the same, of held-out prompts
    prompt_column: str = MISSING
    answer_column: str = MISSING
    target_pattern: str = MISSING  # its group 1, in the answer, is what is right
    system_prompt: str | None = None  # for models with a chat template


@dataclass
class JudgeFields:
    base_url: str = MISSING  # of any endpoint that speaks OpenAI's protocol, e.g. http://node:8000/v1
    model: str = MISSING
    prompt: str = MISSING  # what it is asked: {prompt}, {completion} and {target} are filled in; it answers 0 to 10
    api_key_env: str = MISSING  # the environment variable that holds the key
    timeout_s: float = MISSING  # of one request
    retries: int = MISSING  # of one request
    requests_per_min: float | None = None  # null: no limit
    at_once: int = MISSING  # requests under way

    def __post_init__(self) -> None:
        for name in ("timeout_s", "at_once"):
            require(getattr(self, name) > 0, f"trainer.judge.{name} must be positive, got {getattr(self, name)}")
        require(self.retries >= 0, f"trainer.judge.retries must not be negative, got {self.retries}")
        require(
            self.requests_per_min is None or self.requests_per_min > 0,
            f"trainer.judge.requests_per_min must be positive or null, got {self.requests_per_min}",
        )


@dataclass
class Trainer:
    max_length: int = MISSING  # tokens of prompt and completion; prompts that leave no room are left out
    max_new_tokens: int = MISSING  # tokens of a completion
    num_generations: int = MISSING  # completions of a prompt that are compared with each other
    num_iterations: int = MISSING  # how often completions are learnt from
    temperature: float = MISSING  # of the completions to learn from
    num_epochs: int = MISSING
    batch_size: int = MISSING  # completions per process and backward pass
    accumulation: int = MISSING  # backward passes per optimizer step
    eval_batch_size: int = MISSING  # prompts per process
    learning_rate: float = MISSING  # the highest; falls to 0 along a cosine
    warmup: float = MISSING  # share of all steps in which the learning rate rises
    weight_decay: float = MISSING
    beta: float = MISSING  # weight of the KL divergence from the initial model; 0: it is not kept in memory
    activation_checkpointing: bool = MISSING  # less memory, about a third more time
    lora: Lora = MISSING
    rewards: list[str] = MISSING  # math_verify, regex_match, format, length_penalty, judge, or my_module.my_reward
    reward_weights: list[float] = MISSING  # one for each; the sum is learnt from
    answer_pattern: str = MISSING  # regex_match: its group 1, in the completion, must be the target
    format_pattern: str = MISSING  # format: must match the whole completion
    length_free: int = MISSING  # length_penalty: tokens without penalty
    judge: JudgeFields = MISSING
    logging_steps: int = MISSING  # optimizer steps between two lines of metrics.jsonl
    save_steps: int = MISSING  # optimizer steps between two checkpoints; requeue.save_every_min applies besides
    eval_steps: int = MISSING  # optimizer steps between two evaluations
    samples: int = MISSING  # held-out prompts whose completions are shown at each evaluation
    seed: int = MISSING  # of the order and the completions

    def __post_init__(self) -> None:
        for name in (
            "max_length", "max_new_tokens", "num_iterations", "num_epochs", "batch_size", "accumulation",
            "eval_batch_size", "length_free", "logging_steps", "save_steps", "eval_steps",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("weight_decay", "beta", "samples", "seed"):
            require(getattr(self, name) >= 0, f"trainer.{name} must not be negative, got {getattr(self, name)}")
        for name in ("learning_rate", "temperature"):
            require(getattr(self, name) > 0, f"trainer.{name} must be positive, got {getattr(self, name)}")
        require(0 <= self.warmup < 1, f"trainer.warmup is a share of the steps in [0, 1), got {self.warmup}")
        require(
            self.num_generations >= 2,
            f"trainer.num_generations={self.num_generations}: at least 2 completions are compared",
        )
        require(
            self.max_new_tokens < self.max_length,
            f"trainer.max_new_tokens={self.max_new_tokens} leaves no room for a prompt in "
            f"trainer.max_length={self.max_length}",
        )
        require(
            len(self.rewards) == len(self.reward_weights) > 0,
            f"trainer.rewards has {len(self.rewards)} entries, trainer.reward_weights {len(self.reward_weights)}",
        )
        for name in ("answer_pattern", "format_pattern"):
            check_pattern(f"trainer.{name}", getattr(self, name), groups=int(name == "answer_pattern"))
        for name in self.rewards:
            check_reward(name)


@dataclass
class Rollout:
    kind: str = MISSING  # transformers, vllm_colocate (same GPUs) or vllm_server (a job of its own)
    compute: Compute | None = None  # vllm_server: preset of the server's job, e.g. killarney/l40s_1x
    command: list[str] | None = None  # vllm_server: what starts it; {model} and {port} are filled in
    wait_min: float = 60.0  # vllm_server: how long a run waits for one that is not there, minutes
    gpu_share: float = 0.3  # vllm_colocate: part of the GPU's memory that vLLM takes

    def __post_init__(self) -> None:
        require(self.kind in ROLLOUTS, f"rollout is one of {', '.join(ROLLOUTS)}, not {self.kind}")
        server = self.kind == "vllm_server"
        require(
            not server or (self.compute is not None and self.compute.executor in ("slurm", "local")),
            "rollout=vllm_server runs in a job of its own: say where with rollout.compute=<preset>",
        )
        require(server or self.compute is None, f"rollout={self.kind} has no job of its own: leave out rollout.compute")
        require(self.wait_min > 0, f"rollout.wait_min must be positive, got {self.wait_min}")
        require(0 < self.gpu_share < 1, f"rollout.gpu_share is in (0, 1), got {self.gpu_share}")
        require(
            self.kind != "vllm_colocate" or importlib.util.find_spec("vllm") is not None,
            "rollout=vllm_colocate needs vLLM in this environment: uv run --package rl --extra vllm rl-launch ...",
        )


@dataclass
class Config(CommonConfig):
    assets: Assets = MISSING
    trainer: Trainer = MISSING
    rollout: Rollout = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        cfg, tasks = self.trainer, self.compute.tasks
        completions = cfg.batch_size * cfg.accumulation * tasks
        require(
            completions % cfg.num_generations == 0,
            f"a step has {completions} completions (trainer.batch_size={cfg.batch_size} x "
            f"trainer.accumulation={cfg.accumulation} x {tasks} process(es)): not a multiple of "
            f"trainer.num_generations={cfg.num_generations}",
        )
        require(
            self.rollout.kind != "vllm_server" or cfg.lora.rank == 0,
            "rollout=vllm_server trains all parameters: take trainer.lora.rank=0, or another rollout",
        )
        check_pattern("assets.target_pattern", self.assets.target_pattern, groups=1)

    def service(self) -> Service | None:
        rollout = self.rollout
        if rollout.kind != "vllm_server":
            return None
        assert rollout.compute is not None
        assert rollout.command is not None
        folders = assets.check(self, self.assets, EMBEDDED)
        model = folders.model if folders else assets.embedded_folder(self, EMBEDDED, self.assets.model)
        command = [part.replace("{model}", str(model)) for part in rollout.command]
        return Service("rollout", command, {"VLLM_SERVER_DEV_MODE": "1"}, "/health", str(model), rollout.compute)

    def before_submission(self) -> None:
        folders = assets.check(self, self.assets, EMBEDDED)
        limit = assets.context_length(folders.model) if folders else None
        length = self.trainer.max_length
        require(
            limit is None or length <= limit,
            f"trainer.max_length={length}, but the model reads {limit} tokens at most",
        )


def check_pattern(name: str, pattern: str, groups: int) -> None:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{name}={pattern} is no regular expression: {error}") from None
    require(compiled.groups >= groups, f"{name}={pattern} has no group ( ) that says what counts")


def check_reward(name: str) -> None:
    """Whether a reward exists; a module of one's own is found, not imported."""
    if name in REWARDS:
        return
    module, _, function = name.rpartition(".")
    try:
        found = module and importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    require(
        bool(found),
        f"trainer.rewards: {name} is none of {', '.join(REWARDS)}, and there is no module {module or name}: "
        "write my_module.my_reward, with my_module.py where the command is run or in an installed package",
    )
    source = getattr(found, "origin", None)
    if source and source.endswith(".py"):
        with open(source, encoding="utf-8") as file:
            text = file.read()
        require(
            re.search(rf"\b{re.escape(function)}\b", text) is not None, f"{source} has no {function} (trainer.rewards)"
        )


def own_reward(name: str) -> Any:
    """The function behind a dotted path."""
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(module), function)
