"""The account of a run's time (common.attempts.ledger), from lines as real attempts write them."""

import json
from pathlib import Path

import pytest

from common import attempts
from common.metrics import MetricsLog
from tests.children import tiny

# killed 30 s after its save at step 100; resumed there an hour later by another attempt, which completes
KILLED = [
    {"event": "start", "attempt": 1, "time": 1000.0},
    {"event": "resume", "attempt": 1, "step": 0, "restore_s": 0.0, "time": 1010.0},
    {"event": "save", "attempt": 1, "step": 100, "stall_s": 2.0, "write_s": 2.0, "time": 1112.0},
]
RESUMED = [
    {"event": "start", "attempt": 2, "time": 4600.0},
    {"event": "resume", "attempt": 2, "step": 100, "restore_s": 1.0, "lost_steps": 30, "lost_s": 30.0,
     "seen_at": 1142.0, "time": 4615.0},
    {"event": "save", "attempt": 2, "step": 200, "stall_s": 3.0, "write_s": 3.0, "time": 4718.0},
]  # fmt: skip


def write(out_dir: Path, events: list[dict[str, object]]) -> None:
    (out_dir / "attempts.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_the_time_of_a_killed_and_resumed_run_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [*KILLED, *RESUMED])
    monkeypatch.setattr("time.time", lambda: 4718.0)
    account = attempts.ledger(tmp_path)
    assert account == attempts.Ledger(
        attempts=2, productive_s=100.0 + 100.0, saves_s=5.0, starting_s=25.0, lost_s=30.0, waiting_s=4600.0 - 1142.0
    )
    assert account.goodput == pytest.approx(200 / 260)
    assert str(account).startswith("goodput 76.9% (200 s of steps, 5.0 s in saves, 25.0 s to start, 30.0 s lost) in 2 ")


def test_what_a_killed_attempt_had_logged_beyond_its_checkpoint_is_lost(tmp_path: Path) -> None:
    write(tmp_path, [*KILLED, RESUMED[0]])
    lines = [{"step": step, "time_s": 10.0 + step, "attempt": 1} for step in range(10, 131, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    attempts.resume(tmp_path, step=100, restore_s=1.0)
    resumed = attempts.read(tmp_path)[-1]
    assert (resumed["lost_steps"], resumed["lost_s"], resumed["seen_at"]) == (30, 30.0, 1140.0)


def test_the_slowest_save_is_known(tmp_path: Path) -> None:
    assert attempts.slowest_save_s(tmp_path) == 0.0
    write(tmp_path, [*KILLED, *RESUMED])
    assert attempts.slowest_save_s(tmp_path) == 3.0


def test_the_end_of_a_run_is_told_at_the_beginning_of_each_attempt(tmp_path: Path) -> None:
    attempts.start(tmp_path, "12_0")
    MetricsLog(tiny(tmp_path), 8, 24)
    told = attempts.read(tmp_path)[-1]
    assert (told["event"], told["attempt"], told["step"], told["total_steps"]) == ("train", 1, 8, 24)


def test_a_template_that_resumes_nothing_starts_until_it_trains() -> None:
    events = [
        {"event": "start", "attempt": 1, "time": 1000.0},
        {"event": "train", "attempt": 1, "step": 0, "total_steps": 100, "time": 1010.0},
    ]
    account = attempts.account(events, until=1040.0)
    assert (account.starting_s, account.productive_s) == (10.0, 30.0)
