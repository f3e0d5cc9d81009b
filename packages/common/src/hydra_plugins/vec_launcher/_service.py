"""What the job of a run's server runs."""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from common import jobs, preempt, service, slurm, sweep
from common.config import Service

_ASK_S = {"slurm": 15.0, "local": 1.0}  # how often the scheduler is asked about the run
_UNKNOWN_S = 600.0  # how long it may not know


def serve_on_node(wanted: Service, cfg: DictConfig, params: dict[str, Any]) -> None:
    """Serve until the run has ended.

    Args:
        cfg: of the run.
        params: of the launcher, for this job.

    Raises:
        SystemExit: preempted; Slurm or this call has put the job back into the queue.
    """
    import submitit

    preempt.install()
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s")
    env = submitit.JobEnvironment()
    slurms = params["executor"] == "slurm"
    host = slurm.node_address(env.hostnames[0]) if slurms else "localhost"
    run = _Run(cfg, params["executor"])
    try:
        service.serve(wanted, Path(cfg.paths.out_dir), host, run.live)
    except preempt.Preempted as stop:
        in_grace = slurms and stop.signal == signal.SIGTERM and slurm.preempted_with_grace(env.job_id)
        if (stop.signal == signal.SIGTERM and not in_grace) or not params["requeue"]:
            sys.exit(128 + stop.signal)  # after TERM, Slurm decides whether the job comes back
        env._requeue(params["max_num_timeout"])


class _Run:
    """The run that needs the server, as its scheduler and its folder show it."""

    def __init__(self, cfg: DictConfig, executor: str) -> None:
        self._sweep_dir = Path(cfg.hydra.sweep.dir)
        self._index = int(cfg.hydra.job.num)
        self._result = Path(cfg.paths.out_dir) / "result.json"
        self._executor = executor
        self._began = time.time()
        self._asked = -1e9
        self._known = time.monotonic()
        self._live = True

    def live(self) -> bool:
        """Whether it is queued or running."""
        if self._completed():
            return False
        now = time.monotonic()
        if now - self._asked >= _ASK_S[self._executor]:
            self._asked = now
            state = jobs.states(self._executor, f"{self._sweep_dir}/submitit_logs/%j", [self._job_id()])[self._job_id()]
            if state.state != "UNKNOWN":
                self._known, self._live = now, state.live
            elif now - self._known > _UNKNOWN_S:
                self._live = False
        return self._live

    def _completed(self) -> bool:
        try:
            return os.path.getmtime(self._result) > self._began and json.loads(self._result.read_text())["step"] >= 0
        except (FileNotFoundError, ValueError):
            return False

    def _job_id(self) -> str:
        points = sweep.read(self._sweep_dir)[-1].points
        return next(str(point.job_id) for point in points if point.index == self._index)
