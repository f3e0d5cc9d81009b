"""What the tests share: the command line in this process, small configurations, and cheap child processes."""

import logging
import multiprocessing
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing.context import ForkContext
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins

from common.launch import launch

Plugins.instance()  # the scan executes plugin modules anew: what is imported before it are other classes than Hydra's

from hydra_plugins.vec_launcher._executors import script, slurm_executor  # noqa: E402
from hydra_plugins.vec_launcher._request import Run  # noqa: E402
from hydra_plugins.vec_launcher.launcher import VecLauncher  # noqa: E402

SEED = 42  # of every test that draws at random

# Leaks of the machine, or of a surrounding job, that would change what is tested.
_LEAKS = (
    "VEC_CONFIG_DIR",
    "HYDRA_FULL_ERROR",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "VEC_JOB_ID",
    "OMP_NUM_THREADS",
)


@pytest.fixture(autouse=True)
def known_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The same user and an empty folder everywhere; signals and logging as they were, whatever a test runs here."""
    monkeypatch.setenv("USER", "alice")
    monkeypatch.chdir(tmp_path)
    for name in _LEAKS:
        monkeypatch.delenv(name, raising=False)
    handlers = {sig: signal.getsignal(sig) for sig in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
    root = logging.getLogger()
    log_handlers, level = list(root.handlers), root.level
    yield
    for name in _LEAKS:  # what a command line in this process has set is not for a fixture of the next module
        os.environ.pop(name, None)
    for sig, handler in handlers.items():
        signal.signal(sig, handler)
    root.handlers[:] = log_handlers
    root.setLevel(level)


@pytest.fixture
def work_root(tmp_path: Path) -> Path:
    """An empty, writable work root."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@dataclass
class Answer:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Cli = Callable[..., Answer]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli("compute=local", ...)`: common.launch.launch in this process, about 0.1 s instead of 0.6 s."""

    def run(*args: str, template: str = "mlp.single") -> Answer:
        capsys.readouterr()
        code: object = 0
        try:
            launch(template, list(args))
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        # the interpreter itself prints a text given to sys.exit to stderr and leaves with 1
        message, number = (f"{code}\n", 1) if isinstance(code, str) else ("", int(str(code or 0)))
        return Answer(number, said.out, said.err + message)

    return run


Refused = Callable[..., str]


@pytest.fixture
def refused(cli: Cli, work_root: Path) -> Refused:
    """`refused("llm.sft", "trainer.seed=-1", ...)`: the one line that is said, for nothing was queued or written."""

    def run(template: str, *overrides: str) -> str:
        answer = cli("compute=local", f"paths.work_root={work_root}", *overrides, template=template)
        assert answer.code == 1
        assert len(answer.err.strip().splitlines()) == 1
        assert list(work_root.iterdir()) == []
        return answer.err

    return run


@pytest.fixture
def launcher_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[VecLauncher, list[list[str]]]]:
    """The launcher that Hydra makes for a command line, and the overrides of the points it is given."""

    def stop_before_launch(*args: str, template: str = "mlp.single") -> tuple[VecLauncher, list[list[str]]]:
        kept: list[tuple[VecLauncher, list[list[str]]]] = []

        def keep(self: VecLauncher, job_overrides: list[list[str]], initial_job_idx: int) -> list[None]:
            kept.append((self, [list(overrides) for overrides in job_overrides]))
            return []

        with monkeypatch.context() as patch:
            patch.setattr(VecLauncher, "launch", keep)
            launch(template, list(args))
        assert kept, "the command went past the launcher that this test stops at"
        return kept[0]

    return stop_before_launch


Compose = Callable[..., list[Run]]


@pytest.fixture
def composed(launcher_of: Callable[..., tuple[VecLauncher, list[list[str]]]]) -> Compose:
    """`composed("compute=killarney/l40s_1x", ...)`: the composed and checked points, as the launcher submits them."""

    def compose(*args: str, template: str = "mlp.single") -> list[Run]:
        launcher, points = launcher_of(*args, template=template)
        return launcher._compose(dict(enumerate(points)))

    return compose


@pytest.fixture
def sbatch_script(composed: Compose) -> Callable[..., str]:
    """The text of the sbatch script of a command line."""

    def text(*args: str, template: str = "mlp.single") -> str:
        runs = composed(*args, template=template)
        executor = slurm_executor(runs[0].params, runs[0].additional)
        return script(executor, len(runs))

    return text


def sbatch_options(text: str) -> dict[str, str | bool]:
    """`#SBATCH --mem=32G` and `#SBATCH --requeue` -> `{"mem": "32G", "requeue": True}`; a repeated option fails."""
    found: dict[str, str | bool] = {}
    for name, equals, value in re.findall(r"^#SBATCH --([\w-]+)(=?)(.*)$", text, re.MULTILINE):
        assert name not in found, f"--{name} stands twice in\n{text}"
        found[name] = "".join(shlex.split(value)) if equals else True
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="all repetitions of faults at random moments, not a fifth")


@pytest.fixture(scope="session")
def times(pytestconfig: pytest.Config) -> Callable[[int], int]:
    """How often a test repeats what it does at random moments: `times(50)` is 50 with --full, else 10."""
    return lambda full: full if pytestconfig.getoption("--full") else max(2, full // 5)


@pytest.fixture(scope="session")
def children() -> ForkContext:
    """Processes forked from this one, which imports torch once: 30 ms each, not the seconds of an import."""
    import tests.children  # noqa: F401  (torch on one thread: a pool of threads does not survive a fork)

    return multiprocessing.get_context("fork")


@pytest.hookimpl(trylast=True)  # after tests were deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, with a short one between any two, for pytest-xdist hands out two at a time: several workers
    then end at about the same time."""
    minutes = {item: mark.args[0] for item in items if (mark := item.get_closest_marker("minutes"))}
    longest = sorted(minutes, key=lambda item: -minutes[item])
    others = [item for item in items if item not in minutes]
    items[:] = [item for pair in zip_longest(longest, others) for item in pair if item is not None]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests have counted (record_property): a number that a pass alone does not show."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
