"""The fields of vlm.image_captioning: types, units, and what contradicts itself."""

from dataclasses import dataclass

from omegaconf import MISSING

from common import assets
from common.config import Config as CommonConfig
from common.config import require
from vlm.schema import EMBEDDED, HeldOut, check_images


@dataclass
class Assets(HeldOut):
    image_column: str = MISSING
    caption_column: str = MISSING  # of captions, or of classes
    caption_template: str | None = MISSING  # makes a caption of a class, e.g. "a photo of a {}"; null: it is one

    def __post_init__(self) -> None:
        super().__post_init__()
        template = self.caption_template
        require(template is None or "{}" in template, f"assets.caption_template={template} has no {{}} for the class")


@dataclass
class Trainer:
    num_epochs: int = MISSING
    batch_size: int = MISSING  # images per step and process
    eval_batch_size: int = MISSING  # images per process
    learning_rate: float = MISSING  # the highest; falls to 0 along a cosine
    warmup: float = MISSING  # share of all steps in which the learning rate rises
    weight_decay: float = MISSING
    max_length: int = MISSING  # tokens of a caption; longer ones are cut
    max_new_tokens: int = MISSING  # of a generated caption
    on_bad_image: str = MISSING  # fail, or skip: leave out images that cannot be read (all are read once before)
    workers: int | None = MISSING  # processes that read images; null: one less than the job's cores for a process
    print_every: int = MISSING  # optimizer steps between two lines of metrics.jsonl
    save_steps: int = MISSING  # optimizer steps between two checkpoints; requeue.save_every_min applies besides
    eval_steps: int = MISSING  # optimizer steps between two evaluations
    grid_images: int = MISSING  # held-out images in outputs/captions.png
    seed: int = MISSING  # of order and dropout

    def __post_init__(self) -> None:
        for name in (
            "num_epochs", "batch_size", "eval_batch_size", "max_length", "max_new_tokens", "print_every", "save_steps",
            "eval_steps", "grid_images",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        require(self.learning_rate > 0, f"trainer.learning_rate must be positive, got {self.learning_rate}")
        require(0 <= self.warmup < 1, f"trainer.warmup is a share of the steps in [0, 1), got {self.warmup}")
        for name in ("weight_decay", "seed"):
            require(getattr(self, name) >= 0, f"trainer.{name} must not be negative, got {getattr(self, name)}")
        check_images(self.on_bad_image, self.workers)


@dataclass
class Config(CommonConfig):
    assets: Assets = MISSING
    trainer: Trainer = MISSING

    def before_submission(self) -> None:
        assets.check(self, self.assets, EMBEDDED)
