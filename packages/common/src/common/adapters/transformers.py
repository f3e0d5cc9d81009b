"""Hugging Face's Trainer, and those that inherit from it (TRL's), under the contract of common.checkpoint.

    class Trainer(Resumable, transformers.Trainer):
        '''Stops at a step boundary, resumes exactly.'''

    checkpoint = latest_checkpoint(config)
    trainer = Trainer(config=config, model=model, args=arguments(config, ...), ...)
    trainer.train(resume_from_checkpoint=checkpoint)

    outputs/checkpoint-<step>/   as transformers writes it (model.safetensors, optimizer.pt, ...), and
        progress_<rank>.pt       what transformers forgets: the sums behind the next line of metrics
        manifest.json            see common.storage
        shards/, state.pt        instead of model.safetensors and optimizer.pt, if the model is spread over the ranks
                                 (`from_pretrained(distributed_config=...)`, FSDP2): see common.sharded

A checkpoint is written into a temporary folder and committed by a rename, so that none is ever seen in part. The signal
flag is looked at in `on_step_end`; the Trainer then logs and evaluates as it would have, saves, and leaves. The order
of the data is a function of seed and epoch, and batches that were seen are skipped without being loaded.
"""

import errno
import logging
import os
import re
import shutil
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import torch
import transformers
from omegaconf import OmegaConf
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from common import attempts, distributed, ownership, preempt, rng, sharded, storage
from common.boundary import StepBoundary
from common.checkpoint import allowed_changes, check_finite
from common.config import Config, identity, require
from common.errors import UnavailableError
from common.metrics import MetricsLog
from common.paths import fsync_path, sync_lines
from common.preempt import Preempted
from common.tracking import Tracker

__all__ = ["Resumable", "arguments", "latest_checkpoint"]

log = logging.getLogger(__name__)

# Sums that TRL's trainers keep between two log lines, next to those of the Trainer itself; and, of GRPO, the number of
# backward passes and the completions that later passes use again.
_BUFFER = "_buffered_inputs"
_SUMS = ("_tr_loss", "_globalstep_last_logged", "_metrics", "_stored_metrics", "_total_train_tokens", "_step", _BUFFER)
_ALIKE = "state.pt"  # of a sharded run: what every rank holds alike
_NOT_LOGGED = re.compile(
    r"train_|total_flos|.*(_runtime|_per_second|step_time)$"
)  # timings, which no two runs have in common


def arguments(config: Config, kind: type[Any] = transformers.TrainingArguments, **fields: Any) -> Any:
    """TrainingArguments (or TRL's kinds of it) with what every template has in common; `fields` are the template's.

    Saving is ours (see Resumable), data order and initial weights follow `seed`, a loss that is nan stays visible, and
    on a machine without a GPU the CPU is used by all ranks together.
    """
    gpu = torch.cuda.is_available()
    if gpu and torch.cuda.device_count() <= distributed.local_rank():
        # Slurm has bound one GPU to each process, but accelerate and transformers take the one numbered LOCAL_RANK
        os.environ["LOCAL_RANK"] = str(distributed.device().index)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()  # a log would keep every state of it
    common: dict[str, Any] = {
        "output_dir": config.paths.out_dir,
        "save_strategy": "no",
        "report_to": "none",
        "logging_nan_inf_filter": False,
        "disable_tqdm": not sys.stderr.isatty(),
        "dataloader_pin_memory": gpu,
        "use_cpu": not gpu,
        "ddp_find_unused_parameters": False,
    }
    args = kind(**(common | fields))
    args.data_seed = args.seed
    if args.world_size != distributed.world_size():
        # each process would train a model of its own, and nobody would say so
        raise RuntimeError(f"{distributed.world_size()} processes, but transformers sees {args.world_size}")
    return args


