"""Queues calls as jobs that wait on hold: none starts before all are accepted and their ids are written down.

<sweep>/submitit_logs/.<request>.sh               the batch script
<sweep>/submitit_logs/<job id>/<job id>_submitted.pkl    the call of each job, as submitit names it
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, JobPaths

from common import local, slurm
from common.errors import UserError
from common.pack import SEPARATOR, run_pack
from common.paths import write_atomic

from ._executors import script, slurm_executor


@dataclass
class Held:
    """Jobs that wait for the word to start, or to go."""

    job_ids: list[str]
    start: Callable[[], None]
    drop: Callable[[], None]


Call = tuple[Any, ...]  # function and arguments


def hold(params: dict[str, Any], additional: dict[str, Any], calls: list[Call], request: str, lock: int) -> Held:
    """Queue calls (function and arguments) that ask for the same resources: one job, or one array.

    Args:
        params: of hydra.launcher.
        additional: sbatch options without a field of their own.
        request: goes into the name of the batch script, by which the jobs are found again.
        lock: see slurm.submit_held.

    Raises:
        UserError: a limit on jobs, a full disk: sbatch --test-only does not see them.
    """
    try:
        if params["executor"] == "local":
            held = local.hold(local_plan(params, len(calls)), [DelayedSubmission(*call) for call in calls])
            return Held(held.job_ids, held.start, held.drop)
        each = params["runs_per_job"]
        if each == 1:
            return _hold_slurm(params, additional, calls, {}, request, lock)
        shared = [calls[first : first + each] for first in range(0, len(calls), each)]
        packs: list[Call] = [(run_pack, _pack_plan(params, len(own)), params["max_num_timeout"]) for own in shared]
        held = _hold_slurm(params, additional, packs, dict(enumerate(shared)), request, lock)
        ids = [f"{held.job_ids[n]}{SEPARATOR}{run}" for n, own in enumerate(shared) for run in range(len(own))]
        return Held(ids, held.start, held.drop)
    except (UserError, OSError) as error:
        raise UserError(f"Submission failed: {' '.join(str(error).split())} Nothing is left queued.") from error


def _hold_slurm(
    params: dict[str, Any],
    additional: dict[str, Any],
    calls: list[Call],
    shared: dict[int, list[Call]],
    request: str,
    lock: int,
) -> Held:
    """The same on Slurm.

    Args:
        calls: one for each job.
        shared: the calls of the runs that share a job, by its number.
    """
    folder = params["submitit_folder"]
    base = JobPaths.get_first_id_independent_folder(folder)
    base.mkdir(parents=True, exist_ok=True)
    script_path = base / f".{request}.sh"
    write_atomic(script_path, script(slurm_executor(params, additional), len(calls)))
    job_id = slurm.submit_held(script_path, lock)
    try:
        ids = [f"{job_id}_{n}" for n in range(len(calls))] if len(calls) > 1 else [job_id]
        for n, one in enumerate(ids):
            _leave_call(folder, one, calls[n], params)
            for run, call in enumerate(shared.get(n, [])):
                _leave_call(folder, f"{one}{SEPARATOR}{run}", call, params)
        shown = JobPaths(folder, ids[0]).submission_file
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.symlink_to(Path("..") / script_path.name)
    except BaseException:
        slurm.cancel([job_id])
        raise
    return Held(ids, lambda: slurm.release(job_id, lock), lambda: slurm.cancel([job_id]))


def _leave_call(folder: str, job_id: str, call: Call, params: dict[str, Any]) -> None:
    paths = JobPaths(folder, job_id)
    paths.folder.mkdir(parents=True, exist_ok=True)  # Slurm opens the logs in it before anything runs
    delayed = DelayedSubmission(*call)
    delayed.set_timeout(params["timeout_min"], params["max_num_timeout"])
    delayed.dump(paths.submitted_pickle)


def _pack_plan(params: dict[str, Any], count: int) -> local.Plan:
    """What the process of a job of several runs is told; Slurm sees to the time, its script has done the setup."""
    threads = max(1, (params["cpus_per_task"] or 1) // params["runs_at_once"])
    return local.Plan(
        folder=params["submitit_folder"],
        python="",
        tasks_per_run=1,
        at_once=params["runs_at_once"],
        gpus_per_run=None,
        timeout_min=0,
        signal_delay_s=0,
        setup=[],
        count=count,
        env={"OMP_NUM_THREADS": str(threads)},
    )


def local_plan(params: dict[str, Any], count: int) -> local.Plan:
    """What the background process of this machine is told."""
    cpus = params["cpus_per_task"] or 1
    return local.Plan(
        folder=params["submitit_folder"],
        python=params["python"] or sys.executable,
        tasks_per_run=params["tasks_per_node"],
        at_once=local.at_once(params["tasks_per_node"], cpus, params["gpus_per_node"]),
        gpus_per_run=params["gpus_per_node"],
        timeout_min=params["timeout_min"],
        signal_delay_s=params["signal_delay_s"],
        setup=params["setup"] or [],
        count=count,
    )
