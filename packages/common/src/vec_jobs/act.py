"""What changes runs: cancelling, and submitting again."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

from common import jobs, slurm
from common.errors import UserError
from vec_jobs.sweeps import Run, Sweep

_NOT_FAILED = ("COMPLETED", "UNKNOWN", "NOT SUBMITTED")


def cancel(sweep: Sweep, runs: list[Run], chosen: list[Run]) -> list[Run]:
    """Tell chosen runs that wait or run to end. They save before they leave.

    Args:
        runs: all of the sweep.

    Returns:
        Those that were told.

    Raises:
        UserError: a run waits on this machine, where only all of them can be cancelled.
    """
    live = [run for run in chosen if run.state.live]
    ids = [str(job_id) for run in live for job_id in (run.point.job_id, run.point.service_job_id) if job_id]
    if not live:
        return []
    if live[0].submission.executor == "slurm":
        slurm.cancel(ids)
        return live
    if len(live) == sum(run.state.live for run in runs):
        for base in {job_id.split("_")[0] for job_id in ids}:
            with suppress(ProcessLookupError):
                os.kill(int(base), signal.SIGTERM)
        return live
    waiting = [run.point.index for run in live if run.state.state == "PENDING"]
    if waiting:
        raise UserError(f"Run {waiting[0]} waits for a free core of this machine: only all runs can be cancelled now.")
    for run in live:
        jobs.send("local", f"{sweep.folder}/submitit_logs/%j", str(run.point.job_id), signal.SIGTERM)
    return live


def to_retry(runs: list[Run], failed: bool, missing: bool, named: list[Run]) -> list[Run]:
    """Which runs `retry` submits again.

    Args:
        failed: those that ended, but not well.
        missing: those that were never submitted.
        named: single ones.

    Raises:
        UserError: one of them waits or runs.
    """
    chosen = [
        run
        for run in runs
        if run in named
        or (failed and not run.state.live and run.state.state not in _NOT_FAILED)
        or (missing and run.state.state == "NOT SUBMITTED")
    ]
    for run in chosen:
        if run.state.live:
            raise UserError(f"Run {run.point.index} is {run.state.state} as job {run.point.job_id}: it needs no retry.")
        if run.state.state == "COMPLETED":
            raise UserError(f"Run {run.point.index} is COMPLETED: to train longer, submit it with other overrides.")
    return chosen


def retry(sweep: Sweep, runs: list[Run]) -> int:
    """Submit runs again with the sweep's own command: same indices, same folders; they go on from their checkpoints.

    Returns:
        The launcher's exit code.

    Raises:
        UserError: the command held a secret, which is not kept.
    """
    words = sweep.last.command[1:]
    if words and words[0] == sweep.last.template.rpartition(".")[2]:  # mlp-launch single ...
        words = words[1:]
    if any("***" in word for word in words):
        raise UserError(f"The command held a secret that is not kept: submit again with paths.work_dir={sweep.folder}")
    only = ",".join(str(run.point.index) for run in runs)
    words = [word for word in words if not word.startswith("hydra.launcher.only=")]
    command = [sys.executable, "-m", f"{sweep.last.template}.launch", *words]
    folder = str(sweep.folder.resolve()).replace("\\", r"\\").replace("'", r"\'")  # as Hydra reads a quoted text
    command += [f"paths.work_dir='{folder}'", f"hydra.launcher.only=[{only}]"]
    return subprocess.run(command).returncode
