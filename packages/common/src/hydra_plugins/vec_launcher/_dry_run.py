"""What `--dry-run` prints: everything that would be submitted, and what it would cost."""

from omegaconf import OmegaConf

from common.config import differences, flatten
from common.sweep import redact

from ._executors import script, slurm_executor
from ._request import Run, gpu_hours, jobs_of, node_hours


def show(arrays: list[list[Run]], answers: list[str]) -> None:
    """Print the composed configuration of the first point and what differs in the others, the batch scripts, Slurm's
    estimates and the hours that are asked for.

    Args:
        arrays: of runs that ask for the same.
        answers: Slurm's, one for each array.
    """
    runs = sorted((run for array in arrays for run in array), key=lambda run: run.point.index)
    first, *others = runs
    config = OmegaConf.masked_copy(first.cfg, [str(key) for key in first.cfg if key != "hydra"])
    print(f"# run {first.point.index} of {len(runs)}, in {first.cfg.hydra.sweep.dir}")
    print(redact(OmegaConf.to_yaml(config)))
    for run in others:
        changed = differences(_flat(first), _flat(run)).values()
        print(f"# run {run.point.index} differs: {redact('; '.join(changed))}")
    for array, answer in zip(arrays, answers, strict=True):
        if first.params["executor"] == "slurm":
            print(f"\n# {len(array)} run(s), the first is {array[0].point.index}. {answer}")
            print(script(slurm_executor(array[0].params, array[0].additional), jobs_of(array)))
    hours = sum(node_hours(run) for run in runs)
    print(
        f"# {len(runs)} run(s) ask for {hours:.1f} node-hours, {gpu_hours(runs):.1f} GPU-hours. Nothing was submitted."
    )


def _flat(run: Run) -> dict[str, object]:
    flat = flatten(OmegaConf.to_container(run.cfg, resolve=False))
    return {key: value for key, value in flat.items() if not key.startswith("hydra.") and key != "paths.out_dir"}
