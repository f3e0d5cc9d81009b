"""What our part of the templates on transformers and TRL costs over the bare libraries, with embedded assets.

    uv run python -m benchmarks.trainers [template ...]   # all, and tokenisation and waiting, if none is named

Training: the template's own `train`, with its trainer as it is, and with the library's trainer in its place (no mixin,
no metrics.jsonl, no TensorBoard, no checks; it saves once, in its own way). Timed are the steps, without the start
and the save at the end. Waiting: the share of the time that a loop waits for images that two processes read.
Tokenisation: `build_data` on 100,000 short documents, and `datasets.map` with the same function's tokenizer alone, both
with nothing cached. They take turns in one process; only the ratio within a pair counts. Seed 42 of the templates.
"""

import importlib
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf, open_dict

from common.config import Config, to_typed
from llm.embedded import bbc_articles
from vlm.image_captioning.train import Collator, build_data

PAIRS = 4  # an even number: whoever comes second is slower
STEPS = 100
DOCUMENTS = 100_000
PIXELS = 384
TEMPLATES = {  # what makes about STEPS steps
    "llm.text_classification": ["trainer.num_epochs=1", "trainer.batch_size=17", "trainer.max_length=64"],
    "llm.finetune_distributed": [
        "trainer.dist.mode=single",
        f"trainer.max_steps={STEPS}",
        "trainer.batch_size=4",
        "trainer.block_size=64",
    ],
    "llm.sft": ["trainer.num_epochs=1", "trainer.batch_size=79"],
    "llm.dpo": ["trainer.num_epochs=1", "trainer.batch_size=78"],
    "vlm.image_captioning": ["trainer.num_epochs=1", "trainer.batch_size=14", "trainer.print_every=20"],
    "vlm.sft": ["trainer.num_epochs=1", "trainer.batch_size=14"],
    "rl.grpo": [
        "trainer.num_epochs=1",
        "trainer.num_generations=8",
        "trainer.batch_size=64",
        "trainer.logging_steps=20",
    ],
}
QUIET = ["trainer.eval_steps=1000", "trainer.save_steps=1000"]


class Done(Exception):
    """The training has ended; what the template does after it is not timed."""

    def __init__(self, steps_per_s: float) -> None:
        self.steps_per_s = steps_per_s


class Clock(transformers.TrainerCallback):
    """CPU seconds from the end of step FIRST, when everything is warm, to that of the last."""

    FIRST = 10

    def __init__(self) -> None:
        self._ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._ends.append(time.process_time())

    def steps_per_s(self) -> float:
        return (len(self._ends) - self.FIRST) / (self._ends[-1] - self._ends[self.FIRST - 1])


def main() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="vec-bench-") as folder:
        print("| template | bare, steps per CPU s | ours | ratio, mean of pairs (goal >= 0.98) | range |")
        print("|---|---|---|---|---|")
        for template in sys.argv[1:] or TEMPLATES:
            training(template, TEMPLATES[template], Path(folder))
        if sys.argv[1:]:
            return
        print("\n| 100,000 short documents | datasets.map, s | ours, s | ratio (goal <= 1.3) |")
        print("|---|---|---|---|")
        tokenisation(Path(folder))
        waited = waiting(Path(folder))
        print(f"\nWaiting for images of {PIXELS} pixels, two workers (goal < 10 %): {waited:.1%} of the time")


def training(template: str, overrides: list[str], folder: Path) -> None:
    module: Any = importlib.import_module(f"{template}.train")
    resumable = module.ResumableTrainer
    library = resumable.__mro__[2]

    class Bare(library):
        def __init__(self, *, config: Config, save_steps: int, **others: Any) -> None:
            others.pop("trainer", None)  # the fields that rl.grpo's own trainer takes besides
            others["args"].save_strategy = transformers.trainer_utils.SaveStrategy.STEPS
            others["args"].save_steps, others["args"].save_total_limit = save_steps, 2
            super().__init__(**others)
            self.remove_callback(transformers.trainer_callback.PrinterCallback)

    def measure(kind: Any, number: int) -> float:
        class Timed(kind):
            def train(self, *args: Any, **kwargs: Any) -> Any:
                self.add_callback(clock := Clock())
                super().train(*args, **kwargs)
                raise Done(clock.steps_per_s())

        module.ResumableTrainer = Timed
        try:
            module.train(configuration(template, overrides + QUIET, folder, f"{template}_{number}_{kind.__name__}"))
        except Done as done:
            return done.steps_per_s
        finally:
            module.ResumableTrainer = resumable
        raise AssertionError("it did not train")

    measure(Bare, -1)  # warm-up: data and model are made
    pairs: list[tuple[float, float]] = []
    for number in range(PAIRS):
        if number % 2:  # who comes first alternates, and the geometric mean lets that cancel
            bare, ours = measure(Bare, number), measure(resumable, number)
        else:
            ours, bare = measure(resumable, number), measure(Bare, number)
        pairs.append((bare, ours))
    ratios = [ours / bare for bare, ours in pairs]
    bare, ours = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(
        f"| {template} | {bare:.1f} | {ours:.1f} | {statistics.geometric_mean(ratios):.3f} | "
        f"{min(ratios):.3f} to {max(ratios):.3f} |",
        flush=True,
    )


