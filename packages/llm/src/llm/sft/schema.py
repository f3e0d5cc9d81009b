"""The fields of llm.sft: types, units, and what contradicts itself. The rest: common.finetuning."""

from dataclasses import dataclass

from omegaconf import MISSING

from common import assets
from common.config import Config as CommonConfig
from common.finetuning import FineTuning
from llm.schema import EMBEDDED, check_length


@dataclass
class Assets(assets.Assets):
    """The data set has the columns `messages`, or `prompt` and `completion`, or `text` (TRL's data set formats)."""

    train_split: str = MISSING
    eval_split: str = MISSING


@dataclass
class Trainer(FineTuning):
    packing: bool = MISSING  # several examples in one row of max_length
    completion_only: bool = MISSING  # loss on the answers alone: `completion`, or the assistant's messages


@dataclass
class Config(CommonConfig):
    assets: Assets = MISSING
    trainer: Trainer = MISSING

    def before_submission(self) -> None:
        folders = assets.check(self, self.assets, EMBEDDED)
        check_length(folders, "trainer.max_length", self.trainer.max_length)
