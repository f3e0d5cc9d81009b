"""What every process of a job runs: ranks, signals, Hydra's job, and an end that Slurm's state tells truly.

It gets the point as it was composed and checked at submission; nothing is composed again, so that later edits of config
files do not reach a waiting or requeued job.
"""

import logging
import os
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from common import attempts, local, preempt, slurm

from . import _deadline

log = logging.getLogger(__name__)

_RANK_0_ENDS_S = 10.0  # until rank 0, if it fails, too, has written down why
_RANK_0_LEAVES_S = 30.0  # and until its process has gone


def run_on_node(task_function: TaskFunction, cfg: DictConfig) -> JobReturn:
    """Run one point.

    Raises:
        Exception: what the training raised (Hydra alone would swallow it, and Slurm would say COMPLETED).
        SystemExit: preempted, with the checkpoint committed.
        Preempted: the same, in the launching process.
    """
    preempt.install()
    logging.getLogger("submitit").propagate = False  # it has a handler of its own
    setup_globals()
    JobRuntime.instance().set("name", cfg.hydra.job.name)
    params: Any = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    in_process = params["executor"] == "inprocess"
    rank = 0 if in_process else _export_ranks(cfg, params)
    if not in_process:
        _deadline.watch(_export_end(params), lambda sig: _leave_unsaved(sig, cfg, params, rank))
    try:
        result = _run_hydra_job(task_function, cfg, rank)
    except preempt.Preempted as stop:
        if in_process:
            raise
        if stop.step is None and rank > 0:  # not agreed with the others: they must not wait for this rank
            sys.exit(128 + stop.signal)
        saved = f"{stop}; the last checkpoint is in {cfg.paths.out_dir}"
        sys.exit(_way_out(saved, stop.signal, cfg, params, rank))
    if rank > 0 and result.status == JobStatus.FAILED:
        _let_rank_0_end_first(Path(cfg.paths.out_dir), params)
    _ = result.return_value  # raises what the training raised
    return result


