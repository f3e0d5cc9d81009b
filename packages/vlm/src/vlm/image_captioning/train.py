"""Image captioning: BLIP fine-tuned with Hugging Face's Trainer, on one process or several (DDP), with exact resume.

uv run --package vlm --extra embedded vlm-launch image_captioning compute=local assets=embedded   # no network
uv run --package vlm vlm-launch image_captioning compute=killarney/h100_1x trainer.learning_rate=1e-4,5e-5
uv run --package vlm vlm-launch image_captioning compute=killarney/l40s_4x assets=local \\
    assets.model=/path/to/model assets.data=/path/to/images

Li et al. 2022, https://arxiv.org/abs/2201.12086.
"""

from pathlib import Path
from typing import Any

import matplotlib
import sacrebleu
import torch
import transformers
from datasets import ClassLabel, DatasetDict, Image
from matplotlib import pyplot
from transformers import AutoProcessor, BlipForConditionalGeneration

from common import distributed
from common.adapters.datasets import load_splits
from common.adapters.transformers import Resumable, arguments, latest_checkpoint
from common.assets import locate
from common.checkpoint import parameters_sha256
from common.config import require
from vlm.image_captioning.schema import Assets, Config
from vlm.images import read, without_bad_images, workers_of
from vlm.schema import EMBEDDED


