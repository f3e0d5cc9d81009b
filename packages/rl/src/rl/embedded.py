"""What assets=embedded is made of: a small model and a verifiable task, for a first try and for tests."""

import itertools
import json
import random
from pathlib import Path

from common.assets import Embedded

SEED = 0  # of the split and the initial weights


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
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    special = ["[PAD]", "[UNK]", "[EOS]"]
    vocabulary = {token: number for number, token in enumerate([*special, *"0123456789,="])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]", model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    transformers.set_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


EMBEDDED = {
    "largest_digit": Embedded((), largest_digit),
    "tiny_llama": Embedded((), tiny_llama),
}
