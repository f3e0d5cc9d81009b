"""A language model that learns from verifiable rewards: GRPO with TRL, with exact resume.

uv run --package rl --extra embedded rl-launch grpo compute=local assets=embedded   # no network
uv run --package rl rl-launch grpo compute=killarney/h100_1x trainer.rewards=[math_verify,format] \\
    trainer.reward_weights=[1,0.2]
uv run --package rl rl-launch grpo compute=killarney/h100_1x rollout=vllm_server rollout.compute=killarney/l40s_1x

GRPO: Shao et al. 2024, https://arxiv.org/abs/2402.03300
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import DatasetDict, concatenate_datasets
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import distributed
from common.adapters.datasets import load_splits
from common.adapters.peft import build_adapter
from common.adapters.transformers import Resumable, arguments, latest_checkpoint
from common.assets import locate
from common.checkpoint import parameters_sha256
from common.config import require
from rl.grpo import rewards
from rl.grpo.rollouts import ServerRollouts
from rl.grpo.schema import EMBEDDED, Assets, Config, Trainer

log = logging.getLogger(__name__)


class ResumableTrainer(Resumable, trl.GRPOTrainer):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Saves, stops and resumes at step boundaries: see common.adapters.transformers.

    Args:
        trainer: the fields of the template.
    """

    asks_outside = True

    def __init__(self, *, trainer: Trainer, **others: Any) -> None:
        super().__init__(**others)
        self.fields = trainer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        args: Any = self.args
        if self._step % (args.steps_per_generation * self.num_iterations) == 0:
            self._buffered_inputs = None  # not used again, and not to be saved
        return loss

    def take_completions_from(self, rollouts: ServerRollouts) -> None:
        """As from TRL's own vLLM server, with its correction for the server's arithmetic."""
        self.use_vllm, self.vllm_mode, self._last_loaded_step = True, "server", -1
        self.vllm_generation = rollouts

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The rewards of the most likely completion of each held-out prompt, averaged; some are shown."""
        held_out: Any = self.eval_dataset
        rows = answer(self, list(held_out)[distributed.rank() :: distributed.world_size()])
        rows = [row for part in distributed.gather(rows) for row in part]
        names = self.reward_func_names
        means = {f"eval_{name}": sum(row[name] or 0.0 for row in rows) / len(rows) for name in names}
        self.log(dict(means))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, means)
        if distributed.rank() == 0:
            self.show(rows[: self.fields.samples])
        return means

    def show(self, rows: list[dict[str, Any]]) -> None:
        """outputs/samples/step-<step>.jsonl, and a table beside the metrics."""
        step = self.state.global_step
        folder = Path(str(self.args.output_dir), "samples")
        folder.mkdir(exist_ok=True)
        (folder / f"step-{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if rows:
            self.tracker.table("samples", rows, step)


def build_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def build_tokenizer(folder: Path) -> Any:
    """With a token to pad with: the end-of-text token, if it has none of its own."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_data(assets: Assets, folder: Path, tokenizer: Any, cfg: Trainer) -> Any:
    """{"train": ..., "eval": ...} of `prompt` (a conversation, where the model has a chat template) and `target`."""
    data = load_splits(assets, folder, assets.train_split, assets.eval_split)
    names = data["train"].column_names
    for column in (assets.prompt_column, assets.answer_column):
        require(column in names, f"{assets.data} has no column {column}: it has {', '.join(names)}")

    def row(example: dict[str, str]) -> dict[str, Any]:
        question, found = example[assets.prompt_column], re.search(assets.target_pattern, example[assets.answer_column])
        require(found is not None, f"assets.target_pattern finds nothing in {example[assets.answer_column][-200:]!r}")
        assert found is not None
        prompt: Any = question
        if tokenizer.chat_template:
            system = [{"role": "system", "content": assets.system_prompt}] if assets.system_prompt else []
            prompt = [*system, {"role": "user", "content": question}]
        return {"prompt": prompt, "target": found[1].strip()}

    def fits(example: dict[str, Any]) -> bool:
        return len(tokenize(tokenizer, example["prompt"])) <= cfg.max_length - cfg.max_new_tokens

    prepared: Any = DatasetDict()
    for part, rows in (("train", assets.train_rows), ("eval", assets.eval_rows)):
        wanted = data[part].select(range(min(rows or len(data[part]), len(data[part]))))
        prepared[part] = wanted.map(row, remove_columns=names).filter(fits)
        left = len(prepared[part])
        room = f"trainer.max_new_tokens={cfg.max_new_tokens}"
        require(left > 0, f"no prompt of assets.{part}_split leaves room for {room}")
        if left < len(wanted):
            log.warning("%d of %d prompts (%s) are too long and left out", len(wanted) - left, len(wanted), part)
    return prepared


