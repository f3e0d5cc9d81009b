"""A language model small enough to learn on one core: a Llama of 0.1 M untrained parameters over single characters.

For `assets=embedded`: a first try and the tests, without a network.
"""

from pathlib import Path

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

__all__ = ["save_tiny_llama"]

SEED = 0  # of the initial weights
_SPECIAL = ["[PAD]", "[UNK]", "[EOS]"]


def save_tiny_llama(folder: Path, characters: str, tied: bool) -> None:
    """Write the model and its tokenizer, as `from_pretrained` reads them.

    Args:
        characters: the vocabulary.
        tied: whether input and output share their embeddings.
    """
    vocabulary = {token: number for number, token in enumerate([*_SPECIAL, *characters])}
    by_character = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    by_character.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    by_character.decoder = decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=by_character, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]", model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    transformers.set_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
