"""What a launch costs before any job runs: help, config, one job, a sweep of 100, and composing those 100 points.

    uv run python -m benchmarks.launch                                # on a Slurm of its own (see tests/slurm)
    SLURM_CONF=/etc/slurm/slurm.conf uv run python -m benchmarks.launch compute=bon_echo/cpu_1x

Prints a Markdown table: the median of several runs. CPU seconds are user + system of the command and of all that it
starts (sbatch, git); a busy machine stretches them less than wall seconds. The words of the command line choose
where to submit to; the jobs may not begin within the hour, and are cancelled before that. Nothing is left behind.
"""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hydra import version as hydra_version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import mlp.single
from common.compose import Composer
from mlp.single.schema import Config
from tests.slurm.cluster import SlurmCluster

COMPUTE = ["compute=bon_echo/cpu_1x"]
LAUNCH = [str(Path(sys.executable).with_name("mlp-launch"))]
# The same as mlp-launch, which then says which modules it has imported.
LISTING = """
import atexit, sys
atexit.register(lambda: print("MODULES", *sys.modules))
sys.argv[0] = "mlp-launch"
from mlp.launch import main
main()
"""
FORBIDDEN = {"torch", "numpy", "transformers"}
SEEDS = 100
GOALS = {"help": None, "cfg": ("cpu_s", 1.0), "one job": ("wall_s", 2.5), "sweep": ("cpu_s", 6.0)}


@dataclass
class Cost:
    cpu_s: float
    wall_s: float


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users' imports come from the bytecode cache, so do ours
    os.environ.setdefault("USER", "root")  # the presets read it; a container may lack it
    with tempfile.TemporaryDirectory(prefix="vec-bench-") as folder, slurm(Path(folder)) as env:
        os.environ |= env
        rows = list(commands(Path(folder)))
    print("| command | CPU s | wall s | goal | |\n|---|---|---|---|---|")
    for name, cost, goal in rows:
        verdict = "" if goal is None else "met" if getattr(cost, goal[0]) <= goal[1] else "MISSED"
        aim = "" if goal is None else f"{goal[0].replace('_s', '').replace('cpu', 'CPU')} <= {goal[1]} s"
        print(f"| {name} | {cost.cpu_s:.2f} | {cost.wall_s:.2f} | {aim} | {verdict} |")
    print(f"\nNone of these commands imports {', '.join(sorted(FORBIDDEN))}.\n")
    compare_composition()


# ----- commands -----


def commands(folder: Path) -> Iterator[tuple[str, Cost, tuple[str, float] | None]]:
    """(what was run, its median cost, its goal) of every command; each is also checked for what it imports."""
    for name, words, repeats in (("help", ["--help"], 9), ("cfg", ["single", "--cfg", "job"], 9)):
        check_imports(words)
        costs = [run([*LAUNCH, *words])[0] for _ in range(repeats + 1)][1:]  # the first fills the caches
        yield f"`mlp-launch {' '.join(words)}`", middle(costs), GOALS[name]

    where = sys.argv[1:] or COMPUTE
    for name, points, repeats in (("one job", [], 9), ("sweep", [f"trainer.seed=range({SEEDS})"], 5)):
        costs: list[Cost] = []
        for number in range(repeats + 1):  # the first is the warm-up
            with jobs(folder, f"{name.replace(' ', '-')}-{number}") as safely:
                words = ["single", *where, *points, *safely]
                if number == 0:
                    check_imports(words)
                else:
                    costs.append(run([*LAUNCH, *words])[0])
        yield f"{name}: `mlp-launch single {' '.join([*where, *points])}`", middle(costs), GOALS[name]


def run(command: list[str]) -> tuple[Cost, str]:
    """What a command costs, with its children, and what it prints."""
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.monotonic() - started
    child.stdout.close()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{said}")
    return Cost(usage.ru_utime + usage.ru_stime, wall_s), said


def middle(costs: list[Cost]) -> Cost:
    return Cost(median(cost.cpu_s for cost in costs), median(cost.wall_s for cost in costs))


def check_imports(words: list[str]) -> None:
    """Run mlp-launch with these words and refuse a heavy import."""
    _, said = run([sys.executable, "-c", LISTING, *words])
    modules = said.rpartition("MODULES")[2].split()
    assert "common.launch" in modules, said
    imported = FORBIDDEN & set(modules)
    assert not imported, f"mlp-launch {' '.join(words)} imports {', '.join(sorted(imported))}"


@contextmanager
def jobs(folder: Path, experiment: str) -> Generator[list[str]]:
    """Words for a submission whose jobs do not run, and are cancelled whatever happens."""
    name = f"vec-bench-{secrets.token_hex(8)}"  # what we cancel by: ours alone
    try:
        yield [
            f"paths.work_root={folder}",
            f"experiment_name={experiment}",
            f"hydra.launcher.name={name}",
            "user.slurm.additional_parameters.begin=now+1hour",
        ]
        waiting = subprocess.run(["squeue", "-h", "-r", f"--name={name}"], capture_output=True, text=True).stdout
        assert waiting, f"{experiment} queued nothing"
    finally:
        subprocess.run(["scancel", f"--name={name}"], check=True)


@contextmanager
def slurm(folder: Path) -> Generator[dict[str, str]]:
    """The environment of the Slurm that SLURM_CONF names, or of one that lives as long as the benchmark."""
    if "SLURM_CONF" in os.environ:
        yield {}
        return
    with SlurmCluster(folder / "slurm") as cluster:
        yield cluster.env()


# ----- composition -----


def compare_composition(repeats: int = 7) -> None:
    """Compose the sweep's points with Hydra and with our Composer, in turns in this process; the results are equal."""
    hydra_version.setbase("1.3")
    node = OmegaConf.structured(Config)
    node.template = "mlp.single"
    ConfigStore.instance().store(name="schema", node=node)
    search_path = create_config_search_path(str(Path(mlp.single.__file__).parent))
    loader = Hydra.create_main_hydra2(task_name="bench", config_search_path=search_path).config_loader
    try:
        master = loader.load_configuration("config", COMPUTE, run_mode=RunMode.MULTIRUN)
        points = [[*COMPUTE, f"trainer.seed={seed}"] for seed in range(SEEDS)]

        def by_hydra() -> list[DictConfig]:
            return [loader.load_sweep_config(master, point) for point in points]

        def by_composer() -> list[DictConfig]:
            composer = Composer(loader, master)
            return [composer.point(point) for point in points]

        assert by_hydra() == by_composer()  # also the warm-up
        pairs = [(cpu_of(by_hydra), cpu_of(by_composer)) for _ in range(repeats)]
    finally:
        GlobalHydra.instance().clear()
    print(f"| composing {SEEDS} points | CPU s |\n|---|---|")
    print(f"| Hydra, `load_sweep_config` each | {median(theirs for theirs, _ in pairs):.2f} |")
    print(f"| `common.compose.Composer` | {median(ours for _, ours in pairs):.2f} |")
    print(f"| ratio, median of {repeats} pairs | {median(theirs / ours for theirs, ours in pairs):.1f} |")


def cpu_of(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
