"""The fields of llm.dpo: types, units, and what contradicts itself. The rest: common.finetuning."""

from dataclasses import dataclass

from omegaconf import MISSING

from common import assets
from common.config import Config as CommonConfig
from common.config import require
from common.finetuning import FineTuning
from llm.schema import EMBEDDED, check_length


@dataclass
class Assets(assets.Assets):
    """The data set has the columns `prompt`, `chosen` and `rejected`, or conversations `chosen` and `rejected`."""

    train_split: str = MISSING
    eval_split: str = MISSING


@dataclass
class Trainer(FineTuning):
    beta: float = MISSING  # how much a distance from the reference costs (Rafailov et al. 2023, equation 7)
    precompute_reference: bool = MISSING  # its log-probabilities once, before training: no second model in memory

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, f"trainer.beta must be positive, got {self.beta}")


@dataclass
class Config(CommonConfig):
    assets: Assets = MISSING
    trainer: Trainer = MISSING

    def before_submission(self) -> None:
        folders = assets.check(self, self.assets, EMBEDDED)
        check_length(folders, "trainer.max_length", self.trainer.max_length)
