"""A language model as a judge, behind any endpoint that speaks OpenAI's protocol.

Its key comes from the environment (`trainer.judge.api_key_env`) and goes into no file.
"""

import logging
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from common.errors import UnavailableError
from rl.grpo.schema import JudgeFields

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request


class Judge:
    """A reward: what the judge says of each completion, a number from 0 to 10, divided by 10.

    Temporary faults are tried again `retries` times with growing pauses. An answer without a number counts as None:
    this reward does not apply.

    Raises:
        UnavailableError: the judge does not answer, or refuses.
    """

    def __init__(self, fields: JudgeFields) -> None:
        self._fields = fields
        self._client = openai.OpenAI(
            base_url=fields.base_url,
            api_key=os.environ.get(fields.api_key_env, "none"),
            timeout=fields.timeout_s,
            max_retries=fields.retries,
        )
        self._next = 0.0  # when the next request may start
        self._turn = threading.Lock()

    def __call__(self, prompts: list[Any], completions: list[Any], target: list[str], **_: Any) -> list[float | None]:
        from rl.grpo.rewards import text

        rows = [(text(p), text(c), t) for p, c, t in zip(prompts, completions, target, strict=True)]
        with ThreadPoolExecutor(self._fields.at_once) as pool:
            return list(pool.map(self._ask, rows))

    def _ask(self, row: tuple[str, str, str]) -> float | None:
        prompt, completion, target = row
        question = self._fields.prompt.format(prompt=prompt, completion=completion, target=target)
        self._wait_for_turn()
        try:
            answer = self._client.chat.completions.create(
                model=self._fields.model, temperature=0.0, messages=[{"role": "user", "content": question}]
            )
        except openai.OpenAIError as error:
            raise UnavailableError(
                f"the judge {self._fields.model} at {self._fields.base_url} does not answer: {error}"
            ) from error
        found = re.search(r"\d+(\.\d+)?", answer.choices[0].message.content or "")
        return min(10.0, float(found[0])) / 10 if found else None

    def _wait_for_turn(self) -> None:
        if self._fields.requests_per_min is None:
            return
        with self._turn:
            now = time.monotonic()
            starts = max(now, self._next)
            self._next = starts + 60 / self._fields.requests_per_min
        time.sleep(starts - now)
