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
    only: list[int] | None = None  # indices of the runs to submit; None: all
    wait: bool | None = None  # block until the jobs end; None: wait unless executor is slurm
    requeue: bool = True  # sbatch --requeue or --no-requeue
    gpu_type: str | None = None  # --gpus-per-node=<type>:<n>
    python: str | None = None  # shell command that starts Python on the node, e.g. in a container
    use_srun: bool = True  # False: the batch script itself becomes the (single) task
    srun_args: list[str] | None = None  # further arguments of srun
    nodelist: str | None = None
    dependency: str | None = None
    mail_type: str | None = None
    mail_user: str | None = None


ConfigStore.instance().store(group="hydra/launcher", name="vec", node=VecLauncherConf(), provider="vec_launcher")
