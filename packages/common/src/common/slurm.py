"""What we ask Slurm's own commands: sbatch, sacct, squeue, scontrol."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

# States in which a job may still run, or run again.
LIVE = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_FED",
    "REQUEUE_HOLD", "RESIZING", "SIGNALING", "STAGE_OUT", "PREEMPTED", "SPECIAL_EXIT",
}  # fmt: skip


@dataclass(frozen=True)
class JobState:
    """What is known of one job: Slurm's word for its state, its node(s) and exit code (`code:signal`)."""

    state: str  # "UNKNOWN" where nobody could tell
    node: str = ""
    exit_code: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE


@contextmanager
def clean_environment() -> Generator[None]:
    """Hide the surrounding job's SLURM_* from a submission made inside a job.

    Inherited, they pin all ranks of the new job to the old job's few cores, or break its srun. SLURM_CONF stays: it
    says which cluster is asked.
    """
    hidden = {k: v for k, v in os.environ.items() if k.startswith(("SLURM_", "SUBMITIT_")) and k != "SLURM_CONF"}
    hidden.pop("SUBMITIT_PREEMPT_SIGNAL", None)  # a user's setting, not a job's
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def check_available() -> None:
    """Refuse to submit where there is no Slurm.

    Raises:
        UserError: sbatch or srun is missing.
    """
    for command in ("sbatch", "srun"):
        if shutil.which(command) is None:
            raise UserError(
                f"There is no Slurm on this machine ({command} not found): run here with compute=local, "
                "or submit from a login node of the cluster."
            )


def test_only(script: str) -> str:
    """Ask Slurm whether it would accept a batch script, without queueing anything (`sbatch --test-only`).

    Returns:
        Slurm's estimate: "Job 7 to start at ... using ... processors on nodes ...".

    Raises:
        UserError: with sbatch's own reason.
    """
    with clean_environment():
        asked = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=120)
    said = [re.sub("^(sbatch: |error: |allocation failure: )+", "", line) for line in asked.stderr.splitlines()]
    if asked.returncode != 0:
        reasons = [line for line in said if line and not line.startswith("Try ")]
        raise UserError(f"Slurm refuses the job: {'; '.join(reasons) or 'sbatch gave no reason'}.")
    return said[-1] if said else ""


def submit_held(script: Path, lock: int) -> str:
    """Queue a batch script, but do not let it start yet (`release`).

    Args:
        lock: a file descriptor that sbatch inherits, so that the lock behind it outlasts us while sbatch works.

    Returns:
        The job's id.

    Raises:
        UserError: in sbatch's words.
    """
    command = ["sbatch", "--parsable", "--hold", str(script)]
    with clean_environment():
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, pass_fds=[lock])
    if done.returncode != 0:
        raise UserError(" ".join(done.stderr.split()))
    return done.stdout.strip().partition(";")[0]  # "12;cluster" where there are several


def release(job_id: str, lock: int) -> None:
    """Let a held job start.

    Args:
        lock: as for submit_held.

    Raises:
        UserError: in scontrol's words.
    """
    command = ["scontrol", "release", job_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, pass_fds=[lock])
    if done.returncode != 0:
        raise UserError(" ".join((done.stderr or done.stdout).split()))


