"""Several runs in one job of Slurm (`hydra.launcher.runs_per_job`): one after the other, or at once on its one GPU.

The job's process starts its runs as common.local does on a laptop: each in processes of its own, with its own folder,
log and state. A signal to the job is passed on; the runs save, and the job goes back into the queue with those that
are not done.

    <sweep>/submitit_logs/local_<job id>.json    the states of its runs
    <sweep>/submitit_logs/<job id>.<n>/          the logs of its run n
"""

import os
import shlex
import signal
import sys
import time

from submitit.core.job_environment import JobEnvironment
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from common import local, preempt, slurm
from common.slurm import JobState

SEPARATOR = "."
_SHOWN = ("SLURM_CONF", "SLURM_JOB_END_TIME", "SUBMITIT_PREEMPT_SIGNAL")
_ENDED = ("COMPLETED", "FAILED")


class Pack(local.Array):
    """The process of the job."""

    separator = SEPARATOR
    own_sessions = True  # the runs hear signals from this process alone, once each

    def __init__(self, plan: local.Plan) -> None:
        super().__init__(plan)
        written = local.read_states(plan.folder, self.base)  # by an earlier attempt
        for run in self.runs:
            state = written.get(str(run.index), {"state": "PENDING"})["state"]
            run.state = state if state in _ENDED else "PENDING"

    def name(self) -> str:
        """Slurm's id of the job."""
        return JobEnvironment().job_id

    def catch_signals(self) -> None:
        """They set a flag, as in a run."""
        preempt.install()

    def environment(self) -> dict[str, str]:
        """Without what would let a run take the job for its own; but it should know when the job ends."""
        hidden = ("SLURM_", "SUBMITIT_")
        return {k: v for k, v in os.environ.items() if not k.startswith(hidden) or k in _SHOWN}

    def work(self) -> None:
        """Until all runs have ended, or those that were told to leave have left."""
        told: set[tuple[int, int]] = set()  # process, signal: TERM may follow a notice
        while any(run.state == "RUNNING" or (run.state == "PENDING" and not preempt.requested()) for run in self.runs):
            sig = preempt.requested()
            for run in self.runs:
                if sig is not None and run.state == "RUNNING" and (run.pids[0], sig) not in told:
                    local.send(run, sig)
                    told.add((run.pids[0], sig))
            self.look()
            time.sleep(local.POLL_S)

    def running(self) -> int:
        """None is started once the job is told to leave."""
        return sys.maxsize if preempt.requested() else super().running()

    def state_after(self, codes: list[int | None], exit_code: int) -> str:
        """A run that left, or was not far enough to catch the signal, goes on with the job."""
        sig = preempt.requested()
        if LOCAL_REQUEUE_RETURN_CODE in codes or (sig and exit_code in (128 + sig, -sig)):
            return "PENDING"
        return "COMPLETED" if exit_code == 0 else "FAILED"


def run_pack(folder: str, count: int, at_once: int, cores: int, max_num_timeout: int) -> None:
    """What the job of several runs runs.

    Args:
        folder: submitit's, with %j.
        count: of its runs.
        at_once: of those.
        cores: of the job.
        max_num_timeout: as for submitit.

    Raises:
        SystemExit: some did not complete, or the job was told to leave.
    """
    pack = Pack(
        local.Plan(
            folder=folder,
            python=shlex.quote(sys.executable),  # of this job: in a container, the one inside
            tasks_per_run=1,
            at_once=at_once,
            gpus_per_run=None,
            timeout_min=0,  # Slurm sees to it
            signal_delay_s=0,
            setup=[],  # its script has done it
            count=count,
            env={"OMP_NUM_THREADS": str(max(1, cores // at_once))},
        )
    )
    env = JobEnvironment()
    pack.work()
    states = [run.state for run in pack.runs]
    sig = preempt.requested()
    if "PENDING" in states and sig is not None:
        if sig == signal.SIGTERM and not slurm.preempted_with_grace(env.job_id):
            sys.exit(128 + sig)  # Slurm decides whether the job comes back
        env._requeue(max_num_timeout)
        sys.exit(0)
    if "FAILED" in states:
        sys.exit(f"{states.count('FAILED')} of {len(states)} runs of this job failed")


def states(folder: str, job_ids: list[str]) -> dict[str, JobState]:
    """The states of runs that share a job, `<job id>.<n>`, from the job's and from what its process has written."""
    parts = {job_id: job_id.partition(SEPARATOR) for job_id in job_ids}
    jobs = slurm.states(sorted({job for job, _, _ in parts.values()}))
    written = {job: local.read_states(folder, job) for job in jobs}
    return {job_id: _state(jobs[job], written[job].get(number)) for job_id, (job, _, number) in parts.items()}


def _state(job: JobState, written: dict[str, str] | None) -> JobState:
    state = written["state"] if written else "PENDING"
    if state in _ENDED:
        return JobState(state, job.node, str(written["exit_code"]) if written else "")
    if job.live and state == "PENDING":  # the job may run, but not yet this run
        return JobState("PENDING", "")
    return job
