"""Runs a sweep on this machine, in the background: what Slurm's array is on a cluster.

One process per sweep, started by the launcher in a session of its own, so that closing the terminal or ctrl-C leaves it
alone. It starts as many runs as the cores (and GPUs) carry, the others wait; it starts a run again that asks for it; it
passes TERM and INT on to its runs. submitit's own local executor would start all runs at once and forward no USR2.

    <sweep>/submitit_logs/local_<pid>.json     {"<index>": {"state", "pids", "exit_code", "node"}}: it writes, we read

common.pack runs several runs in one job of Slurm in the same way.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from common.errors import UserError
from common.paths import write_atomic
from common.slurm import JobState, clean_environment

POLL_S = 0.1
_KILL_AFTER_S = 30.0  # between TERM and KILL, as Slurm's KillWait


@dataclass
class Plan:
    """What the background process needs to know."""

    folder: str  # submitit's folder, with %j
    python: str  # shell command that starts Python
    tasks_per_run: int
    at_once: int  # runs
    gpus_per_run: int | None
    timeout_min: int  # 0: somebody else sees to it
    signal_delay_s: int
    setup: list[str]
    count: int  # runs in all
    env: dict[str, str] = field(default_factory=dict)  # of the runs, besides


@dataclass
class Run:
    """One run of the array."""

    index: int
    state: str = "PENDING"
    exit_code: int | None = None
    pids: list[int] = field(default_factory=list)
    tasks: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    gpus: list[str] = field(default_factory=list)
    notice_at: float = 0.0
    term_at: float = 0.0
    kill_at: float = 0.0


def at_once(tasks_per_run: int, cpus_per_task: int, gpus_per_run: int | None) -> int:
    """How many runs this machine carries at the same time.

    Raises:
        UserError: not even one, for want of GPUs.
    """
    runs = max(1, cores() // (tasks_per_run * cpus_per_task))
    if gpus_per_run:
        gpus = len(_visible_gpus())
        if gpus < gpus_per_run:
            raise UserError(f"compute.gpus_per_node={gpus_per_run}, but this machine shows {gpus} GPU(s).")
        runs = min(runs, gpus // gpus_per_run)
    return runs


@dataclass
class Held:
    """A background process that waits for the word to begin."""

    plan: Plan
    process: "subprocess.Popen[bytes]"

    @property
    def base(self) -> str:
        """The array's part of the job ids, <pid>_<index>."""
        return str(self.process.pid)

    def start(self) -> None:
        """Let it begin. If we die before this line is written, it reads nothing and leaves."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(self.plan)).encode())
        self.process.stdin.close()

    def drop(self) -> None:
        """Let it leave."""
        assert self.process.stdin is not None
        self.process.stdin.close()


def hold(plan: Plan, delayed: list[DelayedSubmission]) -> Held:
    """Start the background process and leave the pickled calls for it."""
    base = JobPaths.get_first_id_independent_folder(plan.folder)
    base.mkdir(parents=True, exist_ok=True)
    with clean_environment(), (base / "local_array.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "common.local"],
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    for index, call in enumerate(delayed):
        paths = JobPaths(plan.folder, f"{process.pid}_{index}")
        paths.folder.mkdir(parents=True, exist_ok=True)
        call.dump(paths.submitted_pickle)
    return Held(plan, process)


def states(folder: str, job_ids: list[str]) -> dict[str, JobState]:
    """The state of each job, as the background process last wrote it. UNKNOWN where its process is another machine's,
    and where its files are gone."""
    here = os.uname().nodename
    known: dict[str, JobState] = {}
    for base in {job_id.split("_")[0] for job_id in job_ids}:
        written = read_states(folder, base)
        alive: bool | None = None  # nobody has looked
        for job_id in (job_id for job_id in job_ids if job_id.startswith(f"{base}_")):
            waiting: dict[str, Any] = {"state": "PENDING", "pids": [], "exit_code": None, "node": here}
            run = waiting | written.get(job_id.split("_")[1], {})
            state = run["state"]
            if state in ("PENDING", "RUNNING"):
                alive = _runs(int(base), "common.local") if alive is None else alive
                if run["node"] != here or not (alive or written):  # or it was never told to begin
                    state = "UNKNOWN"
                elif not alive:  # it was killed; its runs may live on
                    state = "RUNNING" if any(_runs(pid, "common.node") for pid in run["pids"]) else "FAILED"
            known[job_id] = JobState(state, run["node"], str(run["exit_code"]))
    return known


def pids(folder: str, job_id: str) -> list[int]:
    """The processes of a running job, one per rank; none of a job that waits or has ended."""
    base, _, index = job_id.partition("_")
    run = read_states(folder, base).get(index, {"state": "PENDING", "pids": []})
    return run["pids"] if run["state"] == "RUNNING" else []


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _state_file(folder: str, base: str) -> Path:
    return JobPaths.get_first_id_independent_folder(folder) / f"local_{base}.json"


def read_states(folder: str, base: str) -> dict[str, dict[str, Any]]:
    """What the process of an array has written about its runs, by index; empty before it began."""
    path = _state_file(folder, base)
    return json.loads(path.read_text()) if path.exists() else {}


def _runs(pid: int, module: str) -> bool:
    """Whether the process is alive and runs that module of ours (a number may have been given to another)."""
    # -ww: else $COLUMNS cuts the line, and behind a long path of Python the module is not seen
    shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True)
    return module in shown.stdout


def _visible_gpus() -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    return [str(n) for n, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


class Array:
    """The background process: starts, watches and ends the runs of one sweep."""

    own_sessions = False  # of the runs' processes
    separator = "_"  # between the array's part of a job id and the run's

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.base = self.name()
        self.runs = [Run(index) for index in range(plan.count)]
        self.free_gpus = _visible_gpus()
        self.cancelled = False
        self.catch_signals()

    def name(self) -> str:
        """The array's part of the job ids."""
        return str(os.getpid())

    def environment(self) -> dict[str, str]:
        """Of the runs."""
        return dict(os.environ)

    def catch_signals(self) -> None:
        """TERM and INT cancel all."""
        signal.signal(signal.SIGTERM, self._cancel)
        signal.signal(signal.SIGINT, self._cancel)

    def work(self) -> None:
        """Until no run waits or runs."""
        self._write_states()
        while any(run.state in ("PENDING", "RUNNING") for run in self.runs):
            self.look()
            time.sleep(POLL_S)

    def look(self) -> None:
        """Start what may start, note what has ended."""
        for run in self.runs:
            if run.state == "RUNNING":
                self._watch(run)
            elif run.state == "PENDING" and self.cancelled:
                self._set(run, "CANCELLED")
            elif run.state == "PENDING" and self.running() < self.plan.at_once:
                self._start(run)

    def running(self) -> int:
        """How many run."""
        return sum(run.state == "RUNNING" for run in self.runs)

    def _start(self, run: Run) -> None:
        job_id = f"{self.base}{self.separator}{run.index}"
        run.gpus, self.free_gpus = _take(self.free_gpus, self.plan.gpus_per_run)
        command = f"{self.plan.python} -u -P -m common.node {shlex.quote(self.plan.folder)}"
        script = "\n".join([*self.plan.setup, f"exec {command}"])
        run.tasks = []
        for rank in range(self.plan.tasks_per_run):
            paths = JobPaths(self.plan.folder, job_id, rank)
            env = self.environment() | self.plan.env | self._rank_environment(job_id, rank)
            if self.plan.gpus_per_run is not None:
                env["CUDA_VISIBLE_DEVICES"] = ",".join(run.gpus)
            with paths.stdout.open("ab") as out, paths.stderr.open("ab") as err:
                run.tasks.append(
                    subprocess.Popen(
                        ["/bin/sh", "-c", script],
                        env=env,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                        start_new_session=self.own_sessions,
                    )
                )
        if self.plan.timeout_min:
            now = time.monotonic()
            run.notice_at = now + max(0, self.plan.timeout_min * 60 - self.plan.signal_delay_s)
            run.term_at = now + self.plan.timeout_min * 60
            run.kill_at = run.term_at + _KILL_AFTER_S
        run.pids = [task.pid for task in run.tasks]
        self._set(run, "RUNNING")

    def _rank_environment(self, job_id: str, rank: int) -> dict[str, str]:
        return {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_JOB_ID": job_id,
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_NTASKS": str(self.plan.tasks_per_run),
            "SUBMITIT_LOCAL_GLOBALID": str(rank),
            "SUBMITIT_LOCAL_LOCALID": str(rank),
        }

    def _watch(self, run: Run) -> None:
        codes = [task.poll() for task in run.tasks]
        if any(code not in (None, 0, LOCAL_REQUEUE_RETURN_CODE, 143) for code in codes):
            send(run, signal.SIGKILL)  # one rank failed: the others would wait for it for ever
        if None in codes:
            self._remind(run)
            return
        self.free_gpus += run.gpus
        run.exit_code = next((code for code in codes if code), 0)
        self._set(run, self.state_after(codes, run.exit_code))

    def state_after(self, codes: list[int | None], exit_code: int) -> str:
        """The state of a run whose processes have ended with these codes."""
        if LOCAL_REQUEUE_RETURN_CODE in codes and not self.cancelled:
            return "PENDING"
        if exit_code == 0:
            return "COMPLETED"
        return "CANCELLED" if self.cancelled or exit_code in (143, -signal.SIGTERM) else "FAILED"

    def _remind(self, run: Run) -> None:
        now = time.monotonic()
        for due, sig in (
            ("notice_at", signal.SIGUSR2),
            ("term_at", signal.SIGTERM),
            ("kill_at", signal.SIGKILL),
        ):
            if now >= getattr(run, due) > 0:
                setattr(run, due, 0.0)
                send(run, sig)

    def _cancel(self, signum: int, frame: FrameType | None) -> None:
        self.cancelled = True
        for run in self.runs:
            if run.state == "RUNNING":
                send(run, signal.SIGTERM)
                run.kill_at = time.monotonic() + _KILL_AFTER_S

    def _set(self, run: Run, state: str) -> None:
        run.state = state
        self._write_states()

    def _write_states(self) -> None:
        node = os.uname().nodename
        shown = {r.index: {"state": r.state, "pids": r.pids, "exit_code": r.exit_code, "node": node} for r in self.runs}
        write_atomic(_state_file(self.plan.folder, self.base), json.dumps(shown))


def _take(free: list[str], count: int | None) -> tuple[list[str], list[str]]:
    return free[: count or 0], free[count or 0 :]


def send(run: Run, sig: signal.Signals) -> None:
    """To every process of a run."""
    for task in run.tasks:
        if task.poll() is None:
            task.send_signal(sig)


if __name__ == "__main__":
    order = sys.stdin.read()
    if order:
        Array(Plan(**json.loads(order))).work()
