"""What changes runs: cancelling, and submitting again."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

from common import jobs, pack, slurm
from common.errors import UserError
from common.runs import Run
from common.sweep import Submission
from vec_jobs.sweeps import Sweep

_MISSING = ("NOT SUBMITTED", "ON HOLD")  # its launcher was killed before it could start
_NOT_FAILED = ("COMPLETED", "UNKNOWN", *_MISSING)


def cancel(sweep: Sweep, runs: list[Run], chosen: list[Run]) -> list[Run]:
    """Tell chosen runs that wait or run to end. They save before they leave.

    Args:
        runs: all of the sweep.

    Returns:
        Those that were told.

    Raises:
        UserError: a run waits on this machine, where only all of them can be cancelled.
    """
    live = [run for run in chosen if run.state.live or run.state.state == "ON HOLD"]
    ids = [str(job_id) for run in live for job_id in (run.point.job_id, run.point.service_job_id) if job_id]
    if not live:
        return []
    if live[0].submission.executor == "slurm":
        shared = {job_id.partition(pack.SEPARATOR)[0] for job_id in ids}
        others = [run for run in runs if run.state.live and run not in live]
        for other in others:
            if (job := str(other.point.job_id).partition(pack.SEPARATOR)[0]) in shared:
                raise UserError(f"Run {other.point.index} shares job {job}: cancel all runs of the job together.")
        slurm.cancel(sorted(shared))
        return live
    if len(live) == sum(run.state.live for run in runs):
        for base in {slurm.base(job_id) for job_id in ids}:
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
        or (missing and run.state.state in _MISSING)
    ]
    for run in chosen:
        if run.state.live:
            raise UserError(f"Run {run.point.index} is {run.state.state} as job {run.point.job_id}: it needs no retry.")
        if run.state.state == "COMPLETED":
            raise UserError(f"Run {run.point.index} is COMPLETED: to train longer, submit it with other overrides.")
    return chosen


def retry(sweep: Sweep, runs: list[Run], quiet: bool = False) -> int:
    """Submit runs again as they were: same indices, same folders; they go on from their checkpoints.

    Args:
        quiet: what the launcher tells goes to stderr.

    Returns:
        The launcher's exit code.

    Raises:
        UserError: the command held a secret, which is not kept.
    """
    groups: dict[int, list[Run]] = {}  # a sweep that was extended has several commands
    for run in runs:
        groups.setdefault(id(run.submission), []).append(run)
    codes: list[int] = []
    for number, group in enumerate(groups.values(), start=1):
        only = ",".join(str(run.point.index) for run in group)
        here = ["hydra.launcher.wait=false"] if number < len(groups) else []
        codes.append(_submit(sweep, group[0].submission, [f"hydra.launcher.only=[{only}]", *here], quiet))
    return max(codes)


def extend(sweep: Sweep, overrides: list[str], quiet: bool = False) -> int:
    """Add points to a sweep: its command with other values, numbered on. Points that it has are left out.

    Returns:
        The launcher's exit code.

    Raises:
        UserError: the command held a secret, which is not kept; or a search, which is extended by more trials.
    """
    first = sweep.submissions[0]
    if "sweep=optuna" in first.command:
        raise UserError(
            f"{sweep.name} is a search: submit it again with paths.work_dir={sweep.folder} and more "
            "hydra.sweeper.n_trials."
        )
    return _submit(sweep, first, [*overrides, f"hydra.launcher.first={max(sweep.indices) + 1}"], quiet)


def _submit(sweep: Sweep, submission: Submission, overrides: list[str], quiet: bool) -> int:
    """The command of a submission, in its folder, with these overrides instead of its own."""
    words = submission.command[1:]
    if words and words[0] == submission.template.rpartition(".")[2]:  # mlp-launch single ...
        words = words[1:]
    folder = str(sweep.folder.resolve()).replace("\\", r"\\").replace("'", r"\'")  # as Hydra reads a quoted text
    overrides = [*overrides, f"paths.work_dir='{folder}'"]
    replaced = {"hydra.launcher.only", *(override.partition("=")[0].lstrip("+~") for override in overrides)}
    words = [word for word in words if word.partition("=")[0].lstrip("+~") not in replaced]
    if any("***" in word for word in words):
        raise UserError(f"The command held a secret that is not kept: submit again with paths.work_dir={sweep.folder}")
    command = [sys.executable, "-m", f"{submission.template}.launch", *words, *overrides]
    return subprocess.run(command, stdout=sys.stderr if quiet else None).returncode
