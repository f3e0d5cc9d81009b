"""Supervised fine-tuning of a vision-language model with TRL's SFTTrainer, whole or with LoRA, with exact resume.

uv run --package vlm --extra embedded vlm-launch sft compute=local assets=embedded   # no network
uv run --package vlm vlm-launch sft compute=killarney/l40s_1x trainer.learning_rate=1e-5,2e-5
uv run --package vlm vlm-launch sft compute=killarney/l40s_4x trainer.lora.rank=16 assets=local \\
    assets.model=/path/to/model assets.data=/path/to/images
"""

from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import DatasetDict, Image, List
from transformers import AutoModelForImageTextToText, AutoProcessor

from common import distributed
from common.adapters.datasets import load_splits
from common.adapters.peft import build_adapter
from common.adapters.transformers import Resumable, arguments, latest_checkpoint
from common.assets import locate
from common.checkpoint import parameters_sha256
from common.config import require
from vlm.images import read, without_bad_images, workers_of
from vlm.schema import EMBEDDED
from vlm.sft.schema import Assets, Config

FORMATS = (["messages"], ["prompt", "completion"])


class ResumableTrainer(Resumable, trl.SFTTrainer):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Saves, stops and resumes at step boundaries: see common.adapters.transformers."""


def build_model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def build_data(assets: Assets, folder: Path, on_bad_image: str) -> Any:
    """{"train": ..., "eval": ...} of images and conversations; images are read when a row is asked for."""
    data = load_splits(assets, folder, assets.train_split, assets.eval_split, assets.eval_share)
    names = data["train"].column_names
    image = next((name for name in ("images", "image") if name in names), None)
    columns = next((wanted for wanted in FORMATS if set(wanted) <= set(names)), None)
    require(
        image is not None and columns is not None,
        f"{assets.data} has the columns {', '.join(names)}: image or images, and messages, or prompt and completion, "
        "are needed",
    )
    assert image is not None
    assert columns is not None
    several = image == "images"

    def decode(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        stored = rows[image] if several else [[one] for one in rows[image]]
        pictures = [[read(one, row) for one in some] for some, row in zip(stored, rows["row"], strict=True)]
        return {"images": pictures} | {name: [_messages(name, value) for value in rows[name]] for name in columns}

    prepared = DatasetDict()
    for part, split in data.items():
        split = split.select_columns([image, *columns]).add_column("row", list(range(len(split))))
        split = split.cast_column(image, List(Image(decode=False)) if several else Image(decode=False))
        if on_bad_image == "skip":
            require(not several, "trainer.on_bad_image=skip needs one image a row, in a column named image")
            split = without_bad_images(split, part)
        prepared[part] = split.with_transform(decode)
    return prepared


def _messages(name: str, value: Any) -> Any:
    """A plain prompt or answer as a conversation, for the chat template to know where the image comes."""
    if not isinstance(value, str):
        return value
    return [{"role": "user" if name == "prompt" else "assistant", "content": value}]


@torch.inference_mode()
def exact_match(model: Any, processor: Any, rows: Any, batch_size: int, max_new_tokens: int) -> float:
    """The share of prompts answered as expected, letter by letter, by greedy decoding. Ranks divide the work."""
    model.eval()
    numbers = list(range(distributed.rank(), len(rows), distributed.world_size()))
    right = 0
    for start in range(0, len(numbers), batch_size):
        batch = [rows[number] for number in numbers[start : start + batch_size]]
        prompts = [trl.prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in batch]
        asked = processor.apply_chat_template(
            prompts, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(model.device)  # fmt: skip
        tokens = model.generate(**asked, max_new_tokens=max_new_tokens, do_sample=False)
        texts = processor.batch_decode(tokens[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        answers = [row["completion"][0]["content"] for row in batch]
        right += sum(text.strip() == answer.strip() for text, answer in zip(texts, answers, strict=True))
    counts = distributed.gather((right, len(numbers)))
    return sum(right for right, _ in counts) / sum(count for _, count in counts)


def train(config: Config) -> dict[str, float]:
    cfg = config.trainer

    # ----- build -----
    distributed.start()
    gpu = torch.cuda.is_available()
    bf16 = gpu and torch.cuda.is_bf16_supported()
    args = arguments(
        config,
        kind=trl.SFTConfig,
        seed=cfg.seed,
        max_length=cfg.max_length,
        num_train_epochs=cfg.num_epochs,
        per_device_train_batch_size=cfg.batch_size,
        per_device_eval_batch_size=cfg.eval_batch_size,
        gradient_accumulation_steps=cfg.accumulation,
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=cfg.warmup,
        weight_decay=cfg.weight_decay,
        activation_checkpointing=cfg.activation_checkpointing,
        bf16=bf16,
        fp16=gpu and not bf16,
        logging_steps=cfg.logging_steps,
        eval_strategy="steps" if config.assets.evaluated else "no",
        eval_steps=cfg.eval_steps,
        remove_unused_columns=False,  # images are read from them when a row is asked for
        dataloader_num_workers=workers_of(config, cfg.workers),
    )
    folders = locate(config, config.assets, EMBEDDED)
    processor = AutoProcessor.from_pretrained(folders.model)
    with args.main_process_first(desc="reading data"):
        data = build_data(config.assets, folders.data, cfg.on_bad_image)
    columns = data["train"].column_names
    args.completion_only_loss = cfg.completion_only and "prompt" in columns
    args.assistant_only_loss = cfg.completion_only and "messages" in columns
    require(not cfg.exact_match or "prompt" in columns, "trainer.exact_match=true needs the columns prompt, completion")
    transformers.set_seed(cfg.seed)
    model = build_model(folders.model)

    # ----- resume -----
    checkpoint = latest_checkpoint(config)

    # ----- train -----
    trainer = ResumableTrainer(
        config=config,
        save_steps=cfg.save_steps,
        model=model,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data.get("eval"),
        processing_class=processor,
        peft_config=build_adapter(cfg.lora),
    )
    trainer.train(resume_from_checkpoint=checkpoint)

    # ----- finish -----
    metrics: dict[str, float] = {}
    model = trainer.accelerator.unwrap_model(trainer.model)
    if config.assets.evaluated:
        evaluated = trainer.evaluate()
        metrics = {name: evaluated[name] for name in ("eval_loss", "eval_mean_token_accuracy")}
        if cfg.exact_match:
            answered = exact_match(model, processor, data["eval"], cfg.eval_batch_size, cfg.max_new_tokens)
            metrics["eval_exact_match"] = answered
    step = trainer.state.global_step
    return trainer.lines.metrics.finish(step, parameters_sha256(model.named_parameters()), **metrics)
