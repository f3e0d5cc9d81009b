"""Completions from a server in a job of its own, in the place of TRL's VLLMGeneration.

TRL sends weights over NCCL to a server that must outlive the training. Here either job may be preempted: weights go
over the file system that both see, and a new instance of the server gets them before it is asked.

Protocol: vLLM's, in its development mode (`VLLM_SERVER_DEV_MODE=1`), https://docs.vllm.ai/en/latest/serving
"""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from common import distributed, service
from common.config import Config
from common.errors import UnavailableError

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request

_RETRY_S = 1.0
_ANSWER_S = 1800.0  # for all completions of a step


class ServerRollouts:
    """Asked by TRL's trainer at each step; all ranks together, rank 0 speaks with the server.

    Args:
        trainer: ours, with TRL's sampling parameters.
        wait_s: how long to wait for a server that is not there.
    """

    def __init__(self, trainer: Any, config: Config, wait_s: float) -> None:
        self._trainer = trainer
        self._out_dir = Path(config.paths.out_dir)
        self._weights = self._out_dir / ".rollout_weights"
        self._seed = config.trainer.seed  # pyright: ignore[reportAttributeAccessIssue]
        self._wait_s = wait_s
        self._has: tuple[str, int] | None = None  # (instance, step of the weights that it has)
        self._name = ""  # of the model, as the instance calls it

    def close(self) -> None:
        """The training has ended: remove the weights that were written for the server."""
        if distributed.rank() == 0:
            shutil.rmtree(self._weights, ignore_errors=True)

    def sync_weights(self) -> None:
        """TRL calls it before the first completions of a step; `generate` sends the weights where they are missing."""

    def generate(self, prompts: list[list[int]], num_generations: int, **_: Any) -> tuple[None, Any, Any, None]:
        """Completions of prompts that stand `num_generations` times each, in TRL's order.

        Returns:
            (None, token ids of each completion, [[log probability] of each token], None), this rank's part.

        Raises:
            UnavailableError: no server for `wait_s`.
            Preempted: the run was told to stop while it waited.
        """
        parts = distributed.gather(prompts)
        unique = [prompt for part in parts for prompt in part][::num_generations]
        ids, scores = self._patiently(lambda url: self._completions(url, unique, num_generations))
        start = sum(len(part) for part in parts[: distributed.rank()])
        mine = slice(start, start + len(prompts))
        return None, ids[mine], [[[score] for score in line] for line in scores[mine]], None

    def _patiently(self, ask: Callable[[str], Any]) -> Any:
        """What the server answers; of the next instance, if this one goes."""
        give_up = time.monotonic() + self._wait_s
        while True:
            answer, refusal = distributed.on_rank_0(lambda: self._try(ask))
            if answer is not None:
                return answer
            self._trainer.leave_if_told()
            if distributed.agree([float(time.monotonic() > give_up)])[0]:
                raise UnavailableError(f"no rollout server for {self._wait_s / 60:g} min (rollout.wait_min): {refusal}")
            time.sleep(_RETRY_S)

    def _try(self, ask: Callable[[str], Any]) -> tuple[Any, str]:
        """(the answer or None, why there is none)"""
        place = service.find(self._out_dir)
        if place is None:
            return None, "its job has not announced itself"
        try:
            self._send_weights(place["url"], place["instance"])
            return ask(place["url"]), ""
        except httpx2.HTTPError as error:
            return None, f"{place['url']}: {type(error).__name__}: {error}"

    def _send_weights(self, url: str, instance: str) -> None:
        step = self._trainer.state.global_step
        if self._has == (instance, step):
            return
        folder = self._weights / str(step)
        if not folder.exists():
            shutil.rmtree(self._weights, ignore_errors=True)  # the last step's
            written = folder.with_suffix(".tmp")
            self._trainer.accelerator.unwrap_model(self._trainer.model).save_pretrained(written)
            written.rename(folder)
        _post(f"{url}/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        _post(f"{url}/reset_prefix_cache", {})  # of the weights before
        if self._has is None or self._has[0] != instance:
            self._name = _get(f"{url}/v1/models")["data"][0]["id"]
        self._has = (instance, step)

    def _completions(self, url: str, prompts: list[list[int]], count: int) -> tuple[list[list[int]], list[list[float]]]:
        trainer = self._trainer
        answer = _post(
            f"{url}/v1/completions",
            {
                "model": self._name,
                "prompt": prompts,
                "n": count,
                "max_tokens": trainer.max_completion_length,
                "temperature": trainer.temperature,
                "top_p": trainer.top_p,
                "top_k": trainer.top_k,
                "logprobs": 0,
                "return_token_ids": True,
                # the same after a resume, so that the server is the only thing that can differ
                "seed": self._seed * 1_000_003 + trainer._step,
            },
        )
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        return [one["token_ids"] for one in choices], [one["logprobs"]["token_logprobs"] for one in choices]


def _post(url: str, payload: dict[str, Any]) -> Any:
    answer = httpx2.post(url, json=payload, timeout=httpx2.Timeout(30.0, read=_ANSWER_S)).raise_for_status()
    return answer.json() if answer.content else None


def _get(url: str) -> Any:
    return httpx2.get(url, timeout=30.0).raise_for_status().json()
