"""What `vec-jobs list` over 1,000 sweeps and `vec-jobs status` of 1,000 runs cost, and how often they ask Slurm.

    uv run python -m benchmarks.vec_jobs

The folders are written as the launcher and its runs write them, with the configuration, versions and uncommitted
changes of a real submission; a program in the place of sacct answers at once, and counts. Prints a Markdown table: the
median of several runs, each a process of its own, with everything in the disk cache.
"""

import os
import sys
import tempfile
from pathlib import Path

from omegaconf import OmegaConf

from benchmarks.launch import middle, run
from common import sweep
from common.config import identity
from mlp.single.schema import Config
from tests.vec_jobs.written import JOB, fake_slurm, write_run, write_sweep

VEC_JOBS = str(Path(sys.executable).with_name("vec-jobs"))
SWEEPS, RUNS_EACH, RUNS = 1000, 4, 1000
REPEATS = 7
GOAL_S = {"list": 1.0, "list --all": 1.0, "status large": 2.0}


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users' imports come from the bytecode cache, so do ours
    with tempfile.TemporaryDirectory(prefix="vec-bench-") as folder:
        root = Path(folder)
        slurm = fake_slurm(root / "bin")
        os.environ |= slurm.env() | {"VEC_WORK_ROOT": folder}
        write(root / "vec_jobs")
        slurm.answers([f"{JOB}_{task}|RUNNING|kn1|0:0" for task in range(RUNS)])
        print("| command | CPU s | wall s | questions to Slurm | goal | |\n|---|---|---|---|---|---|")
        for words, goal_s in GOAL_S.items():
            command = [VEC_JOBS, *words.split()]
            run(command)  # the first fills the caches
            before = len(slurm.asked)
            cost = middle([run(command)[0] for _ in range(REPEATS)])
            asked = (len(slurm.asked) - before) / REPEATS
            verdict = "met" if cost.wall_s <= goal_s and asked <= 1 else "MISSED"
            costs = f"{cost.cpu_s:.2f} | {cost.wall_s:.2f} | {asked:g}"
            print(f"| `vec-jobs {words}` | {costs} | wall <= {goal_s} s, 1 question | {verdict} |")


def write(jobs_dir: Path) -> None:
    """SWEEPS sweeps, of which every tenth is not complete, and then one of RUNS runs that run."""
    git, versions = sweep.provenance()
    facts = {"git": git, "versions": versions}
    config = identity(OmegaConf.structured(Config))
    for number in range(SWEEPS):
        out_dirs = write_sweep(jobs_dir / f"sweep-{number}", RUNS_EACH, job=10_000 + number, config=config, **facts)
        for out_dir in out_dirs if number % 10 else out_dirs[1:]:
            write_run(out_dir, result={"eval_loss": 0.5, "eval_accuracy": 0.9})
    for out_dir in write_sweep(jobs_dir / "large", RUNS, config=config, **facts):
        write_run(out_dir)


if __name__ == "__main__":
    main()
