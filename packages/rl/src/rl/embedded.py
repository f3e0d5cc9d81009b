"""What assets=embedded is made of: a small model and a verifiable task, for a first try and for tests."""

import itertools
import json
import random
from pathlib import Path

from common.assets import Embedded

SEED = 0  # of the split


def largest_digit(folder: Path) -> None:
    """The largest of three digits: {"question": "4,7,2=", "answer": "#### 7"}; 100 of the 1,000 are held out."""
    triples = list(itertools.product(range(10), repeat=3))
    random.Random(SEED).shuffle(triples)
    for split, rows in (("test", triples[:100]), ("train", triples[100:])):
        lines = [
            json.dumps({"question": f"{','.join(map(str, digits))}=", "answer": f"#### {max(digits)}"}) + "\n"
            for digits in rows
        ]
        (folder / f"{split}.jsonl").write_text("".join(lines))


def tiny_llama(folder: Path) -> None:
    """0.1 M parameters, untrained, with a vocabulary of characters: digits, a comma and an equals sign."""
    from common.adapters.tiny_llama import save_tiny_llama

    save_tiny_llama(folder, "0123456789,=", tied=False)


EMBEDDED = {
    "largest_digit": Embedded((), largest_digit),
    "tiny_llama": Embedded((), tiny_llama),
}
