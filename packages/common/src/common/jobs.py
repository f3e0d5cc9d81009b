"""The jobs of a submission, whoever runs them: Slurm, or this machine (common.local)."""

import os
import signal
from contextlib import suppress

from common import local, slurm
from common.slurm import JobState


def states(executor: str, folder: str, job_ids: list[str]) -> dict[str, JobState]:
    """The state of each job.

    Args:
        executor: of the submission, `slurm` or `local`.
        folder: submitit's, with %j.
    """
    if not job_ids:
        return {}
    return slurm.states(job_ids) if executor == "slurm" else local.states(folder, job_ids)


def send(executor: str, folder: str, job_id: str, sig: signal.Signals) -> None:
    """A signal to every process of a running job."""
    if executor == "slurm":
        slurm.send(job_id, sig)
    else:
        for pid in local.pids(folder, job_id):
            with suppress(ProcessLookupError):
                os.kill(pid, sig)
