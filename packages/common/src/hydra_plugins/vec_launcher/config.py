"""The fields of `hydra.launcher`: those of hydra-submitit-launcher, and what its last release lacks."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf


@dataclass
class VecLauncherConf(SlurmQueueConf):
    _target_: str = "hydra_plugins.vec_launcher.launcher.VecLauncher"

    setup: Any = None  # shell lines before srun; not typed as a list, or ${compute.setup} could not be merged into it
    executor: str = "slurm"  # slurm | local | inprocess
    dry_run: bool = False  # show what would be submitted; the same as --dry-run
    confirm_gpu_hours: float | None = None  # on a terminal, a sweep that asks for more is submitted after a yes only
    first: int = 0  # index of the first run; above 0, points that earlier runs of the sweep have are left out
    only: list[int] | None = None  # indices of the runs to submit; None: all
    wait: bool | None = None  # block until the jobs end; None: wait unless executor is slurm
    requeue: bool = True  # sbatch --requeue or --no-requeue
    gpu_type: str | None = None  # --gpus-per-node=<type>:<n>
    python: str | None = None  # shell command that starts Python on the node, e.g. in a container
    freeze_env: bool = False  # jobs use a copy of the environment that a later `uv sync` does not change
    runs_per_job: int = 1  # on Slurm: how many runs of one process share a job, and its GPU
    runs_at_once: int = 1  # of those: how many run at the same time, the others after them
    use_srun: bool = True  # False: the batch script itself becomes the (single) task
    srun_args: list[str] | None = None  # further arguments of srun
    nodelist: str | None = None
    dependency: str | None = None
    mail_type: str | None = None
    mail_user: str | None = None


ConfigStore.instance().store(group="hydra/launcher", name="vec", node=VecLauncherConf(), provider="vec_launcher")
