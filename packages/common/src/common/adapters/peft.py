"""Adapters of peft."""

from peft import LoraConfig

from common.finetuning import Lora

__all__ = ["build_adapter"]


def build_adapter(lora: Lora) -> LoraConfig | None:
    """None: all parameters are trained."""
    if lora.rank == 0:
        return None
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
