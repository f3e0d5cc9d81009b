"""The live table in a real terminal (tmux); ctrl-C does nothing to the runs behind it, unless one asks it to."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from common.paths import read_lines
from vec_jobs.sweeps import Sweep

pytestmark = pytest.mark.browser

WIDTH, HEIGHT = 130, 24
VEC_JOBS = str(Path(sys.executable).with_name("vec-jobs"))


class Terminal:
    """A session of a tmux server of its own."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux.socket"), "-f", "/dev/null"]
        env = os.environ | {"USER": "alice", "PS1": "$ ", "VEC_WORK_ROOT": str(folder)}
        size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
        subprocess.run([*self._tmux, "new-session", "-d", *size, "-c", str(folder), "sh"], check=True, env=env)

    def press(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def press_when(self, wanted: str, *keys: str) -> None:
        """As soon as a program prints this, however busy the test is."""
        react = f"grep -qm1 {shlex.quote(wanted)} && {shlex.join([*self._tmux, 'send-keys', *keys])}"
        subprocess.run([*self._tmux, "pipe-pane", react], check=True)

    def type(self, *words: str) -> None:
        self.press("-l", shlex.join(words))
        self.press("Enter")

    def text(self, colours: bool = False) -> str:
        capture = [*self._tmux, "capture-pane", "-p", "-J", *(["-e"] if colours else [])]
        return subprocess.run(capture, capture_output=True, text=True, check=True).stdout

    def wait(self, wanted: str) -> str:
        """Until the screen shows this pattern."""
        give_up = time.monotonic() + 120
        while not re.search(wanted, self.text()):
            assert time.monotonic() < give_up, f"no {wanted} on\n{self.text()}"
            time.sleep(0.1)
        return self.text()

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=True)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    yield made
    made.close()
    if (folder := tmp_path / "vec_jobs" / "live").exists():
        subprocess.run([VEC_JOBS, "cancel", str(folder), "--yes"])


def states(folder: Path) -> list[str]:
    return [run.state.state for run in Sweep(folder).runs()]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    """Of run 1."""
    lines = read_lines(folder / "1" / "outputs" / "attempts.jsonl")
    return [line for line in lines if line["event"] == name]


def wait_until(ready: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_ctrl_c_leaves_the_live_table_and_twice_it_offers_to_cancel(terminal: Terminal, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "mlp.single.launch", "compute=local", "experiment_name=live"]
    long = ["trainer.num_epochs=3000", "trainer.log_every=10", "trainer.learning_rate=1e30,1e-2,1e-3"]
    terminal.type("clear")
    terminal.type(*launch, *long)
    shown = terminal.wait(r"RUNNING.*\(\d+%\)")
    assert re.search(r"run +job +state .*progress +eta .*overrides +result", shown)
    terminal.wait(r"FAILED .*NonFiniteError")

    terminal.press("C-c")
    shown = terminal.wait("Detached; the runs go on.")
    assert "Traceback" not in shown
    folder = tmp_path / "vec_jobs" / "live"
    time.sleep(1.5)  # the second in which another ctrl-C counts
    assert "RUNNING" in states(folder)

    terminal.type("clear")
    terminal.type(VEC_JOBS, "status", "live", "--watch")
    terminal.wait(r"RUNNING.*\(\d+%\)")
    if picture := os.environ.get("VEC_PICTURE"):
        time.sleep(20)  # some progress to show
        draw(terminal.text(colours=True), Path(picture))
    terminal.press("C-c")
    terminal.wait("Nothing else is stopped: the runs go on.")
    assert "RUNNING" in states(folder)
    terminal.type(VEC_JOBS, "cancel", "live", "--yes")
    wait_until(lambda: states(folder)[1:] == ["CANCELLED", "CANCELLED"])

    terminal.type("clear")
    terminal.type(*launch, *long)
    wait_until(lambda: len(events(folder, "resume")) == 2)
    terminal.press_when("Detached; the runs go on.", "C-c")  # within a second
    terminal.press("C-c")
    terminal.wait(r"Cancel the 3 run\(s\)\?")
    terminal.press("y", "Enter")
    terminal.wait("Cancelled.")
    wait_until(lambda: "RUNNING" not in states(folder))
    assert states(folder)[1:] == ["CANCELLED", "CANCELLED"]
    assert len(events(folder, "save")) == 2, "it saves before it leaves"


def draw(screen: str, path: Path) -> None:
    """The documentation's: VEC_PICTURE=docs/live_table.svg uv run pytest -m browser tests/vec_jobs/test_terminal.py"""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=WIDTH, file=StringIO())
    lines = screen.rstrip().splitlines()
    table = next(number for number, line in enumerate(lines) if "progress" in line)
    console.print(Text.from_ansi("\n".join(lines[table:])))
    console.save_svg(str(path), title="vec-jobs status --watch")
