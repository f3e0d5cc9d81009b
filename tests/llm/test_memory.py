"""The estimate of finetune_distributed against what torch's memory tracker counts in a run without data or a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from llm.finetune_distributed.memory import Model, Setup, estimate

BATCH, BLOCK, LAYERS = 8, 512, 6


def counted(config: Any, checkpointing: bool) -> tuple[int, float]:
    """(parameters, bytes at the peak) of training steps with two accumulated backward passes each, in bfloat16."""
    import torch
    import transformers
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    with FakeTensorMode():
        model = transformers.AutoModelForCausalLM.from_config(config)
        if checkpointing:
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        rows = torch.zeros(BATCH, BLOCK, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(model, optimizer, rows)
        with tracker:
            for backward in range(3):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = model(input_ids=rows, labels=rows, use_cache=False).loss
                loss.backward()
                if backward == 0:  # the optimizer has its state from here on
                    optimizer.step()
                    optimizer.zero_grad()
                tracker.reset_mod_stats()
        (device,) = tracker.get_tracker_snapshot("peak").values()
        return sum(parameter.numel() for parameter in model.parameters()), device["Total"]


@pytest.mark.learns
@pytest.mark.minutes(1)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kind", "hidden", "intermediate", "vocabulary"),
    [("gpt_neox", 2048, 8192, 50_304), ("llama", 2048, 8192, 128_256), ("llama", 960, 2560, 49_152)],
    ids=["Pythia 1B", "Llama 1B", "SmolLM2 360M"],
)
def test_the_estimate_is_within_a_tenth_of_what_is_allocated(
    kind: str, hidden: int, intermediate: int, vocabulary: int, checkpointing: bool
) -> None:
    import transformers

    config = transformers.AutoConfig.for_model(
        kind, hidden_size=hidden, intermediate_size=intermediate, vocab_size=vocabulary, num_hidden_layers=LAYERS,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64 // 3 if hidden == 960 else 8,
        tie_word_embeddings=kind == "llama",
    )  # fmt: skip
    parameters, peak = counted(config, checkpointing)
    model = Model(parameters, hidden, intermediate, kind == "llama", LAYERS, vocabulary)
    guessed = sum(estimate(model, Setup("single", 1, BATCH, 2, BLOCK, checkpointing)).values())
    assert guessed == pytest.approx(peak, rel=0.1)
