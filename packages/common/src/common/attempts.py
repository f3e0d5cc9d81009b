"""attempts.jsonl: a line when an attempt at a run starts, begins to train and ends (a killed one writes no end).

{"event": "start", "attempt": 1, "job_id": "12_0", "node": "kn1", "pid": 4711, "time": 1760000000.0}
{"event": "resume", "attempt": 1, "step": 0, "restore_s": 0.3, "lost_steps": 0, "lost_s": 0.0, "time": 1760000004.5}
{"event": "train", "attempt": 1, "step": 0, "total_steps": 5000, "time": 1760000004.6}
{"event": "save", "attempt": 1, "step": 4200, "stall_s": 0.2, "write_s": 0.2, "time": 1760003600.0}
{"event": "end", "attempt": 1, "reason": "SIGUSR2", "step": 4200, "time": 1760003600.0}
{"event": "requeue", "attempt": 1, "timed_out": true, "time": 1760003600.1}
"""

import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.paths import append_line, read_lines

__all__ = ["train"]

log = logging.getLogger(__name__)

_FILE = "attempts.jsonl"
_numbers: dict[Path, int] = {}  # attempts that this process started: an older one that lives on keeps its number


def start(out_dir: Path, job_id: str) -> None:
    """Open a new attempt."""
    _numbers[out_dir] = count(out_dir) + 1
    here = {
        "job_id": job_id,
        "node": os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        "pid": os.getpid(),
    }
    _append(out_dir, "start", here)


def resume(out_dir: Path, step: int, restore_s: float) -> None:
    """Say at which step the present attempt begins (0, or that of its checkpoint) and how long the restore took; and
    what metrics.jsonl shows beyond that step: work of an attempt that was killed, which is done again."""
    facts = {"step": step, "restore_s": round(restore_s, 3)}
    lines = read_lines(out_dir / "metrics.jsonl")
    if lines:
        last = lines[-1]
        same_attempt = [line["time_s"] for line in lines if line["attempt"] == last["attempt"]]
        kept = [line["time_s"] for line in lines if line["step"] <= step and line["attempt"] == last["attempt"]]
        facts["lost_steps"] = max(0, last["step"] - step)
        facts["lost_s"] = round(last["time_s"] - (kept or same_attempt[:1])[-1], 3)
        facts["seen_at"] = first_start(out_dir) + last["time_s"]
    _append(out_dir, "resume", facts)


def train(out_dir: Path, step: int, total: int) -> None:
    """Say behind which step the present attempt begins to train, and which is the last one."""
    _append(out_dir, "train", {"step": step, "total_steps": total})


def save(out_dir: Path, step: int, stall_s: float, write_s: float) -> None:
    """Say that a checkpoint was committed: the training stood still for stall_s, it was on the disk after write_s."""
    _append(out_dir, "save", {"step": step, "stall_s": round(stall_s, 3), "write_s": round(write_s, 3)})


def end(out_dir: Path, reason: str, **facts: Any) -> None:
    """Say how the present attempt ended."""
    _append(out_dir, "end", {"reason": reason} | facts)


def requeue(out_dir: Path, *, timed_out: bool) -> None:
    """Say that the run was put back into the queue, and whether its time limit was the reason."""
    _append(out_dir, "requeue", {"timed_out": timed_out})


def read(out_dir: Path) -> list[dict[str, Any]]:
    """All events in order."""
    return read_lines(out_dir / _FILE)


def has_ended(out_dir: Path) -> bool:
    """Whether the last attempt has written down how it ended."""
    events = read(out_dir)
    return bool(events) and events[-1]["event"] == "end"


def count(out_dir: Path) -> int:
    """How many attempts were started."""
    return sum(event["event"] == "start" for event in read(out_dir))


def timeouts(out_dir: Path) -> int:
    """How many times the run was requeued because of its time limit."""
    return sum(event.get("timed_out", False) for event in read(out_dir))


@dataclass(frozen=True)
class Ledger:
    """Where the time of a run went, over all its attempts, in seconds."""

    attempts: int
    productive_s: float  # steps that count
    saves_s: float  # the training stood still for a save
    starting_s: float  # from the start of the process to the first step: imports, restore
    lost_s: float  # steps that were done again
    waiting_s: float  # in the queue between two attempts; not part of the share below

    @property
    def goodput(self) -> float:
        """Share of the time on the node that was productive, 0 to 1."""
        used = self.productive_s + self.saves_s + self.starting_s + self.lost_s
        return self.productive_s / used if used > 0 else 1.0

    def __str__(self) -> str:
        parts = [f"{self.productive_s:.0f} s of steps", f"{self.saves_s:.1f} s in saves"]
        parts += [f"{self.starting_s:.1f} s to start", f"{self.lost_s:.1f} s lost"]
        queue = f", and {self.waiting_s:.0f} s in the queue in between" if self.attempts > 1 else ""
        return f"goodput {self.goodput:.1%} ({', '.join(parts)}) in {self.attempts} attempt(s){queue}"


def ledger(out_dir: Path) -> Ledger:
    """The account of a run whose last attempt is under way."""
    return account(read(out_dir), time.time())


def account(all_events: list[dict[str, Any]], until: float) -> Ledger:
    """The account of a run.

    Args:
        until: when its last attempt showed its last sign of life, seconds since the epoch; now, if it is under way.
    """
    productive_s = saves_s = starting_s = lost_s = waiting_s = 0.0
    by_attempt: dict[int, list[dict[str, Any]]] = {}
    for event in all_events:
        by_attempt.setdefault(event["attempt"], []).append(event)
    numbers = sorted(by_attempt)
    for number in numbers:
        events = by_attempt[number]
        begun = next((event["time"] for event in events if event["event"] in ("resume", "train")), events[-1]["time"])
        after = by_attempt.get(number + 1, [])
        resumed = next((event for event in after if event["event"] == "resume"), {})
        # a killed attempt wrote no end: the next one has seen its last sign of life
        ended = max(events[-1]["time"], until if number == numbers[-1] else resumed.get("seen_at", 0.0))
        saved_s = sum(event["stall_s"] for event in events if event["event"] == "save")
        starting_s += begun - events[0]["time"]
        saves_s += saved_s
        lost_s += resumed.get("lost_s", 0.0)
        productive_s += max(0.0, ended - begun - saved_s - resumed.get("lost_s", 0.0))
        waiting_s += max(0.0, after[0]["time"] - ended) if after else 0.0
    return Ledger(len(numbers), productive_s, saves_s, starting_s, lost_s, waiting_s)


def slowest_save_s(out_dir: Path) -> float:
    """Of all saves so far; 0 where there was none."""
    return max((event["write_s"] for event in read(out_dir) if event["event"] == "save"), default=0.0)


def first_start(out_dir: Path) -> float:
    """Seconds since the epoch at which the first attempt started; now, if there was none."""
    starts = [event["time"] for event in read(out_dir) if event["event"] == "start"]
    return starts[0] if starts else time.time()


def _append(out_dir: Path, event: str, facts: dict[str, Any]) -> None:
    attempt = _numbers.get(out_dir) or count(out_dir)
    try:
        append_line(out_dir / _FILE, {"event": event, "attempt": attempt} | facts | {"time": time.time()})
    except OSError as error:  # a full disk is no reason to stop
        log.warning("%s lacks the %s of attempt %d (%s)", out_dir / _FILE, event, attempt, error)