def configuration(template: str, overrides: list[str], folder: Path, name: str) -> Any:
    schema = importlib.import_module(f"{template}.schema")
    node = OmegaConf.structured(schema.Config)
    node.template = template
    ConfigStore.instance().store(name="schema", node=node)
    home = Path(schema.__file__ or "").parent
    embedded = ["assets=embedded"] if (home / "assets").exists() else []
    where = [f"compute.work_root={folder}", f"experiment_name={name}", f"paths.out_dir={folder}/{name}"]
    with initialize_config_dir(str(home), version_base="1.3"):
        cfg = compose("config", ["compute=inprocess", *embedded, *where, *overrides], return_hydra_config=True)
    with open_dict(cfg):
        del cfg["hydra"]
    Path(folder, name).mkdir()
    return to_typed(cfg)


def tokenisation(folder: Path) -> None:
    sentences = [line for text, _ in bbc_articles() for line in text.splitlines() if 20 < len(line) < 200]
    draw = random.Random(42)
    data = folder / "short"
    data.mkdir()
    for split, count in (("train", DOCUMENTS), ("test", 1000)):
        rows = [{"text": draw.choice(sentences), "label": "ab"[n % 2]} for n in range(count)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    for template in ("llm.text_classification", "llm.finetune_distributed"):
        module: Any = importlib.import_module(f"{template}.train")
        config = configuration(template, [], folder, f"tokens_{template}")
        model = next((folder / ".vec_assets").glob(f"*{config.assets.model}"))
        config.assets.text_column, config.assets.num_labels = "text", 2
        bare_s: list[float] = []
        ours_s: list[float] = []
        for number in range(3):
            for times, build in ((bare_s, map_alone), (ours_s, module.build_data)):
                datasets.config.HF_DATASETS_CACHE = folder / f"cache_{template}_{number}_{build.__name__}"  # empty
                tokenizer = transformers.AutoTokenizer.from_pretrained(model)
                loaded = datasets.load_dataset(str(data))
                begun = time.perf_counter()
                if build is map_alone:
                    map_alone(loaded, tokenizer)
                elif template == "llm.text_classification":
                    build(config.trainer, config.assets, data, tokenizer)
                else:
                    build(config.assets, data, tokenizer, config.trainer.block_size)
                times.append(time.perf_counter() - begun)
        ratio = statistics.median(ours / bare for bare, ours in zip(bare_s, ours_s, strict=True))
        print(f"| {template} | {statistics.median(bare_s):.1f} | {statistics.median(ours_s):.1f} | {ratio:.2f} |")


def waiting(folder: Path) -> float:
    """The share of the time that a loop waits for its images, read and resized by two processes, while a BLIP of two
    small layers trains on them."""
    config = configuration("vlm.image_captioning", [], folder, "waiting")
    embedded = folder / ".vec_assets"
    data = build_data(config.assets, embedded / "vlm.embedded.digits", "fail")["train"]
    processor = transformers.AutoProcessor.from_pretrained(embedded / "vlm.embedded.tiny_blip")
    processor.image_processor.size = {"height": PIXELS, "width": PIXELS}
    made = transformers.BlipConfig.from_pretrained(embedded / "vlm.embedded.tiny_blip")
    made.vision_config.image_size, made.vision_config.patch_size = PIXELS, 16
    model: Any = transformers.BlipForConditionalGeneration(made)
    loader = torch.utils.data.DataLoader(
        data, batch_size=16, num_workers=2, collate_fn=Collator(processor, 5, 64), shuffle=False
    )
    optimizer = torch.optim.AdamW(model.parameters())
    waited, batches, begun = 0.0, iter(loader), 0.0
    for step in range(31):
        asked = time.perf_counter()
        batch = next(batches)
        if step > 0:  # the first waits for the workers to start
            waited += time.perf_counter() - asked
        else:
            begun = time.perf_counter()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return waited / (time.perf_counter() - begun)


def map_alone(loaded: Any, tokenizer: Any) -> Any:
    def tokenize(rows: dict[str, list[Any]]) -> Any:
        return tokenizer(rows["text"], truncation=True, max_length=128)

    return loaded.map(tokenize, batched=True, remove_columns=["text", "label"])


if __name__ == "__main__":
    main()