class ResumableTrainer(Resumable, transformers.Trainer):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Saves, stops and resumes at step boundaries: see common.adapters.transformers."""


def build_model(folder: Path, processor: Any) -> Any:
    model: Any = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    pixels, wanted = processor.image_processor.size["height"], model.config.vision_config.image_size
    require(pixels == wanted, f"{folder}: the processor makes images of {pixels} pixels, the model reads {wanted}")
    words, known = len(processor.tokenizer), model.config.text_config.vocab_size
    require(words <= known, f"{folder}: the processor knows {words} tokens, the model {known}")
    return model


def build_data(assets: Assets, folder: Path, on_bad_image: str) -> Any:
    """{"train": ..., "eval": ...} of image (bytes or path), caption and row (its number in the data set)."""
    data = load_splits(assets, folder, assets.train_split, assets.eval_split, assets.eval_share)
    names = data["train"].column_names
    for column in (assets.image_column, assets.caption_column):
        require(column in names, f"{assets.data} has no column {column}: it has {', '.join(names)}")
    feature = data["train"].features[assets.caption_column]
    classes: list[str] | None = feature.names if isinstance(feature, ClassLabel) else None
    template = assets.caption_template or "{}"

    def caption(rows: list[Any], numbers: list[int]) -> dict[str, list[Any]]:
        texts = [template.format(classes[row] if classes else row) if row is not None else "" for row in rows]
        return {"caption": texts, "row": numbers}

    prepared: Any = DatasetDict()
    for part, split in data.items():
        split = split.cast_column(assets.image_column, Image(decode=False))
        split = split.map(caption, batched=True, with_indices=True, input_columns=assets.caption_column)
        split = split.select_columns([assets.image_column, "caption", "row"])
        if assets.image_column != "image":
            split = split.rename_column(assets.image_column, "image")
        empty = next((row for row, text in enumerate(split["caption"]) if not text.strip()), None)
        require(empty is None, f"{assets.data}, {part} split, row {empty} has no caption")
        if on_bad_image == "skip":
            split = without_bad_images(split, part)
        prepared[part] = split
    return prepared


class Collator:
    """Decodes, resizes and tokenises a batch; in the workers, where there are any."""

    def __init__(self, processor: Any, bos_token_id: int, max_length: int) -> None:
        self._processor = processor
        self._bos_token_id = bos_token_id
        self._max_length = max_length

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """pixel_values [B, 3, H, W], input_ids, attention_mask and labels [B, T]; no loss on padding."""
        images = [read(row["image"], row["row"]) for row in rows]
        captions = [row["caption"] for row in rows]
        batch = self._processor(
            images=images,
            text=captions,
            padding=True,
            truncation=True,
            max_length=self._max_length,
            return_tensors="pt",
        )
        batch["input_ids"][:, 0] = self._bos_token_id  # what generation begins with
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return dict(batch)


@torch.inference_mode()
def captions_of(model: Any, processor: Any, rows: Any, batch_size: int, max_new_tokens: int) -> list[str]:
    """Generated greedily, in the order of the rows. Ranks divide the work; all get the whole."""
    model.eval()
    mine: list[str] = []
    numbers = list(range(distributed.rank(), len(rows), distributed.world_size()))
    for start in range(0, len(numbers), batch_size):
        batch = [rows[number] for number in numbers[start : start + batch_size]]
        pixels = processor(images=[read(row["image"], row["row"]) for row in batch], return_tensors="pt").pixel_values
        tokens = model.generate(pixel_values=pixels.to(model.device), max_new_tokens=max_new_tokens, num_beams=1)
        mine += [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    parts = distributed.gather(mine)
    return [parts[number % len(parts)][number // len(parts)] for number in range(len(rows))]


def draw_grid(rows: Any, generated: list[str]) -> Any:
    """Images with the generated and, where it differs, the true caption."""
    matplotlib.use("agg")
    wide = min(4, len(rows))
    figure, axes = pyplot.subplots(
        -(-len(rows) // wide), wide, figsize=(3 * wide, 3 * -(-len(rows) // wide)), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, row, text in zip(axes.flat, rows, generated, strict=False):
        axis.imshow(read(row["image"], row["row"]))
        right = text == row["caption"]
        axis.set_title(text if right else f"{text}\n({row['caption']})", color="black" if right else "red", fontsize=8)
    figure.tight_layout()
    return figure


def train(config: Config) -> dict[str, float]:
    cfg = config.trainer

    # ----- build -----
    distributed.start()
    gpu = torch.cuda.is_available()
    bf16 = gpu and torch.cuda.is_bf16_supported()
    args = arguments(
        config,
        seed=cfg.seed,
        num_train_epochs=cfg.num_epochs,
        per_device_train_batch_size=cfg.batch_size,
        per_device_eval_batch_size=cfg.eval_batch_size,
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=cfg.warmup,
        weight_decay=cfg.weight_decay,
        bf16=bf16,
        fp16=gpu and not bf16,
        logging_steps=cfg.print_every,
        eval_strategy="steps" if config.assets.evaluated else "no",
        eval_steps=cfg.eval_steps,
        prediction_loss_only=True,
        remove_unused_columns=False,  # the collator needs them
        dataloader_num_workers=workers_of(config, cfg.workers),
    )
    folders = locate(config, config.assets, EMBEDDED)
    processor = AutoProcessor.from_pretrained(folders.model)
    with args.main_process_first(desc="reading captions"):
        data = build_data(config.assets, folders.data, cfg.on_bad_image)
    transformers.set_seed(cfg.seed)
    model = build_model(folders.model, processor)

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
        data_collator=Collator(processor, model.config.text_config.bos_token_id, cfg.max_length),
    )
    trainer.train(resume_from_checkpoint=checkpoint)

    # ----- finish -----
    step = trainer.state.global_step
    metrics: dict[str, float] = {}
    if config.assets.evaluated:
        metrics["eval_loss"] = trainer.evaluate()["eval_loss"]
        generated = captions_of(model, processor, data["eval"], cfg.eval_batch_size, cfg.max_new_tokens)
        true = list(data["eval"]["caption"])
        metrics["eval_exact_match"] = sum(a == b for a, b in zip(generated, true, strict=True)) / len(true)
        metrics["eval_bleu"] = sacrebleu.corpus_bleu(generated, [true]).score
        if distributed.rank() == 0:
            shown = data["eval"].select(range(min(cfg.grid_images, len(true))))
            grid = draw_grid(shown, generated)
            grid.savefig(Path(config.paths.out_dir, "captions.png"), dpi=80)
            trainer.tracker.figure("eval/captions", grid, step)
    return trainer.lines.metrics.finish(step, parameters_sha256(model.named_parameters()), **metrics)
