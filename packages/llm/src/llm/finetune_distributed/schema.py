"""The fields of llm.finetune_distributed: types, units, and what contradicts itself or cannot fit."""

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from common import assets
from common.config import Config as CommonConfig
from common.config import require
from llm.finetune_distributed import memory
from llm.schema import EMBEDDED, check_length

MODES = ("single", "ddp", "fsdp")


@dataclass
class Assets(assets.Assets):
    text_column: str = MISSING
    train_split: str = MISSING
    eval_split: str = MISSING


@dataclass
class Dist:
    mode: str = MISSING  # single, ddp (every process holds the whole model) or fsdp (its share of it)
    activation_checkpointing: bool = MISSING  # less memory, about a third more time

    def __post_init__(self) -> None:
        require(self.mode in MODES, f"trainer.dist.mode is one of {', '.join(MODES)}, not {self.mode}")


@dataclass
class Trainer:
    dist: Dist = MISSING
    block_size: int = MISSING  # tokens of a row; documents are joined and cut into rows
    num_epochs: int = MISSING
    max_steps: int | None = MISSING  # end after this many optimizer steps; null: with the last epoch
    batch_size: int = MISSING  # rows per process and backward pass
    eval_batch_size: int = MISSING  # rows per process
    accumulation: int = MISSING  # backward passes per optimizer step
    learning_rate: float = MISSING  # the highest; falls to 0 along a cosine
    warmup_steps: int = MISSING  # optimizer steps in which the learning rate rises
    weight_decay: float = MISSING
    export: bool = MISSING  # write the whole model to outputs/model at the end, for from_pretrained
    logging_steps: int = MISSING  # optimizer steps between two lines of metrics.jsonl
    save_steps: int = MISSING  # optimizer steps between two checkpoints; requeue.save_every_min applies besides
    eval_steps: int = MISSING  # optimizer steps between two evaluations
    seed: int = MISSING  # of order and dropout

    def __post_init__(self) -> None:
        for name in (
            "block_size", "num_epochs", "batch_size", "eval_batch_size", "accumulation", "logging_steps", "save_steps",
            "eval_steps",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        require(
            self.max_steps is None or self.max_steps >= 1,
            f"trainer.max_steps must be at least 1 or null, got {self.max_steps}",
        )
        require(self.learning_rate > 0, f"trainer.learning_rate must be positive, got {self.learning_rate}")
        for name in ("warmup_steps", "weight_decay", "seed"):
            require(getattr(self, name) >= 0, f"trainer.{name} must not be negative, got {getattr(self, name)}")


@dataclass
class Config(CommonConfig):
    # What the collection before this one called it, and what to write instead.
    renamed: ClassVar[dict[str, str]] = {
        "trainer.dist.fsdp": "trainer.dist.mode=fsdp",
        "trainer.dist.fsdp_config": "trainer.dist.activation_checkpointing; FSDP2 shards parameter by parameter and "
        "needs neither use_orig_params nor a wrap policy",
        "trainer.dist.bf16": "nothing: bf16 is used where the GPU has it",
        "trainer.dist.fp16": "nothing: fp16 is used where the GPU has no bf16",
        "trainer.model": "assets.model",
        "trainer.data": "assets.data, assets.data_config and assets.text_column",
        "trainer.train": "trainer.batch_size, trainer.accumulation, trainer.learning_rate, ... (see --help)",
    }

    assets: Assets = MISSING
    trainer: Trainer = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        mode, tasks = self.trainer.dist.mode, self.compute.tasks
        if mode == "single":
            require(tasks == 1, f"trainer.dist.mode=single, but the preset starts {tasks} processes: use ddp or fsdp")
        if mode == "fsdp":
            require(
                tasks > 1 or not self.compute.executor,
                "trainer.dist.mode=fsdp spreads a model over processes, but this preset starts one: use a preset "
                "with more GPUs, or trainer.dist.mode=single",
            )

    def before_submission(self) -> None:
        folders = assets.check(self, self.assets, EMBEDDED)
        check_length(folders, "trainer.block_size", self.trainer.block_size)
        if folders:
            memory.check(self.assets.model, folders.model, self._setup(), self.compute.gpu_memory_gb)

    def estimate(self) -> str:
        folders = assets.check(self, self.assets, EMBEDDED) or assets.locate(self, self.assets, EMBEDDED)
        return memory.table(self.assets.model, folders.model, self._setup(), self.compute.gpu_memory_gb)

    def _setup(self) -> memory.Setup:
        cfg = self.trainer
        checkpointing = cfg.dist.activation_checkpointing
        return memory.Setup(
            cfg.dist.mode, self.compute.tasks, cfg.batch_size, cfg.accumulation, cfg.block_size, checkpointing
        )
