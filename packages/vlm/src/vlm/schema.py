"""Fields and checks that templates of this package have in common."""

from dataclasses import dataclass

from omegaconf import MISSING

from common import assets
from common.config import require

EMBEDDED = "vlm.embedded"  # the module that makes what assets=embedded names
ON_BAD_IMAGE = ("fail", "skip")


@dataclass
class HeldOut(assets.Assets):
    train_split: str = MISSING
    eval_split: str | None = MISSING  # null: the data set has none
    eval_share: float = MISSING  # without eval_split: share of the training split that is held out; 0: no evaluation

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.eval_share < 1, f"assets.eval_share must be in [0, 1), got {self.eval_share}")

    @property
    def evaluated(self) -> bool:
        return self.eval_split is not None or self.eval_share > 0


def check_images(on_bad_image: str, workers: int | None) -> None:
    """Raises:
    UserError: no such way to treat bad images; fewer than no workers.
    """
    require(on_bad_image in ON_BAD_IMAGE, f"trainer.on_bad_image is one of fail, skip, not {on_bad_image}")
    require(workers is None or workers >= 0, f"trainer.workers must not be negative, got {workers}")