def latest_checkpoint(config: Config) -> str | None:
    """The newest whole checkpoint of this run, verified; None for a new run. All ranks together.

    Raises:
        CheckpointError: there are checkpoints, but none is whole.
        UserError: the checkpoint belongs to another configuration, or another job holds the run directory.
    """
    out_dir = Path(config.paths.out_dir)
    if distributed.rank() == 0:
        ownership.hold(out_dir)

    def find() -> Path | None:
        found = storage.latest(out_dir, storage.read_manifest)
        if found is None:
            return None
        folder, manifest = found
        changed = allowed_changes(folder, manifest, identity(OmegaConf.structured(config)), config.requeue)
        log.info("resuming from %s%s", folder.name, "".join(f"; changed: {text}" for text in changed))
        if manifest["world_size"] != distributed.world_size():
            log.info("saved by %d rank(s), now %d", manifest["world_size"], distributed.world_size())
        return folder

    folder = distributed.on_rank_0(find)
    return None if folder is None else str(folder)


class Resumable:
    """Mix it in before a Trainer.

    Args:
        config: the run's configuration.
        save_steps: optimizer steps between two checkpoints; `requeue.save_every_min` applies besides.
        **others: the Trainer's own.

    The newest `requeue.keep` checkpoints are kept, and the best one if `metric_for_best_model` is set.

    A step that asks something outside (a judge, a server) raises UnavailableError, on all ranks, where it does not
    answer; the run then saves as it was before the step. While it waits, it calls `leave_if_told`.
    """

    asks_outside = False  # whether a step may: costs a copy of the random number generators at each

    def __init__(self, *, config: Config, save_steps: int | None = None, **others: Any) -> None:
        super().__init__(**others)
        self._config = config
        self._identity = identity(OmegaConf.structured(config))
        self._save_steps = save_steps
        self._run_dir = Path(config.paths.out_dir)
        self._writing_to: Path | None = None  # where the Trainer puts its files during a save
        self._saved_step = -1
        self._stop: Preempted | None = None
        self._before_step: dict[str, Any] = {}  # in the midst of a step: what it has changed already
        self._begun = time.monotonic()
        self._resumed_from: Path | None = None
        trainer: Any = self
        self._sharded = sharded.is_sharded({"model": trainer.model})
        self._shards: sharded.Shards | None = None  # written, but not yet part of a checkpoint
        trainer.remove_callback(PrinterCallback)
        if distributed.rank() > 0:
            trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_AtBoundaries(self))

    def train(self, resume_from_checkpoint: Any = None, **others: Any) -> Any:
        """As the Trainer's own.

        Raises:
            Preempted: the run was told to stop, and has saved.
            NonFiniteError: the loss, or a parameter at a save, is nan or infinite.
            UnavailableError: something outside does not answer; the run has saved.
        """
        self._begun = time.monotonic()
        self._resumed_from = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        parent: Any = super()
        try:
            return parent.train(resume_from_checkpoint=resume_from_checkpoint, **others)
        except UnavailableError:
            self._save_as_before_step()
            raise

    def leave_if_told(self) -> None:
        """While a step waits for something outside, all ranks together.

        Raises:
            Preempted: the run was told to stop, and has saved as it was before the step.
        """
        step: int = self.state.global_step  # pyright: ignore[reportAttributeAccessIssue]
        number = int(distributed.agree([float(preempt.requested() or 0)])[0])
        if number:
            self._stop = Preempted(signal.Signals(number), step)
            self._save_as_before_step()
            raise self._stop

    @property
    def tracker(self) -> Tracker:
        """For figures and tables, once the training has begun."""
        return self.lines.metrics.tracker

    # ----- what the callback below asks for -----

    def begin(self, state: transformers.TrainerState) -> None:
        """Everything is built and restored; the first step comes next."""
        step = state.global_step
        if self._resumed_from is not None:
            self._saved_step = step
            path = self._resumed_from / f"progress_{distributed.rank()}.pt"
            if path.exists():  # else this rank did not exist at the save
                self._set_sums(torch.load(path, weights_only=True))
        best = state.best_global_step
        state.best_model_checkpoint = str(self._run_dir / f"checkpoint-{best}") if best else None
        if distributed.rank() == 0:
            attempts.resume(self._run_dir, step, restore_s=time.monotonic() - self._begun)
        self.lines = _Lines(MetricsLog(self._config, step, state.max_steps))
        self._boundary = StepBoundary(self._config.requeue)
        self._boundary.begin(step)

    def step_begins(self, state: transformers.TrainerState) -> None:
        self.lines.flush()
        if self.asks_outside:
            seen = state.num_input_tokens_seen
            self._before_step = {"rng": rng.get_state(), "sums": self._sums(), "tokens": seen}

    def step_ended(self, state: transformers.TrainerState, control: transformers.TrainerControl) -> None:
        step = state.global_step
        self._before_step = {}
        due, self._stop = self._boundary.reached(step)
        planned = self._save_steps is not None and step % self._save_steps == 0
        if due or planned or self._stop or step >= state.max_steps:
            control.should_save = True
        if not control.should_save:
            self._boundary.go_on()

    # ----- overridden -----

    def _run_epoch(self, **others: Any) -> None:
        """As the Trainer's own, but a run that was stopped after its last step takes no step more.

        The Trainer looks at `max_steps` behind a step only; where its last epoch is not whole, a resumed run would
        train one step too many.
        """
        trainer: Any = self
        if trainer.state.global_step >= trainer.state.max_steps:
            trainer.control.should_training_stop = True
            return
        parent: Any = super()
        parent._run_epoch(**others)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing_to or self._run_dir)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        trainer: Any = self
        parent: Any = super()
        if new_best := parent._determine_best_metric(metrics, trial):
            trainer.state.best_global_step = trainer.state.global_step
            trainer.control.should_save = True
        return new_best

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        state: transformers.TrainerState = self.state  # pyright: ignore[reportAttributeAccessIssue]
        step = state.global_step
        if step != self._saved_step:
            try:
                self._write_and_commit(model, trial, step)
            except OSError as error:
                if self._stop or step >= state.max_steps:
                    raise
                log.warning("could not save step %d (%s): going on", step, error)
                self._boundary.saved()
        if self._stop:
            raise self._stop
        self._boundary.go_on()

    # Sharded models, which the Trainer itself cannot resume: every rank writes what it holds, and nothing is gathered.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        trainer: Any = self
        if not (self._sharded and self._writing_to):  # else the whole model, as a user asked for
            parent: Any = super()
            parent.save_model(output_dir, _internal_call)
            return
        alike, tensors = sharded.split(sharded.state_of(self._parts()))
        self._shards = sharded.write(self._run_dir, tensors)
        if distributed.rank() == 0:
            assert output_dir is not None
            trainer.model.config.save_pretrained(output_dir)
            trainer.processing_class.save_pretrained(output_dir)
            torch.save(alike, Path(output_dir, _ALIKE))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._sharded:
            parent: Any = super()
            parent._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if sharded.has_shards(Path(resume_from_checkpoint)):
            return  # together with the optimizer, below
        require(
            not self._sharded,
            f"{resume_from_checkpoint} was saved by a run that did not spread its model over the processes (FSDP), "
            "and cannot be resumed by one that does",
        )
        parent: Any = super()
        parent._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not sharded.has_shards(Path(checkpoint)):
            parent: Any = super()
            parent._load_optimizer_and_scheduler(checkpoint)
            return
        alike = torch.load(Path(checkpoint, _ALIKE), map_location="cpu", weights_only=True)
        sharded.restore(Path(checkpoint), alike, self._parts())

    def _sums(self) -> dict[str, Any]:
        return {name: _plain(getattr(self, name)) for name in _SUMS if hasattr(self, name)}

    def _set_sums(self, sums: dict[str, Any]) -> None:
        trainer: Any = self
        for name, value in sums.items():
            kept = trainer._prepare_input(value) if name == _BUFFER else _put_back(getattr(self, name), value)
            setattr(self, name, kept)

    def _save_as_before_step(self) -> None:
        """In the midst of a step that has changed nothing yet but random numbers and sums, or between two steps."""
        trainer: Any = self
        if self._before_step:
            rng.set_state(self._before_step["rng"])
            self._set_sums(self._before_step["sums"])
            trainer.state.num_input_tokens_seen = self._before_step["tokens"]
        if trainer.state.global_step > 0:
            trainer._save_checkpoint(trainer.model_wrapped, None)

    def _parts(self) -> dict[str, Any]:
        trainer: Any = self
        return {
            "model": trainer.model,
            "optimizer": trainer.optimizer.optimizer,  # inside of accelerate's
            "scheduler": trainer.lr_scheduler,
        }

    def _write_and_commit(self, model: Any, trial: Any, step: int) -> None:
        """Write, verify and commit; all ranks together.

        Raises:
            OSError: a rank could not write; on all ranks, and nothing is left behind.
            NonFiniteError: a parameter is nan or infinite.
        """
        begun = time.monotonic()
        check_finite("model", model, step, self._saved_step)
        self.lines.flush()
        folder = self._run_dir / f".checkpoint-{step}.{distributed.from_rank_0(uuid.uuid4().hex[:8])}.tmp"
        failure: OSError | None = None
        try:
            self._writing_to = folder
            parent: Any = super()
            parent._save_checkpoint(model, trial)
            torch.save(self._sums(), folder / f"checkpoint-{step}" / f"progress_{distributed.rank()}.pt")
        except Exception as error:
            failure = _disk_error(error)
            if failure is None:
                raise
        finally:
            self._writing_to = None
        try:
            failures = [one for one in distributed.gather(failure) if one is not None]
            if failures:
                raise failures[0]
            distributed.on_rank_0(lambda: self._commit(folder / f"checkpoint-{step}", step))
        finally:
            if distributed.rank() == 0:
                shutil.rmtree(folder, ignore_errors=True)
                if self._shards:
                    self._shards.discard()  # what is left of them
        self._saved_step = step
        seconds = time.monotonic() - begun
        self._boundary.saved(seconds)
        if distributed.rank() == 0:
            attempts.save(self._run_dir, step, stall_s=seconds, write_s=seconds)

    def _commit(self, written: Path, step: int) -> None:
        def move(folder: Path) -> dict[str, storage.FileFacts]:
            sync_lines(self._run_dir / "metrics.jsonl")  # no step before this checkpoint may be missing from it
            facts: dict[str, storage.FileFacts] = {}
            for path in sorted(written.iterdir()):
                path.rename(folder / path.name)
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    fsync_path(path)
                    facts[str(path.relative_to(folder))] = storage.file_facts(path)
            return facts | (self._shards.move_into(folder) if self._shards else {})

        requeue = self._config.requeue
        manifest = {
            "world_size": distributed.world_size(),
            "config": self._identity,
        }
        best = self.state.best_global_step  # pyright: ignore[reportAttributeAccessIssue]
        may_commit = lambda: ownership.check(self._run_dir)  # noqa: E731
        storage.commit(self._run_dir, step, move, manifest, may_commit, requeue.keep, best)


