from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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


@pytest.fixture
def submit(slurm: SlurmCluster, tmp_path: Path) -> Callable[..., Runs]:
    """Submits runs of a template with the real command line: `submit("mlp.single", "trainer.seed=1")`."""

    def submit_template(template: str, *overrides: str, name: str = "test") -> Runs:
        runs = Runs(slurm, tmp_path, template, name, overrides)
        runs.submit()
        return runs

    return submit_template


@pytest.fixture(scope="session")
def uninterrupted(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Runs]:
    """The reference: the same run, left alone. One for each template."""
    known: dict[str, Runs] = {}

    def reference(template: str) -> Runs:
        if template not in known:
            folder = tmp_path_factory.mktemp("uninterrupted")
            runs = Runs(slurm, folder, template, "reference", tuple(settings(template)))
            runs.submit()
            runs.wait_state("COMPLETED", "FAILED")
            assert runs.state() == "COMPLETED"
            assert runs.result()["attempts"] == 1
            known[template] = runs
        return known[template]

    return reference
