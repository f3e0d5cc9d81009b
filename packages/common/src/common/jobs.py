"""The jobs of a submission, whoever runs them: Slurm, or this machine (common.local)."""

import os
import signal
from contextlib import suppress

from common import local, pack, slurm
from common.slurm import JobState
from common.sweep import Submission


def states(executor: str, folder: str, job_ids: list[str]) -> dict[str, JobState]:
    """The state of each job.

    Args:
        executor: of the submission, `slurm` or `local`.
        folder: submitit's, with %j.
    """
    if not job_ids:
        return {}
    if executor != "slurm":
        return local.states(folder, job_ids)
    shared = [job_id for job_id in job_ids if pack.SEPARATOR in job_id]
    alone = [job_id for job_id in job_ids if pack.SEPARATOR not in job_id]
    return (slurm.states(alone) if alone else {}) | (pack.states(folder, shared) if shared else {})


def left_on_hold(submission: Submission) -> dict[str, str]:
    """The jobs of a submission that its launcher has queued, but was killed before it let them start.

    Returns:
        Job id (of a whole array) by request.
    """
    if submission.state != "submitting" or submission.executor != "slurm":
        return {}
    requests = {request for point in submission.points for request in (point.request, point.service_request)}
    return slurm.held([request for request in requests if request])


def send(executor: str, folder: str, job_id: str, sig: signal.Signals) -> None:
    """A signal to every process of a running job, also of the runs that share it."""
    if executor == "slurm":
        slurm.send(job_id.partition(pack.SEPARATOR)[0], sig)
    else:
        for pid in local.pids(folder, job_id):
            with suppress(ProcessLookupError):
                os.kill(pid, sig)
