"""Where a run's metrics are shown besides metrics.jsonl: TensorBoard's event files, or Weights & Biases.

Rank 0 alone shows anything. Nothing here decides over a training: what goes wrong is a warning, once, and the run goes
on without it. The libraries are imported where they are used, for they cost time.
"""

import json
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from common import preempt, sweep
from common.config import Config, flatten
from common.paths import write_atomic

__all__ = ["Tracker"]

log = logging.getLogger(__name__)

_OF_THE_LINE = ("step", "time_s", "attempt")  # in a line of metrics.jsonl, next to the metrics


class Backend(Protocol):
    """What shows metrics; names come with their group, as train/loss."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def figure(self, name: str, figure: Any, step: int) -> None: ...
    def table(self, name: str, rows: list[dict[str, Any]], step: int) -> None: ...
    def close(self, completed: bool) -> None: ...


class Tracker:
    """What metrics, figures and tables are given to, to be shown.

    Args:
        begin: makes the backend; without one, nothing is shown.
    """

    def __init__(self, begin: Callable[[], Backend] | None = None) -> None:
        self._backend: Backend | None = None
        try:
            self._backend = begin() if begin else None
        except Exception as error:
            _warn(error)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Metrics of a step under their names in metrics.jsonl: loss is shown as train/loss, eval_loss as eval/loss."""
        self._show(lambda backend: backend.scalars(step, {_shown_as(name): value for name, value in values.items()}))

    def figure(self, name: str, figure: Any, step: int) -> None:
        """A figure of matplotlib."""
        self._show(lambda backend: backend.figure(name, figure, step))

    def table(self, name: str, rows: list[dict[str, Any]], step: int) -> None:
        """Rows with the same keys, which are the columns."""
        self._show(lambda backend: backend.table(name, rows, step))

    def close(self, completed: bool) -> None:
        """Nothing more is shown."""
        self._show(lambda backend: backend.close(completed))
        self._backend = None

    def _show(self, show: Callable[[Backend], None]) -> None:
        if self._backend is None:
            return
        try:
            show(self._backend)
        except Exception as error:
            with suppress(Exception):
                self._backend.close(completed=False)
            self._backend = None
            _warn(error)


_current = Tracker()  # of the run in this process


def start(cfg: Config, step: int, lines: list[dict[str, Any]]) -> Tracker:
    """On rank 0: begin to show a run, or go on.

    Args:
        step: the step at which this attempt starts; what is shown of later ones is done again.
        lines: of metrics.jsonl, up to there.
    """
    global _current
    _current.close(completed=False)
    out_dir = Path(cfg.paths.out_dir)
    backends: dict[str, Callable[[], Backend] | None] = {
        "tensorboard": lambda: _TensorBoard(out_dir, step),
        "wandb": lambda: _Wandb(cfg, out_dir, lines),
        "none": None,
    }
    _current = Tracker(backends[cfg.tracking.backend])
    return _current


def stop() -> None:
    """The run has ended, however it did."""
    _current.close(completed=False)


def _warn(error: Exception) -> None:
    if preempt.requested() == preempt.TERM:  # Slurm sends it to wandb's own process, too, which ends of it
        return
    words = " ".join(str(error).split())
    log.warning("tracking failed (%s: %s): the run goes on without, metrics.jsonl has it", type(error).__name__, words)


def _shown_as(name: str) -> str:
    """With a group, as Hugging Face's Trainer shows it; stable-baselines3 gives the group itself."""
    if name.startswith("eval_"):
        return f"eval/{name.removeprefix('eval_')}"
    return name if name.startswith(("train/", "eval/", "rollout/")) else f"train/{name}"


class _TensorBoard:
    """Event files in the run's outputs. What an attempt that was killed has logged after `step` is hidden."""

    def __init__(self, out_dir: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(out_dir), purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a process that is killed later takes nothing of it along

    def figure(self, name: str, figure: Any, step: int) -> None:
        self._writer.add_figure(name, figure, step)
        self._writer.flush()

    def table(self, name: str, rows: list[dict[str, Any]], step: int) -> None:
        lines = [[str(value).replace("\n", " ").replace("|", "/") for value in row.values()] for row in rows]
        table = [list(rows[0]), ["---"] * len(rows[0]), *lines]
        self._writer.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in table), step)
        self._writer.flush()

    def close(self, completed: bool) -> None:
        self._writer.close()


