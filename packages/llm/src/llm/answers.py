"""What a language model answers to prompts whose right answer is known."""

from typing import Any

import torch

from common import distributed


@torch.inference_mode()
def exact_match(
    model: Any, tokenizer: Any, prompts: list[str], answers: list[str], batch_size: int, max_new_tokens: int
) -> float:
    """The share of prompts answered as expected, letter by letter, by greedy decoding. Ranks divide the work."""
    model.eval()
    pairs = list(zip(prompts, answers, strict=True))[distributed.rank() :: distributed.world_size()]
    right = 0
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        asked = tokenizer([prompt for prompt, _ in batch], return_tensors="pt", padding=True, padding_side="left")
        asked = {name: asked[name].to(model.device) for name in ("input_ids", "attention_mask")}
        tokens = model.generate(
            **asked, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        texts = tokenizer.batch_decode(tokens[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        right += sum(text.strip() == answer.strip() for text, (_, answer) in zip(texts, batch, strict=True))
    counts = distributed.gather((right, len(pairs)))
    return sum(right for right, _ in counts) / sum(count for _, count in counts)
