"""What the tests of this package share; the fixtures are those of all packages."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

from tests.templates import drill, launch, run, why_it_failed

__all__ = ["drill", "exact_match_of", "launch", "run", "unigram_loss", "why_it_failed"]


def exact_match_of(work_root: Path, model: str) -> float:
    """Of an embedded model, as the templates measure it, on the held-out prompts of `larger_number`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llm.answers import exact_match
    from llm.embedded import larger_number

    data, folder = work_root / "held_out", work_root / ".vec_assets" / f"llm.embedded.{model}"
    data.mkdir()
    larger_number(data)
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    return exact_match(
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        [row["prompt"] for row in rows],
        [row["completion"] for row in rows],
        batch_size=200,
        max_new_tokens=4,
    )


def unigram_loss(work_root: Path) -> float:
    """Cross entropy in nats of the held-out articles under the frequencies of tokens in the others, one added to each:
    what a model reaches that does not look at the context."""
    from transformers import AutoTokenizer

    made = work_root / ".vec_assets"
    tokenizer = AutoTokenizer.from_pretrained(made / "llm.embedded.bbc_llama")
    counts: dict[str, Counter[int]] = {}
    for split in ("train", "test"):
        rows = (made / "llm.embedded.bbc_news" / f"{split}.jsonl").read_text().splitlines()
        texts = [json.loads(row)["text"] for row in rows]
        counts[split] = Counter(token for ids in tokenizer(texts)["input_ids"] for token in ids)
    total = counts["train"].total() + len(tokenizer)
    nats = sum(n * -math.log((counts["train"][token] + 1) / total) for token, n in counts["test"].items())
    return nats / counts["test"].total()
