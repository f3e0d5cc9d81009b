"""Hugging Face's data sets."""

import logging
import sys
from pathlib import Path
from typing import Any

from datasets import DatasetDict, disable_progress_bars, load_dataset

from common.assets import Assets
from common.config import require

__all__ = ["load_splits"]

log = logging.getLogger(__name__)

SEED = 0  # of what is held out where the data set has no split for it: the same for all runs


def load_splits(assets: Assets, folder: Path, train: str, evaluation: str | None, held_out: float = 0.0) -> Any:
    """{"train": ..., "eval": ...}: the two splits of a data set; no "eval" where there is none and nothing is held out.

    Args:
        assets: names the data set in messages.
        folder: a data set of the hub, or files named after their splits.
        train: the split to train with.
        evaluation: the split to evaluate with; None: the data set has none.
        held_out: the share of the training split to evaluate with instead.

    Raises:
        UserError: a split does not exist or is empty.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()  # a log would keep every state of them
    loaded: Any = load_dataset(str(folder), assets.data_config)
    data: Any = DatasetDict()
    for part, split in {"train": train, "eval": evaluation}.items():
        if split is not None:
            require(split in loaded, f"assets.{part}_split={split}: {assets.data} has {', '.join(map(str, loaded))}")
            data[part] = loaded[split]
            require(len(data[part]) > 0, f"the split {split} of {assets.data} is empty")
    if evaluation is None and held_out > 0:
        parts = data["train"].train_test_split(test_size=held_out, seed=SEED)
        data = DatasetDict({"train": parts["train"], "eval": parts["test"]})
        log.info("%d of %d rows are held out for evaluation", len(data["eval"]), len(data["eval"]) + len(data["train"]))
    elif evaluation is None:
        log.warning("assets.eval_split=null and assets.eval_share=0: nothing is evaluated")
    return data