def held(requests: list[str]) -> dict[str, str]:
    """The jobs that still wait as `submit_held` left them.

    Args:
        requests: parts of the names of their batch scripts.

    Returns:
        Job id by request.
    """
    if not requests:
        return {}
    command = ["squeue", "--me", "-h", "-t", "PENDING", "-o", "%F|%Q|%o"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = [line.split("|", 2) for line in answer.stdout.splitlines()]
    return {
        request: job_id
        for job_id, priority, script in lines
        for request in requests
        if priority == "0" and request in script  # the reason may be another: BeginTime, Dependency
    }


def max_array_size() -> int:
    """How many tasks one job array may have (MaxArraySize); Slurm's default where nobody can tell."""
    return int(_config("MaxArraySize") or 1001)


def states(job_ids: list[str]) -> dict[str, JobState]:
    """The state of each job, from one query: sacct where the site keeps accounts, else squeue; which is asked, too,
    about jobs that the accounts do not know yet, a second or two after their submission."""
    known = _sacct(job_ids) or {}
    if unknown := [job_id for job_id in job_ids if job_id not in known]:
        known |= _squeue(unknown)
    return {job_id: known.get(job_id, JobState("UNKNOWN")) for job_id in job_ids}


def cancel(job_ids: list[str]) -> None:
    """scancel, where there is anything to cancel."""
    if job_ids:
        subprocess.run(["scancel", *job_ids], capture_output=True, timeout=120)


def send(job_id: str, sig: signal.Signals) -> None:
    """A signal to every process of a running job (`scancel --signal`).

    Raises:
        UserError: Slurm refuses, in its words.
    """
    command = ["scancel", f"--signal={sig.name.removeprefix('SIG')}", job_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise UserError(f"scancel: {' '.join(done.stderr.split())}")


def start_soon(job_id: str) -> None:
    """Let a requeued job start without the rest of the hold (two minutes by default). Not at once: a job that starts
    in the second in which its old run was ended FAILS with 'Job credential revoked'."""
    update = ["scontrol", "update", f"jobid={job_id}", "StartTime=now+2"]
    subprocess.run(update, capture_output=True, timeout=120)


def preempted_with_grace(job_id: str) -> bool:
    """Whether Slurm preempts the job, but leaves it its GraceTime. TERM comes at the beginning of that time; a job that
    ends by itself before its end has FAILED, and does not come back."""
    try:
        show = ["scontrol", "show", "job", "-o", job_id]
        shown = subprocess.run(show, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "JobState=RUNNING" in shown and re.search(r"PreemptTime=\d", shown) is not None


def kill_wait_s() -> float:
    """Seconds between TERM and KILL (KillWait of slurm.conf); Slurm's default where nobody can tell."""
    return float(_config("KillWait") or 30)


def configuration() -> dict[str, str]:
    """slurm.conf as scontrol shows it, e.g. `{"KillWait": "30 sec"}`; empty where nobody can tell."""
    try:
        shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=5).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(re.findall(r"^(\w+)\s*= (.*)$", shown, re.MULTILINE))


def _config(name: str) -> str | None:
    """The number that slurm.conf gives a name."""
    match = re.match(r"\d+", configuration().get(name, ""))
    return match.group() if match else None


def node_address(node: str) -> str:
    """A name or address under which other nodes reach `node`; its Slurm address where the name does not resolve."""
    try:
        socket.gethostbyname(node)
    except OSError:
        shown = subprocess.run(["scontrol", "show", "node", node], capture_output=True, text=True, timeout=60).stdout
        match = re.search(r"NodeAddr=(\S+)", shown)
        return match.group(1) if match else node
    return node


def base(job_id: str) -> str:
    """`12_3` (a task of an array) and `12_3.1` (a run that shares it) -> `12`: what scancel takes for all."""
    return re.split("[_.]", job_id)[0]


def _bases(job_ids: list[str]) -> str:
    return ",".join(sorted({base(job_id) for job_id in job_ids}))


def _sacct(job_ids: list[str]) -> dict[str, JobState] | None:
    command = ["sacct", "-n", "-P", "-X", "-o", "JobID,State,NodeList,ExitCode", "-j", _bases(job_ids)]
    return _query(command)


def _squeue(job_ids: list[str]) -> dict[str, JobState]:
    # -t all: finished jobs, too, as long as slurmctld remembers them (MinJobAge, 5 minutes by default)
    return _query(["squeue", "-h", "-t", "all", "-o", "%i|%T|%N|", "-j", _bases(job_ids)]) or {}


def _query(command: list[str]) -> dict[str, JobState] | None:
    env = os.environ | {"SLURM_BITSTR_LEN": "0"}  # else a long list of waiting tasks is cut: 12_[0,2,4,...]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        return None
    found: dict[str, JobState] = {}
    for line in answer.stdout.splitlines():
        job_id, state, node, exit_code = (line.split("|") + [""] * 4)[:4]
        # "CANCELLED by 1000" -> CANCELLED
        known = JobState((state.split() or ["UNKNOWN"])[0], node, exit_code)
        found |= dict.fromkeys(expand(job_id), known)
    return found


def expand(job_id: str) -> list[str]:
    """`"12_[0-2,5,10-14:2%2]"` -> `["12_0", "12_1", "12_2", "12_5", "12_10", "12_12", "12_14"]`: how Slurm writes array
    tasks that still wait."""
    match = re.fullmatch(r"(\d+)_\[([\d,\-:]+)(?:%\d+)?\]", job_id)
    if match is None:
        return [job_id]
    base, ranges = match.groups()
    tasks: list[int] = []
    for part in ranges.split(","):
        ends, _, step = part.partition(":")
        first, _, last = ends.partition("-")
        tasks += range(int(first), int(last or first) + 1, int(step or 1))
    return [f"{base}_{task}" for task in tasks]