class _AtBoundaries(transformers.TrainerCallback):
    """Asks the trainer at the step boundaries."""

    def __init__(self, trainer: Resumable) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._trainer.begin(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._trainer.step_begins(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._trainer.step_ended(state, control)

    def on_log(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._trainer.lines.add(state.global_step, others["logs"])

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._trainer.lines.flush()


class _Lines:
    """One line of metrics.jsonl a step: the Trainer reports the loss and the evaluation of a step one by one."""

    def __init__(self, metrics: MetricsLog) -> None:
        self.metrics = metrics
        self._step = 0
        self._values: dict[str, float] = {}

    def add(self, step: int, values: dict[str, Any]) -> None:
        self._step = step
        self._values |= {name: float(value) for name, value in values.items() if not _NOT_LOGGED.match(name)}

    def flush(self) -> None:
        if set(self._values) - {"epoch"}:
            self.metrics.write(self._step, **self._values)
        self._values = {}


def _plain(value: Any) -> Any:
    """Tensors and plain data, which `weights_only=True` loads."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def _put_back(old: Any, value: Any) -> Any:
    """A saved value in the place of the present one; dicts stay the kind of dict that they are."""
    if isinstance(old, dict):
        for key in [key for key in old if key not in value]:
            del old[key]
        for key, item in value.items():
            old[key] = _put_back(old.get(key), item)
        return old
    return value.to(old.device) if isinstance(old, torch.Tensor) else value


def _disk_error(error: Exception) -> OSError | None:
    """The OSError behind a failed write; torch and safetensors hide it in errors of their own."""
    if isinstance(error, OSError):
        return error
    if isinstance(error.__context__, OSError):
        return error.__context__
    found = re.search(r"\(os error (\d+)\)", str(error))  # as safetensors (Rust) writes it
    if found:
        return OSError(int(found.group(1)), os.strerror(int(found.group(1))))
    return OSError(errno.EIO, str(error)) if "PytorchStreamWriter" in str(error) else None
