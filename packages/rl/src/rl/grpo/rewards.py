"""Rewards of completions: named ones, your own by dotted path, and what is checked of all of them.

A reward is a function of a batch, as TRL calls it: `reward(prompts, completions, target, **others) -> list of numbers`,
one for each completion; None where it does not apply. `completions` are texts, or lists of one message.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

from math_verify import parse, verify

from common import distributed
from common.errors import UnavailableError
from rl.grpo.judge import Judge
from rl.grpo.schema import Trainer, own_reward

Reward = Callable[..., list[float | None]]


class RewardError(Exception):
    """A reward function failed, or gave something that is no reward; the message names it and the prompt."""


def build(cfg: Trainer) -> list[Reward]:
    """The functions of `trainer.rewards`, in order, each checked."""
    named: dict[str, Callable[[], Reward]] = {
        "math_verify": lambda: math_verify,
        "regex_match": lambda: functools.partial(regex_match, cfg.answer_pattern),
        "format": lambda: functools.partial(has_format, cfg.format_pattern),
        "length_penalty": lambda: functools.partial(length_penalty, cfg.length_free),
        "judge": lambda: Judge(cfg.judge),
    }
    return [checked(name, named[name]() if name in named else own_reward(name)) for name in cfg.rewards]


def text(completion: Any) -> str:
    """The text of a completion, also of a conversation's."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


# ----- the named ones -----


def math_verify(completions: list[Any], target: list[str], **others: Any) -> list[float | None]:
    """1 where the completion ends in the right number or formula, however it is written; else 0.

    https://github.com/huggingface/Math-Verify
    """
    return [float(verify(parse(right), parse(text(one)))) for one, right in zip(completions, target, strict=True)]


def regex_match(pattern: str, completions: list[Any], target: list[str], **others: Any) -> list[float | None]:
    """1 where group 1 of the pattern's last match is the target, letter by letter; else 0."""
    found = [re.findall(pattern, text(one)) for one in completions]
    return [float(bool(all_) and all_[-1].strip() == right.strip()) for all_, right in zip(found, target, strict=True)]


def has_format(pattern: str, completions: list[Any], **others: Any) -> list[float | None]:
    """1 where the whole completion matches; else 0."""
    return [float(re.fullmatch(pattern, text(one), re.DOTALL) is not None) for one in completions]


def length_penalty(free: int, completion_ids: list[list[int]], **others: Any) -> list[float | None]:
    """0 up to `free` tokens, then falling: -1 at twice as many."""
    return [-max(0.0, len(tokens) / free - 1) for tokens in completion_ids]


# ----- what is checked -----


def checked(name: str, reward: Reward) -> Reward:
    """The same function; what it raises, or gives wrongly, is told with its name and the prompt, on all ranks.

    Raises:
        RewardError: it raised, gave another number of rewards, or one that is nan or infinite.
        UnavailableError: what it asks does not answer.
    """

    def call(**batch: Any) -> list[float | None]:
        rewards, failure = None, None
        try:
            rewards = _call(name, reward, batch)
        except Exception as error:
            failure = error
        failures = [one for one in distributed.gather(failure) if one is not None]
        if failures:  # the other ranks must not wait for this one's rewards
            raise failures[0]
        assert rewards is not None
        return rewards

    call.__name__ = name.rpartition(".")[2]
    return call


def _call(name: str, reward: Reward, batch: dict[str, Any]) -> list[float | None]:
    prompts = batch["prompts"]
    if not prompts:  # fewer held-out prompts than processes
        return []
    try:
        rewards = reward(**batch)
    except UnavailableError:
        raise
    except Exception as error:
        raise RewardError(f"reward {name} raised {type(error).__name__}: {error}{_where(reward, batch)}") from error
    if len(rewards) != len(prompts):
        raise RewardError(f"reward {name} gave {len(rewards)} rewards for {len(prompts)} completions")
    for number, value in enumerate(rewards):
        if value is not None and not math.isfinite(value):
            raise RewardError(f"reward {name} is {value} for {_shown(batch, number)}")
    return rewards


def _where(reward: Reward, batch: dict[str, Any]) -> str:
    """Of a batch that fails, the first completion that fails alone."""
    size = len(batch["prompts"])
    for number in range(size):
        rows = {
            key: [value[number]] if isinstance(value, list) and len(value) == size else value
            for key, value in batch.items()
        }
        try:
            reward(**rows)
        except Exception:
            return f", for {_shown(batch, number)}"
    return ""


def _shown(batch: dict[str, Any], number: int) -> str:
    prompt, completion = text(batch["prompts"][number]), text(batch["completions"][number])
    return f"the prompt {prompt[-200:]!r} and the completion {completion[:200]!r}"
