"""Names and checks that templates of this package have in common."""

from common import assets
from common.assets import Folders
from common.config import require

EMBEDDED = "llm.embedded"  # the module that makes what assets=embedded names


def check_length(folders: Folders | None, name: str, tokens: int) -> None:
    """Before submission, of a model whose files are there.

    Args:
        name: of the field, for people.

    Raises:
        UserError: longer than the model can read.
    """
    limit = assets.context_length(folders.model) if folders else None
    require(limit is None or tokens <= limit, f"{name}={tokens}, but the model reads {limit} tokens at most")
