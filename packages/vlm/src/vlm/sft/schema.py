"""The fields of vlm.sft: types, units, and what contradicts itself. The rest: common.finetuning."""

from dataclasses import dataclass

from omegaconf import MISSING

from common import assets
from common.config import Config as CommonConfig
from common.finetuning import FineTuning
from vlm.schema import EMBEDDED, HeldOut, check_images


@dataclass
class Assets(HeldOut):
    """The data set has `image` or `images`, and `messages`, or `prompt` and `completion` (text or messages)."""


@dataclass
class Trainer(FineTuning):
    on_bad_image: str = MISSING  # fail, or skip: leave out images that cannot be read (all are read once before)
    workers: int | None = MISSING  # processes that read images; null: one less than the job's cores for a process
    completion_only: bool = MISSING  # loss on the answers alone: `completion`, or the assistant's messages

    def __post_init__(self) -> None:
        super().__post_init__()
        check_images(self.on_bad_image, self.workers)


@dataclass
class Config(CommonConfig):
    assets: Assets = MISSING
    trainer: Trainer = MISSING

    def before_submission(self) -> None:
        assets.check(self, self.assets, EMBEDDED)
