"""What assets=embedded is made of: small models and data from installed packages, for a first try and for tests.

Everything is written as a user would bring it: a folder with a model and its processor (`from_pretrained`), folders of
images with a metadata.jsonl (`load_dataset`).
"""

import json
import random
from pathlib import Path
from typing import Any

from common.assets import Embedded

SEED = 0  # of splits and initial weights
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def digits(folder: Path) -> None:
    """1,797 handwritten digits of 8 x 8 pixels (scikit-learn's), with captions and questions; 360 are held out."""
    from PIL import Image
    from sklearn.datasets import load_digits

    loaded: Any = load_digits(return_X_y=True)
    images, labels = loaded
    order = list(range(len(images)))
    random.Random(SEED).shuffle(order)
    for split, rows in (("test", order[:360]), ("train", order[360:])):
        (folder / split).mkdir()
        lines: list[str] = []
        for row in rows:
            name = f"{row:04}.png"
            Image.fromarray((images[row].reshape(8, 8) * 15.9).astype("uint8")).save(folder / split / name)
            word = WORDS[labels[row]]
            told = {"text": f"a picture of the digit {word}", "prompt": "which digit is this", "completion": word}
            lines.append(json.dumps({"file_name": name} | told) + "\n")
        (folder / split / "metadata.jsonl").write_text("".join(lines))


def tiny_blip(folder: Path) -> None:
    """0.2 M parameters, untrained, with a vocabulary of the words of the captions; images of 16 x 16 pixels."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    vocabulary = {word: number for number, word in enumerate([*special, "a", "picture", "of", "the", "digit", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="[DEC]", eos_token="[SEP]", mask_token="[MASK]", model_max_length=32, **names
    )
    pixels = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    transformers.BlipProcessor(pixels, tokenizer).save_pretrained(folder)
    transformers.set_seed(SEED)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "encoder_hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32, "bos_token_id": 5,
        "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0, "projection_dim": 64,
    }  # fmt: skip
    vision = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
        "patch_size": 4, "projection_dim": 64, "initializer_range": 0.02,  # 1e-10 by default: for pretrained ones
    }  # fmt: skip
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=64)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)


def tiny_idefics3(folder: Path) -> None:
    """0.2 M parameters, untrained: the architecture of SmolVLM; an image of 16 x 16 pixels becomes four tokens."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    image = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    special = ["<pad>", "<unk>", "<bos>", *image, "User:", "Assistant:"]
    question = ["which", "digit", "is", "this"]
    vocabulary = {word: number for number, word in enumerate([*special, *question, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<end_of_utterance>",
        additional_special_tokens=image, model_max_length=64,
    )  # fmt: skip
    pixels = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, do_image_splitting=False
    )
    template = (
        "{% for message in messages %}{{ 'User: ' if message['role'] == 'user' else 'Assistant: ' }}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}"
        "<end_of_utterance> {% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
    )
    transformers.Idefics3Processor(pixels, tokenizer, image_seq_len=4, chat_template=template).save_pretrained(folder)
    transformers.set_seed(SEED)
    text = {
        "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0,
        "bos_token_id": 2, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
        "patch_size": 4,
    }  # fmt: skip
    image_token_id: Any = tokenizer.convert_tokens_to_ids("<image>")
    config = transformers.Idefics3Config(
        text_config=text, vision_config=vision, scale_factor=2, image_token_id=image_token_id
    )
    transformers.Idefics3ForConditionalGeneration(config).save_pretrained(folder)


EMBEDDED = {
    "digits": Embedded(("sklearn", "PIL"), digits),
    "tiny_blip": Embedded((), tiny_blip),
    "tiny_idefics3": Embedded((), tiny_idefics3),
}
