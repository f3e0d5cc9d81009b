"""The fields of llm.text_classification: types, units, and what contradicts itself."""

from dataclasses import dataclass

from omegaconf import MISSING

from common import assets
from common.config import Config as CommonConfig
from common.config import require
from llm.schema import EMBEDDED, check_length


@dataclass
class Assets(assets.Assets):
    text_column: str = MISSING
    label_column: str = MISSING  # of class numbers, or of class names
    num_labels: int = MISSING  # classes; checked against the data
    train_split: str = MISSING
    eval_split: str = MISSING


@dataclass
class Trainer:
    max_length: int = MISSING  # tokens; longer documents are cut
    num_epochs: int = MISSING
    batch_size: int = MISSING  # documents per step and process
    eval_batch_size: int = MISSING  # documents per process
    learning_rate: float = MISSING  # falls to 0 linearly
    weight_decay: float = MISSING
    logging_steps: int = MISSING  # optimizer steps between two lines of metrics.jsonl
    save_steps: int = MISSING  # optimizer steps between two checkpoints; requeue.save_every_min applies besides
    eval_steps: int = MISSING  # optimizer steps between two evaluations
    seed: int = MISSING  # of the classifier's initial weights, order and dropout

    def __post_init__(self) -> None:
        for name in (
            "max_length", "num_epochs", "batch_size", "eval_batch_size", "logging_steps", "save_steps", "eval_steps",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        require(self.learning_rate > 0, f"trainer.learning_rate must be positive, got {self.learning_rate}")
        require(self.weight_decay >= 0, f"trainer.weight_decay must not be negative, got {self.weight_decay}")
        require(self.seed >= 0, f"trainer.seed must not be negative, got {self.seed}")


@dataclass
class Config(CommonConfig):
    assets: Assets = MISSING
    trainer: Trainer = MISSING

    def before_submission(self) -> None:
        folders = assets.check(self, self.assets, EMBEDDED)
        check_length(folders, "trainer.max_length", self.trainer.max_length)
