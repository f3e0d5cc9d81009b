"""common.paths: files that are whole, and lines that survive a torn neighbour."""

import os
import stat
from multiprocessing.context import ForkContext
from pathlib import Path

import pytest

from common.attempts import count, read, start
from common.paths import LineFile, append_line, last_line, read_lines, sync_lines, write_atomic
from tests.disk import full_disk


def test_write_atomic_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, "old")
    write_atomic(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644  # others of the group read it


def test_a_write_that_fails_keeps_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    with full_disk(1024), pytest.raises(OSError, match="File too large"):
        write_atomic(path, "n" * 1_000_000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_a_part_of_a_file(tmp_path: Path, children: ForkContext) -> None:
    from tests.children import write_for_ever

    path = tmp_path / "file"
    write_atomic(path, "a" * 300_000)
    writer = children.Process(target=write_for_ever, args=(path,), daemon=True)
    writer.start()
    seen: set[str] = set()
    reads = 0
    while len(seen) < 2 or reads < 200:
        text = path.read_text()
        assert len(text) == 300_000
        assert len(set(text)) == 1
        seen.add(text[0])
        reads += 1
    writer.kill()
    writer.join()


def test_lines_come_back_and_a_torn_last_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert read_lines(path) == []
    append_line(path, {"a": 1})
    append_line(path, {"a": 2})
    with path.open("a") as file:
        file.write('{"a": ')
    assert read_lines(path) == [{"a": 1}, {"a": 2}]
    assert last_line(path) == {"a": 2}


def test_an_attempt_after_a_torn_line_is_not_lost(tmp_path: Path) -> None:
    # the disk was full, or the node died, in the middle of a line of attempts.jsonl
    start(tmp_path, "1")
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"event": "en')
    start(tmp_path, "2")
    assert count(tmp_path) == 2
    assert [event["job_id"] for event in read(tmp_path)] == ["1", "2"]
    assert os.getpid() == read(tmp_path)[-1]["pid"]


def test_lines_without_room_wait_in_memory_and_stand_in_the_file_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lines.jsonl"
    lines = LineFile(path)
    lines.append({"step": 1})
    with full_disk(path.stat().st_size + 5):  # room for half a line
        lines.append({"step": 2})
        lines.append({"step": 3})
        with pytest.raises(OSError, match=r"No space left|File too large"):
            sync_lines(path)
    assert path.read_text() == '{"step": 1}\n'
    assert caplog.text.count("its lines wait in memory") == 1
    lines.append({"step": 4})
    assert path.read_text() == "".join(f'{{"step": {step}}}\n' for step in (1, 2, 3, 4))
    lines.close()
