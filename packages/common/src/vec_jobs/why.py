"""Why a run is where it is: one paragraph, from its scheduler, its ledger of attempts and its logs."""

import re

from common import attempts
from common.runs import Run

_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)', re.MULTILINE)
_LOG_END = 100_000  # characters of a log that are read
_FAILURES = {
    "OUT_OF_MEMORY": "it took more memory than it had asked for ({mem}): ask for more with compute.mem_gb=<GiB>.",
    "TIMEOUT": "it reached its time limit and was not put back into the queue (requeue.enabled, "
    "requeue.max_num_timeout).",
    "NODE_FAIL": "its node failed. Slurm puts such a job back into the queue, if it may.",
    "BOOT_FAIL": "its node did not start.",
    "DEADLINE": "its deadline came before it could end.",
    "PREEMPTED": "a job of higher priority took its place.",
    "CANCELLED": "it was cancelled. It has saved, if it was told to leave before it was killed.",
}


def why(run: Run) -> str:
    """The paragraph."""
    events = attempts.read(run.out_dir)
    starts = [event for event in events if event["event"] == "start"]
    saves = [event["step"] for event in events if event["event"] == "save"]
    state = run.state.state
    sentences = [f"Run {run.point.index} (job {run.point.job_id or 'none'}) is {state}: {_cause(run, bool(starts))}"]
    if starts:
        stops = [event for event in events if event["event"] == "end" and event["reason"] != "completed"]
        sentences.append(f"It has had {len(starts)} attempt(s), the last on {starts[-1]['node']}.")
        if len(starts) > 1:
            ends = ", ".join(_short(str(stop["reason"])) for stop in stops[:-1] or stops)
            sentences.append(f"Earlier ones ended by {ends}." if ends else "Earlier ones were killed.")
        sentences.append(f"Its last save is of step {saves[-1]}." if saves else "It has saved nothing yet.")
    if frame := _users_frame(run):
        sentences.append(f"It failed in {frame}.")
    return " ".join(sentences)


def _cause(run: Run, started: bool) -> str:
    state = run.state.state
    if state == "COMPLETED":
        return "it has ended well."
    if state == "RUNNING":
        return f"it runs, at step {run.last_metrics.get('step', 0)}."
    if state in ("PENDING", "REQUEUED"):
        return "it waits in the queue." if not started else "it waits in the queue to go on."
    if state == "NOT SUBMITTED":
        return "the launcher ended before it could submit it; vec-jobs retry --missing does."
    if state == "ON HOLD":
        return "the launcher was killed before it let it start; vec-jobs retry --missing does."
    if state == "UNKNOWN":
        return "its scheduler does not know it any more, and it has left no result."
    ending = run.reason
    if state in _FAILURES and (state != "CANCELLED" or not ending):
        asked = run.point.config.get("compute.mem_gb")
        return _FAILURES[state].format(mem=f"{asked} GiB" if asked else "compute.mem_gb")
    if ending:
        return f"{_short(ending)}."
    code, _, sig = run.state.exit_code.partition(":")
    if sig == "9" or code in ("9", "137", "-9"):  # srun ends with the number of the signal
        return "it was killed (signal 9), as the system does when memory runs out, or an administrator."
    return (
        f"it ended with exit code {run.state.exit_code or 'unknown'} before it could say why; see vec-jobs logs --err."
    )


def _users_frame(run: Run) -> str:
    """The innermost line of the last traceback that is not in an installed package; empty without a traceback."""
    if run.state.state in ("COMPLETED", "RUNNING", "PENDING"):
        return ""
    for path in sorted(run.logs.glob("*_log.err"), key=lambda log: log.stat().st_mtime, reverse=True):
        text = path.read_text(encoding="utf-8", errors="replace")[-_LOG_END:]
        if "Traceback (most recent call last)" in text:
            frames = [match for match in _FRAME.finditer(text[text.rindex("Traceback (most recent call last)") :])]
            own = [match for match in frames if "site-packages" not in match["file"]] or frames
            if own:
                return f"{own[-1]['file']}, line {own[-1]['line']}, {own[-1]['function']}"
    return ""


def _short(text: str) -> str:
    first = text.splitlines()[0] if text else ""
    return (first if len(first) <= 300 else f"{first[:300]}…").rstrip(".")
