"""Reading tokenizers: the part that is the same for every template of this package."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from common.config import require


def load_tokenizer(folder: Path, name: str, tokens: int) -> Any:
    """With a token to pad with: the end-of-text token, if it has none of its own.

    Args:
        name: of the field that says how many tokens are read at once, for people.

    Raises:
        UserError: the model cannot read as many.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    limit = tokenizer.model_max_length
    require(tokens <= limit, f"{name}={tokens}, but the model reads {limit} tokens at most")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
