"""Hugging Face's data sets."""

import sys
from pathlib import Path
from typing import Any

from datasets import DatasetDict, disable_progress_bars, load_dataset

from common.assets import Assets
from common.config import require


def load_splits(assets: Assets, folder: Path, train: str, evaluation: str) -> Any:
    """{"train": ..., "eval": ...}: the two splits of a data set.

    Args:
        assets: names the data set in messages.
        folder: a data set of the hub, or files named after their splits.
        train: the split to train with.
        evaluation: the split that is held out.

    Raises:
        UserError: a split does not exist or is empty.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()  # a log would keep every state of them
    loaded: Any = load_dataset(str(folder), assets.data_config)
    data: Any = DatasetDict()
    for part, split in {"train": train, "eval": evaluation}.items():
        require(split in loaded, f"assets.{part}_split={split}: {assets.data} has {', '.join(map(str, loaded))}")
        data[part] = loaded[split]
        require(len(data[part]) > 0, f"the split {split} of {assets.data} is empty")
    return data
