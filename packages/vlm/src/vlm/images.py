"""Reading images: the part that is the same for every template of this package."""

import io
import logging
import os
from typing import Any

from PIL import Image

from common.config import Config
from common.errors import UserError

log = logging.getLogger(__name__)


def read(stored: dict[str, Any], row: int) -> Image.Image:
    """A whole image in RGB.

    Args:
        stored: what `datasets` keeps of an image that is not decoded: {"bytes": ..., "path": ...}, one may be None.
        row: its number in the data set, for people.

    Raises:
        UserError: it cannot be read, naming it.
    """
    try:
        source = stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])
        with Image.open(source) as image:
            return image.convert("RGB")  # reads all of it: a truncated file fails here
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = f" ({stored['path']})" if stored["path"] else ""
        raise UserError(
            f"image {row}{name} cannot be read: {error}. Mend it, or leave such images out: trainer.on_bad_image=skip"
        ) from error


def without_bad_images(split: Any, part: str) -> Any:
    """Reads every image of a split once (cached by content) and leaves out those that cannot be read.

    Args:
        split: a data set with `image`, not decoded, and `row`, their numbers.
        part: its name in the log.
    """
    kept = split.filter(_readable, input_columns="image")
    if bad := sorted(set(split["row"]) - set(kept["row"])):
        rows = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        log.warning(
            "%d of %d images of the %s split cannot be read and are left out: rows %s", len(bad), len(split), part, rows
        )
    return kept


def workers_of(config: Config, wanted: int | None) -> int:
    """How many processes read images for each process that trains: one less than it has cores, if not said."""
    cores = min(config.compute.cpus_per_task, len(os.sched_getaffinity(0)))
    return cores - 1 if wanted is None else wanted


def _readable(stored: dict[str, Any]) -> bool:
    try:
        read(stored, 0)
    except UserError:
        return False
    return True
