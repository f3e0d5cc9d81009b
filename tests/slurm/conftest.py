from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .cluster import ClusterError, SlurmCluster
from .runs import Runs
from .training import settings

# Between a requeue and the next start; Slurm's default is 120 s. A test releases what it need not wait for.
REQUEUE_HOLD_S = 15


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """One real Slurm for all tests. Without it they fail: a skipped test promises what nobody has checked."""
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"), requeue_hold_s=REQUEUE_HOLD_S)
    with stopped_even_if_we_are_killed(cluster):
        try:
            cluster.up()
        except ClusterError as error:
            pytest.fail(str(error), pytrace=False)
        yield cluster
        cluster.down()


@contextmanager
def stopped_even_if_we_are_killed(cluster: SlurmCluster) -> Iterator[None]:
    """A process that waits for the end of a pipe from us, and then stops what still runs: ctrl-C ends pytest-xdist's
    workers without their fixtures."""
    wait_then_stop = (
        "import sys, tests.slurm.cluster as c; sys.stdin.read(); c.SlurmCluster(c.Path(sys.argv[1])).down()"
    )
    guard = subprocess.Popen(
        [sys.executable, "-c", wait_then_stop, str(cluster.root)],
        stdin=subprocess.PIPE, cwd=Path(__file__).parents[2], start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


@pytest.fixture(scope="module")
def slurm_that_sends_user_signals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A site with preempt_send_user_signal: a preempted job gets its own signal (USR2) besides."""
    cluster = SlurmCluster(
        tmp_path_factory.mktemp("slurm"), requeue_hold_s=REQUEUE_HOLD_S, preempt_send_user_signal=True
    )
    with stopped_even_if_we_are_killed(cluster):
        cluster.up()
        yield cluster
        cluster.down()


@pytest.fixture
def runs_of(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Callable[..., Runs]]:
    """`runs_of("mlp.single", "trainer.seed=1")`: runs that are yet to be submitted; cancelled when the test ends."""
    made: list[Runs] = []

    def make(template: str, *overrides: str, name: str = "test", **where: Any) -> Runs:
        cluster, work_root = where.get("cluster", slurm), where.get("work_root", tmp_path)
        made.append(Runs(cluster, work_root, template, name, overrides))
        return made[-1]

    yield make
    for runs in made:
        runs.cancel()


@pytest.fixture
def submit(runs_of: Callable[..., Runs]) -> Callable[..., Runs]:
    """Submits runs of a template with the real command line: `submit("mlp.single", "trainer.seed=1")`."""

    def submit_template(template: str, *overrides: str, **where: Any) -> Runs:
        runs = runs_of(template, *overrides, **where)
        runs.submit()
        return runs

    return submit_template


@pytest.fixture(scope="session")
def uninterrupted(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Runs]:
    """The reference: the same run, left alone. One for each template, for all of pytest-xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "uninterrupted"
    folder.mkdir(exist_ok=True)

    def reference(template: str) -> Runs:
        runs = Runs(slurm, folder, template, template, tuple(settings(template)))
        with (folder / f"{template}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not runs.work_dir.exists():
                runs.submit()
                runs.wait_state("COMPLETED", "FAILED")
                assert runs.state() == "COMPLETED"
        assert runs.result()["attempts"] == 1
        return runs

    return reference
