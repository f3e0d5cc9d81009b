"""Fields of the templates that fine-tune a model with TRL: types, units, and what contradicts itself."""

from dataclasses import dataclass

from omegaconf import MISSING

from common.config import require

__all__ = ["FineTuning", "Lora"]


@dataclass
class Lora:
    """Hu et al. 2021, https://arxiv.org/abs/2106.09685, on every linear layer but the output's."""

    rank: int = MISSING  # 0: all parameters are trained
    alpha: int = MISSING  # the update is scaled by alpha / rank
    dropout: float = MISSING

    def __post_init__(self) -> None:
        require(self.rank >= 0, f"trainer.lora.rank must not be negative, got {self.rank}")
        require(self.alpha >= 1, f"trainer.lora.alpha must be at least 1, got {self.alpha}")
        require(0 <= self.dropout < 1, f"trainer.lora.dropout must be in [0, 1), got {self.dropout}")


@dataclass
class FineTuning:
    max_length: int = MISSING  # tokens of prompt and answer, those of images too; longer ones are cut
    num_epochs: int = MISSING
    batch_size: int = MISSING  # rows per process and backward pass
    eval_batch_size: int = MISSING  # rows per process
    accumulation: int = MISSING  # backward passes per optimizer step
    learning_rate: float = MISSING  # the highest; falls to 0 along a cosine
    warmup: float = MISSING  # share of all steps in which the learning rate rises
    weight_decay: float = MISSING
    activation_checkpointing: bool = MISSING  # less memory, about a third more time
    lora: Lora = MISSING
    exact_match: bool = MISSING  # answer the held-out prompts greedily at the end, and count the right ones
    max_new_tokens: int = MISSING  # of those answers
    logging_steps: int = MISSING  # optimizer steps between two lines of metrics.jsonl
    save_steps: int = MISSING  # optimizer steps between two checkpoints; requeue.save_every_min applies besides
    eval_steps: int = MISSING  # optimizer steps between two evaluations
    seed: int = MISSING  # of LoRA's initial weights, order and dropout

    def __post_init__(self) -> None:
        for name in (
            "max_length", "num_epochs", "batch_size", "eval_batch_size", "accumulation", "max_new_tokens",
            "logging_steps", "save_steps", "eval_steps",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        require(self.learning_rate > 0, f"trainer.learning_rate must be positive, got {self.learning_rate}")
        require(0 <= self.warmup < 1, f"trainer.warmup is a share of the steps in [0, 1), got {self.warmup}")
        require(self.weight_decay >= 0, f"trainer.weight_decay must not be negative, got {self.weight_decay}")
        require(self.seed >= 0, f"trainer.seed must not be negative, got {self.seed}")
