"""Queues calls as jobs that wait on hold: none starts before all are accepted and their ids are written down.

<sweep>/submitit_logs/.<request>.sh                      the batch script
<sweep>/submitit_logs/<job id>/<job id>_submitted.pkl    the call of each job, as submitit names it
"""

import subprocess
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

Call = tuple[Any, ...]  # function and arguments


@dataclass
class Held:
    """What waits for the word to start, or to go."""

    job_id: str  # of the whole array
    start: Callable[[], None]
    drop: Callable[[], None]


def suffixes(params: dict[str, Any], count: int) -> list[str]:
    """What follows the id of the whole in the job ids of `count` runs that are queued together."""
    each = params["runs_per_job"]
    array = params["executor"] == "local" or count > each
    return [(f"_{n // each}" if array else "") + (f"{SEPARATOR}{n % each}" if each > 1 else "") for n in range(count)]


def hold(params: dict[str, Any], additional: dict[str, Any], calls: list[Call], request: str, lock: int) -> Held:
    """Queue calls that ask for the same resources: one job, or one array.

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
            return Held(held.base, held.start, held.drop)
        return _hold_slurm(params, additional, calls, request, lock)
    except (UserError, OSError, subprocess.SubprocessError) as error:
        raise UserError(f"Submission failed: {' '.join(str(error).split())} Nothing is left queued.") from error


def _hold_slurm(params: dict[str, Any], additional: dict[str, Any], calls: list[Call], request: str, lock: int) -> Held:
    folder, each = params["submitit_folder"], params["runs_per_job"]
    base = JobPaths.get_first_id_independent_folder(folder)
    base.mkdir(parents=True, exist_ok=True)
    script_path = base / f".{request}.sh"
    packs = [calls[first : first + each] for first in range(0, len(calls), each)]
    write_atomic(script_path, script(slurm_executor(params, additional), len(packs)))
    job_id = slurm.submit_held(script_path, lock)
    try:
        for suffix, call in zip(suffixes(params, len(calls)), calls, strict=True):
            _leave_call(f"{job_id}{suffix}", call, params)
        if each > 1:  # the jobs themselves
            for suffix, own in zip(suffixes(params | {"runs_per_job": 1}, len(packs)), packs, strict=True):
                shared = (folder, len(own), params["runs_at_once"], params["cpus_per_task"] or 1)
                _leave_call(f"{job_id}{suffix}", (run_pack, *shared, params["max_num_timeout"]), params)
        shown = JobPaths(folder, job_id).submission_file
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.symlink_to(Path("..") / script_path.name)
    except BaseException:
        slurm.cancel([job_id])
        raise
    return Held(job_id, lambda: slurm.release(job_id, lock), lambda: slurm.cancel([job_id]))


def _leave_call(job_id: str, call: Call, params: dict[str, Any]) -> None:
    paths = JobPaths(params["submitit_folder"], job_id)
    paths.folder.mkdir(parents=True, exist_ok=True)  # Slurm opens the logs in it before anything runs
    delayed = DelayedSubmission(*call)
    delayed.set_timeout(params["timeout_min"], params["max_num_timeout"])
    delayed.dump(paths.submitted_pickle)


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
