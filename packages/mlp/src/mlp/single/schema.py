"""The fields of mlp.single: types, units, and what contradicts itself."""

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from common.config import Config as CommonConfig
from common.config import require


@dataclass
class Trainer:
    input_dim: int = MISSING  # features per sample
    hidden_dim: int = MISSING  # units of each of the two hidden layers
    num_classes: int = MISSING
    num_samples: int = MISSING  # training samples; a quarter as many are held out
    batch_size: int = MISSING  # samples per optimizer step
    learning_rate: float = MISSING
    num_epochs: int = MISSING
    log_every: int = MISSING  # optimizer steps between two lines of metrics.jsonl
    seed: int = MISSING  # of data, initial weights and order

    def __post_init__(self) -> None:
        for name in ("input_dim", "hidden_dim", "num_samples", "batch_size", "num_epochs", "log_every"):
            require(getattr(self, name) >= 1, f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        require(self.num_classes >= 2, f"trainer.num_classes must be at least 2, got {self.num_classes}")
        require(self.learning_rate > 0, f"trainer.learning_rate must be positive, got {self.learning_rate}")
        require(self.seed >= 0, f"trainer.seed must not be negative, got {self.seed}")
        require(
            self.batch_size <= self.num_samples,
            f"trainer.batch_size={self.batch_size} is more than trainer.num_samples={self.num_samples}",
        )


@dataclass
class Config(CommonConfig):
    several_processes: ClassVar[str | None] = "mlp.ddp"

    trainer: Trainer = MISSING