class _Wandb:
    """One run of Weights & Biases for all attempts; each writes a folder of its own under outputs/wandb.

    A killed attempt leaves a folder with steps that are done again, and without the last ones before the kill. So what
    the folders have is not sent again, and what they lack is sent now, from metrics.jsonl: each step is there once.
    """

    def __init__(self, cfg: Config, out_dir: Path, lines: list[dict[str, Any]]) -> None:
        offline = cfg.tracking.mode == "offline"
        for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):  # else in the home, which a node may not write to
            os.environ.setdefault(name, str(out_dir / "wandb"))
        if offline:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would need the network
        import wandb

        run_id = _run_id(out_dir)
        self._sent = _last_step(out_dir / "wandb", run_id)
        self._sync = f"wandb sync {out_dir / 'wandb'}" if offline else ""
        settings = wandb.Settings(
            console="off",  # it would take over stdout and stderr
            disable_git=True,  # a diff may hold secrets; sweep.json has it without
            disable_code=True,
            silent=True,
            init_timeout=30,
            finish_timeout=20,  # what is not uploaded by then stays on the disk
            x_transaction_log_flush_interval=1,  # seconds of which a kill takes the metrics along
            stop_fn=lambda: log.warning("wandb asks this run to stop: use scancel, which saves it"),
        )
        self._run = wandb.init(
            mode="offline" if offline else "online",
            project=cfg.tracking.project,
            entity=cfg.tracking.entity,
            group=Path(cfg.paths.work_dir).name,  # the experiment's name; it stays when the folder is used again
            name=_name(cfg, out_dir),
            id=run_id,
            resume="allow",
            dir=str(out_dir),
            config=sweep.redact_values(flatten(asdict(cfg))),
            settings=settings,
        )
        for line in lines:
            metrics = {_shown_as(name): value for name, value in line.items() if name not in _OF_THE_LINE}
            self.scalars(line["step"], metrics)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._log(step, values)

    def figure(self, name: str, figure: Any, step: int) -> None:
        import wandb
        from PIL import Image

        picture = BytesIO()
        figure.savefig(picture, format="png")
        self._log(step, {name: wandb.Image(Image.open(picture))})

    def table(self, name: str, rows: list[dict[str, Any]], step: int) -> None:
        import wandb

        self._log(step, {name: wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])})

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if step > self._sent:
            self._run.log(values, step=step)

    def close(self, completed: bool) -> None:
        import wandb

        try:
            self._run.finish(exit_code=0 if completed else 1)
        finally:
            wandb.teardown()  # its process ends before the job does
        if self._sync:
            log.info("to upload it, from where there is a network: %s", self._sync)


def _run_id(out_dir: Path) -> str:
    """Made once for a run directory: a requeued run is the same run."""
    path = out_dir / "wandb_run_id"
    if not path.exists():
        write_atomic(path, uuid.uuid4().hex[:12])
    return path.read_text(encoding="utf-8")


def _name(cfg: Config, out_dir: Path) -> str:
    """Index, and what sets the run apart in its sweep."""
    index = out_dir.parent.name
    points = [point for submission in sweep.read(Path(cfg.paths.work_dir)) for point in submission.points]
    mine = next((point.overrides for point in reversed(points) if str(point.index) == index), [])
    common = sweep.common_overrides(points) if len(points) > 1 else set(mine)
    return " ".join([index, *(override for override in mine if override not in common)])


def _last_step(folder: Path, run_id: str) -> int:
    """The last step that the folders of earlier attempts hold; 0 where they hold none."""
    for file in sorted(folder.glob(f"*run-*-{run_id}/run-{run_id}.wandb"), reverse=True):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        records = [json.loads(line) for line in shown.splitlines()]
        if steps := [record["history"]["step"]["num"] for record in records if record["type"] == "history"]:
            return max(map(int, steps))
    return 0
