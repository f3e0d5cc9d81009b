"""metrics.jsonl (one object a log step), result.json (the end of a run), plain lines in the log, and what
`tracking=...` shows."""

import json
import logging
import math
import time
from pathlib import Path

from common import attempts, distributed, tracking
from common.config import Config
from common.errors import NonFiniteError
from common.paths import LineFile, read_lines, write_atomic

__all__ = ["MetricsLog"]

log = logging.getLogger(__name__)

_LINE_EVERY_S = 5.0


class MetricsLog:
    """Writes a run's metrics; on ranks other than 0 it only checks them. Figures and tables go to its `tracker`.

    Args:
        cfg: the run's configuration.
        step: the step at which this attempt starts. Later lines, written by an attempt that died before its next
            checkpoint, are dropped: a step stands in the file once.
        total: number of the last step, for the progress that the log and vec-jobs status show.
    """

    def __init__(self, cfg: Config, step: int, total: int) -> None:
        out_dir = Path(cfg.paths.out_dir)
        self._result = out_dir / "result.json"
        self._total = total
        self._attempt = attempts.count(out_dir)
        self._started = attempts.first_start(out_dir)
        self._finite_step = step
        self._line_at = 0.0
        self._file = None
        self.tracker = tracking.Tracker()
        if distributed.rank() == 0:
            path = out_dir / "metrics.jsonl"
            kept = [record for record in read_lines(path) if record["step"] <= step]
            if path.exists():
                write_atomic(path, "".join(json.dumps(record) + "\n" for record in kept))
            self._file = LineFile(path)
            attempts.train(out_dir, step, total)
            self.tracker = tracking.start(cfg, step, kept)

    def write(self, step: int, **values: float) -> None:
        """Log the metrics of one step under the names that the field's libraries use (`loss`, `eval_loss`, ...).

        Raises:
            NonFiniteError: a value is nan or infinite.
        """
        self._check_finite(step, values)
        if self._file is None:
            return
        time_s = round(time.time() - self._started, 3)
        self._file.append({"step": step, "time_s": time_s, "attempt": self._attempt} | values)
        self.tracker.scalars(step, values)
        now = time.monotonic()
        if now - self._line_at >= _LINE_EVERY_S:
            self._line_at = now
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            log.info("step %d/%d  %s", step, self._total, shown)

    def finish(self, step: int, parameters_sha256: str, **metrics: float) -> dict[str, float]:
        """Write result.json.

        Returns:
            The final metrics, which `train` returns as the sweep's objective.

        Raises:
            NonFiniteError: a value is nan or infinite.
            OSError: the disk is full.
        """
        self._check_finite(step, metrics)
        if self._file is not None:
            self._file.close()
            seconds = round(time.time() - self._started, 3)
            result = {"status": "COMPLETED", "step": step, "metrics": metrics}
            result |= {"parameters_sha256": parameters_sha256, "attempts": self._attempt, "seconds": seconds}
            write_atomic(self._result, json.dumps(result, indent=1) + "\n")
            self.tracker.scalars(step, metrics)  # may take a while: the run has its result already
            self.tracker.close(completed=True)
            log.info("finished at step %d: %s", step, "  ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
            log.info("%s", attempts.ledger(self._result.parent))
        return metrics

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteError(f"{name} is {value} at step {step} (it was finite at step {self._finite_step}).")
        self._finite_step = step