def _run_hydra_job(task_function: TaskFunction, cfg: DictConfig, rank: int) -> JobReturn:
    if rank > 0:  # only rank 0 writes the run's log and configs
        with open_dict(cfg.hydra):
            cfg.hydra.output_subdir = None
            cfg.hydra.job_logging.root.handlers = ["console"]
            cfg.hydra.job_logging.handlers = {"console": cfg.hydra.job_logging.handlers.console}
    else:
        _write_resolved(cfg)
    return run_job(
        hydra_context=HydraContext(ConfigLoaderImpl(ConfigSearchPathImpl()), Callbacks(cfg)),
        task_function=task_function,
        config=cfg,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _let_rank_0_end_first(out_dir: Path, params: dict[str, Any]) -> None:
    """srun tells all ranks to end as soon as one has failed, and a rank 0 that is ending already dies of that, with
    another exit code. So it goes first: srun's TERM for this rank is the sign that it has."""
    begun = time.monotonic()
    while time.monotonic() - begun < _RANK_0_ENDS_S and not attempts.has_ended(out_dir):
        time.sleep(0.1)
    while (
        params["executor"] == "slurm"
        and attempts.has_ended(out_dir)
        and preempt.requested() != preempt.TERM
        and time.monotonic() - begun < _RANK_0_ENDS_S + _RANK_0_LEAVES_S
    ):
        time.sleep(0.1)


def _export_ranks(cfg: DictConfig, params: dict[str, Any]) -> int:
    """Put rank and world into the environment, under torch's names; returns the rank."""
    import submitit

    env = submitit.JobEnvironment()
    with open_dict(cfg.hydra.job):
        cfg.hydra.job.id = env.job_id
    os.environ["VEC_JOB_ID"] = env.job_id
    cores = min(params["cpus_per_task"] or 1, local.cores())
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    if env.num_tasks > 1:
        # from the job's id, below the ephemeral ports; the folder tells jobs of two clusters on one host apart, the
        # count of restarts an attempt whose predecessor lives on
        unique = f"{env.job_id} {cfg.hydra.sweep.dir} {os.environ.get('SLURM_RESTART_COUNT', 0)}"
        port = 20000 + zlib.crc32(unique.encode()) % 10000
        first_node = slurm.node_address(env.hostnames[0]) if params["executor"] == "slurm" else "localhost"
        os.environ |= {
            "RANK": str(env.global_rank),
            "LOCAL_RANK": str(env.local_rank),
            "WORLD_SIZE": str(env.num_tasks),
            "MASTER_ADDR": first_node,
            "MASTER_PORT": str(port),
            "VEC_RANK_TIMEOUT_S": str(cfg.compute.rank_timeout_min * 60),
        }
    return env.global_rank


def _write_resolved(cfg: DictConfig) -> None:
    folder = Path(cfg.hydra.sweep.dir) / str(cfg.hydra.sweep.subdir)
    with open_dict(cfg.hydra.runtime):
        cfg.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(cfg)
    resolved = OmegaConf.create(OmegaConf.to_container(cfg.hydra, resolve=True))
    (folder / "hydra_configs").mkdir(parents=True, exist_ok=True)
    (folder / "hydra_configs" / "hydra_resolved.yaml").write_text(
        OmegaConf.to_yaml(OmegaConf.create({"hydra": resolved}))
    )


def _export_end(params: dict[str, Any]) -> float:
    """Put the end of the time limit into the environment, for trainers to see that a step cannot end in time."""
    ends_at = float(os.environ.get("SLURM_JOB_END_TIME") or time.time() + params["timeout_min"] * 60)
    os.environ["VEC_ENDS_AT"] = str(ends_at)
    return ends_at


def _leave_unsaved(sig: signal.Signals, cfg: DictConfig, params: dict[str, Any], rank: int) -> None:
    """In a thread of its own: no step has ended in time. The last checkpoint stands; go back into the queue."""
    saved = f"{sig.name}, but no step has ended since; the last checkpoint in {cfg.paths.out_dir} stands"
    if sig == preempt.TERM:
        if rank == 0:
            log.error(f"{saved}. Slurm will kill the run.")
        return
    if rank > 0:
        time.sleep(_deadline.MARGIN_S / 2)  # after rank 0 has asked for the requeue
        os._exit(0)
    attempts.end(Path(cfg.paths.out_dir), f"{sig.name}, no step boundary in time")
    try:
        code = _way_out(saved, sig, cfg, params, rank)
    except SystemExit as way_out:  # submitit's way to requeue on this machine
        code = int(way_out.code or 0)
    logging.shutdown()
    os._exit(code)


def _way_out(saved: str, sig: signal.Signals, cfg: DictConfig, params: dict[str, Any], rank: int) -> int:
    """Requeue where that is ours to do; returns the exit code, so that Slurm's state will say the same."""
    import submitit

    if rank > 0:
        return 0
    out_dir = Path(cfg.paths.out_dir)
    env = submitit.JobEnvironment()
    in_grace = params["executor"] == "slurm" and sig == preempt.TERM and slurm.preempted_with_grace(env.job_id)
    if sig == preempt.TERM and not in_grace:
        log.warning(f"{saved}. TERM: Slurm decides whether the job comes back.")
        return 128 + preempt.TERM
    timed_out = sig == preempt.NOTICE and _near_time_limit(out_dir, params)
    refusal = _why_not_requeue(out_dir, params, timed_out)
    if refusal is None:
        attempts.requeue(out_dir, timed_out=timed_out)
        try:
            env._requeue(params["max_num_timeout"] - attempts.timeouts(out_dir))
        except Exception as error:
            refusal = _requeue_failed(env.job_id, error)
    if refusal is None:
        log.warning(f"{saved}. Requeued as job {env.job_id}.")
        return 0
    log.error(f"{saved}. Not requeued: {refusal}. Submit again with paths.work_dir={cfg.paths.work_dir} to go on.")
    return 1


def _near_time_limit(out_dir: Path, params: dict[str, Any]) -> bool:
    """Whether a notice came because of the time limit. Slurm sends it up to 60 s early."""
    starts = [event["time"] for event in attempts.read(out_dir) if event["event"] == "start"]
    left = params["timeout_min"] * 60 - (time.time() - starts[-1])
    return left <= params["signal_delay_s"] + 65


def _why_not_requeue(out_dir: Path, params: dict[str, Any], timed_out: bool) -> str | None:
    if not params["requeue"]:
        return "requeue=off"
    used = attempts.timeouts(out_dir)
    if timed_out and used >= params["max_num_timeout"]:
        return f"it reached its time limit {used + 1} times (requeue.max_num_timeout={params['max_num_timeout']})"
    return None


def _requeue_failed(job_id: str, error: Exception) -> str | None:
    """None where Slurm has requeued the job already (preemption and notice at the same moment)."""
    if slurm.states([job_id])[job_id].state in ("PENDING", "REQUEUED"):
        return None
    return f"scontrol requeue failed ({error})"