def tokenize(tokenizer: Any, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]


@torch.inference_mode()
def answer(trainer: ResumableTrainer, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """[{"prompt", "completion", "target", reward: value, ...}] by greedy decoding."""
    cfg = trainer.fields
    tokenizer: Any = trainer.processing_class
    functions: Any = trainer.reward_funcs
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    model.eval()
    ids: list[list[int]] = []
    for start in range(0, len(rows), cfg.eval_batch_size):
        batch = [tokenize(tokenizer, row["prompt"]) for row in rows[start : start + cfg.eval_batch_size]]
        asked = tokenizer.pad({"input_ids": batch}, return_tensors="pt").to(model.device)
        tokens = model.generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            max_new_tokens=cfg.max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )[:, asked["input_ids"].shape[1] :]
        ids += [[token for token in line if token != tokenizer.pad_token_id] for line in tokens.tolist()]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    whole = {"prompts": [row["prompt"] for row in rows], "target": [row["target"] for row in rows]}
    values = {f.__name__: f(**whole, completions=texts, completion_ids=ids) for f in functions}
    return [
        {"prompt": rewards.text(row["prompt"]), "completion": texts[number], "target": row["target"]}
        | {name: value[number] for name, value in values.items()}
        for number, row in enumerate(rows)
    ]


def train(config: Config) -> dict[str, float]:
    cfg = config.trainer

    # ----- build -----
    distributed.start()
    gpu = torch.cuda.is_available()
    args = arguments(
        config,
        kind=trl.GRPOConfig,
        seed=cfg.seed,
        num_generations=cfg.num_generations,
        max_completion_length=cfg.max_new_tokens,
        num_iterations=cfg.num_iterations,
        temperature=cfg.temperature,
        beta=cfg.beta,
        reward_weights=cfg.reward_weights,
        shuffle_dataset=False,  # its order could not be resumed; see the epochs below
        per_device_train_batch_size=cfg.batch_size,
        per_device_eval_batch_size=cfg.num_generations,  # of TRL's own evaluation, which is not used
        gradient_accumulation_steps=cfg.accumulation,
        num_train_epochs=1,
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=cfg.warmup,
        weight_decay=cfg.weight_decay,
        activation_checkpointing=cfg.activation_checkpointing,
        bf16=gpu and torch.cuda.is_bf16_supported(),
        logging_steps=cfg.logging_steps,
        eval_strategy="steps",
        eval_steps=cfg.eval_steps,
        use_vllm=config.rollout.kind == "vllm_colocate",
        vllm_gpu_memory_utilization=config.rollout.gpu_share,
    )
    folders = locate(config, config.assets, EMBEDDED)
    tokenizer = build_tokenizer(folders.model)
    data = build_data(config.assets, folders.data, tokenizer, cfg)
    epochs = concatenate_datasets([data["train"].shuffle(cfg.seed + epoch) for epoch in range(cfg.num_epochs)])
    transformers.set_seed(cfg.seed)
    model = build_model(folders.model)

    # ----- resume -----
    checkpoint = latest_checkpoint(config)

    # ----- train -----
    trainer = ResumableTrainer(
        config=config,
        trainer=cfg,
        save_steps=cfg.save_steps,
        model=model,
        args=args,
        reward_funcs=rewards.build(cfg),
        train_dataset=epochs,
        eval_dataset=data["eval"],
        processing_class=tokenizer,
        peft_config=build_adapter(cfg.lora),
    )
    rollouts = ServerRollouts(trainer, config, config.rollout.wait_min * 60)
    if config.rollout.kind == "vllm_server":
        trainer.take_completions_from(rollouts)
    trainer.train(resume_from_checkpoint=checkpoint)

    # ----- finish -----
    rollouts.close()
    metrics = trainer.evaluate()
    model = trainer.accelerator.unwrap_model(trainer.model)
    step = trainer.state.global_step
    return trainer.lines.metrics.finish(step, parameters_sha256(model.named_parameters()), **metrics)
