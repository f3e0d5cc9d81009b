"""The configuration that every template shares; a template adds its `trainer` (and more) to `Config`.

The dataclasses hold types, units and the checks that need no cluster; the values are in configs/*.yaml and in the
template's config.yaml. `__post_init__` runs for every point of a sweep before anything is submitted.
"""

import os
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin

from omegaconf import MISSING, DictConfig, OmegaConf

from common.cluster import Site
from common.errors import UserError

__all__ = [
    "Compute",
    "ComputeSlurm",
    "Config",
    "Paths",
    "Requeue",
    "Service",
    "Tracking",
    "User",
    "UserSlurm",
    "require",
]

EXECUTORS = ("slurm", "local", "inprocess")
DIRECTIONS = ("minimize", "maximize")
TRACKING = ("tensorboard", "wandb", "none")

# What may change between two submissions into one directory: where and how a run is executed, not what it computes.
NOT_IDENTITY = (
    "user", "compute", "requeue", "paths", "experiment_name", "objective", "direction", "tracking", "hydra",
    "assets.prefetch", "assets.stage",
)  # fmt: skip

CONFIGS = Path(__file__).parent / "configs"


def own_configs() -> Path | None:
    """The folder that $VEC_CONFIG_DIR names: what is in it goes before the packaged configurations.

    Raises:
        UserError: it is no folder.
    """
    own = os.environ.get("VEC_CONFIG_DIR")
    if not own:
        return None
    folder = Path(own).expanduser().resolve()
    require(folder.is_dir(), f"VEC_CONFIG_DIR={own} is not a folder.")
    return folder


def require(condition: bool, sentence: str) -> None:
    """Refuse a configuration with a sentence; for `__post_init__`.

    Raises:
        UserError: with `sentence`, when `condition` is false.
    """
    if not condition:
        raise UserError(sentence)


@dataclass
class UserSlurm:
    account: str | None = None  # Slurm account that is charged
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # any sbatch option: {"mail-user": "me@x"}


@dataclass
class User:
    slurm: UserSlurm = field(default_factory=UserSlurm)


@dataclass
class ComputeSlurm:
    partition: str | None = None  # null: the site's default
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None  # nodes to avoid
    gres: str | None = None
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # any sbatch option


@dataclass
class Compute:
    executor: str = ""  # slurm | local | inprocess; empty until a preset is chosen
    cluster: str | None = None  # name of the site, for people
    work_root: str = ""  # existing folder that all nodes share; vec_jobs/ is made in it
    nodes: int = 1
    tasks_per_node: int = 1  # processes per node: one per GPU
    gpus_per_node: int | None = None
    gpu_type: str | None = None  # as the site calls it, e.g. l40s
    gpu_memory_gb: int | None = None  # GiB of one GPU; null: templates do not check whether a run fits
    cpus_per_task: int = 1  # cores per process
    mem_gb: int | None = None  # GiB per node
    timeout_min: int = 60  # time limit, minutes
    rank_timeout_min: float = 10.0  # how long the processes of a run wait for one that hangs, minutes
    use_srun: bool = True  # false: start the (single) task without srun, for sites where srun hangs
    setup: list[str] | None = None  # shell lines before srun, e.g. module load
    model_weights: str | None = None  # folder of models that the site shares, named by the last part of their hub id
    slurm: ComputeSlurm = field(default_factory=ComputeSlurm)
    site: Site | None = None  # what the profile of the cluster says of it; null in a preset without one

    def __post_init__(self) -> None:
        if not self.executor:  # the launcher asks for a preset
            return
        require(
            self.executor in EXECUTORS,
            f"compute.executor is one of {', '.join(EXECUTORS)}, not {self.executor}",
        )
        for name in ("nodes", "tasks_per_node", "cpus_per_task", "timeout_min"):
            require(getattr(self, name) >= 1, f"compute.{name} must be at least 1, got {getattr(self, name)}")
        require(self.rank_timeout_min > 0, f"compute.rank_timeout_min must be positive, got {self.rank_timeout_min}")
        require(self.mem_gb is None or self.mem_gb >= 1, f"compute.mem_gb must be at least 1, got {self.mem_gb}")
        require(
            self.gpus_per_node is None or self.gpus_per_node >= 0,
            f"compute.gpus_per_node must not be negative, got {self.gpus_per_node}",
        )
        require(
            self.executor == "slurm" or self.nodes == 1,
            f"compute.nodes={self.nodes} needs Slurm; {self.executor} runs on this machine only",
        )
        require(
            self.executor != "inprocess" or self.tasks_per_node == 1,
            "compute=inprocess runs one process; use compute=local for several",
        )
        require(
            self.use_srun or self.tasks == 1,
            f"compute.use_srun=false starts one task, but {self.tasks} are asked for",
        )

    @property
    def tasks(self) -> int:
        """Processes of one run on all its nodes (the world size)."""
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True)
class Service:
    """A server that a run needs beside it, in a job of its own (common.service)."""

    name: str  # for its job and its log
    command: list[str]  # what starts it; {port} is filled in
    env: dict[str, str]  # of its environment, besides
    health: str  # path that answers 200 once it is ready, e.g. /health
    needs: str  # file or folder without which it is not started; the run may make it
    compute: Compute  # its resources


@dataclass
class Requeue:
    enabled: bool = True  # put an interrupted run back into the queue
    max_num_timeout: int = 20  # how often a run may reach its time limit and go on
    save_every_min: float = 5.0  # minutes between checkpoints
    async_save: bool = False  # write periodic checkpoints in the background; costs one copy of the state in memory
    keep: int = 2  # complete checkpoints that are kept; the older ones are deleted
    allow_changes: list[str] = field(default_factory=list)  # keys that may differ from the checkpoint's configuration
    signal_delay_s: int = 120  # how long before the time limit the run is told to save, seconds
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # any sbatch option

    def __post_init__(self) -> None:
        require(self.save_every_min > 0, f"requeue.save_every_min must be positive, got {self.save_every_min}")
        require(self.keep >= 2, f"requeue.keep must be at least 2 (one may turn out damaged), got {self.keep}")
        for name in ("max_num_timeout", "signal_delay_s"):
            require(getattr(self, name) >= 0, f"requeue.{name} must not be negative, got {getattr(self, name)}")


@dataclass
class Tracking:
    backend: str = "none"  # tensorboard | wandb | none: where metrics are shown besides metrics.jsonl
    project: str | None = None  # of wandb
    entity: str | None = None  # team or user of wandb; null: your own
    mode: str = "offline"  # of wandb: offline (files, for `wandb sync`) | online

    def __post_init__(self) -> None:
        require(
            self.backend in TRACKING,
            f"tracking.backend is one of {', '.join(TRACKING)}, not {self.backend}",
        )
        if self.backend == "wandb":
            found = find_spec("wandb")
            require(
                found is not None and found.origin is not None,  # a folder wandb/ here is a package, too, without one
                "tracking=wandb needs the package wandb: uv run --package <package> --extra wandb <package>-launch ...",
            )
            require(bool(self.project), "tracking=wandb needs tracking.project=<name>")
            require(
                self.mode in ("offline", "online"),
                f"tracking.mode is offline or online, not {self.mode}",
            )


@dataclass
class Paths:
    work_root: str = MISSING  # existing folder, see compute.work_root
    work_dir: str = MISSING  # folder of this sweep
    out_dir: str = MISSING  # folder of one run's checkpoints and results

    def __post_init__(self) -> None:
        require(self.work_root != "", "This compute preset has no work_root: give paths.work_root=<folder>")


@dataclass
class Config:
    """What `train(cfg)` receives; a template subclasses it and adds its own fields."""

    # The template to use instead when several processes are asked for; None: this template runs on several itself.
    several_processes: ClassVar[str | None] = None
    # False: the template saves nothing; signals then have their usual effect, and a restart begins at step 0.
    checkpointable: ClassVar[bool] = True
    # Keys that earlier versions had, and what to write instead: {"trainer.lr": "trainer.learning_rate"}.
    renamed: ClassVar[dict[str, str]] = {}

    template: str = MISSING  # dotted path, e.g. mlp.single
    experiment_name: str = MISSING
    objective: str = MISSING  # the final metric by which the runs of a sweep are compared, e.g. eval_loss
    direction: str = MISSING  # of the objective: minimize | maximize
    user: User = field(default_factory=User)
    compute: Compute = field(default_factory=Compute)
    requeue: Requeue = field(default_factory=Requeue)
    tracking: Tracking = field(default_factory=Tracking)
    paths: Paths = field(default_factory=Paths)

    def __post_init__(self) -> None:
        require(self.direction in DIRECTIONS, f"direction is minimize or maximize, not {self.direction}")
        if self.checkpointable and self.compute.executor in ("slurm", "local"):
            require(
                self.requeue.signal_delay_s < self.compute.timeout_min * 60,
                f"requeue.signal_delay_s={self.requeue.signal_delay_s}: the notice to save would come before the run "
                f"has begun, its time limit is {self.compute.timeout_min} min. Lower it, or raise compute.timeout_min",
            )
        if self.several_processes is not None:
            require(
                self.compute.tasks == 1,
                f"{self.template} runs on one process, but this compute preset starts {self.compute.tasks} "
                f"({self.compute.nodes} node(s) of {self.compute.tasks_per_node}): "
                f"use {self.several_processes}, or a preset ending in _1x",
            )

    def before_submission(self) -> None:
        """What a template checks besides, for every point, before anything is queued: is there the data, does it fit?

        Without importing torch: this runs on the login node.

        Raises:
            UserError: what is wrong, and what to do.
        """

    def service(self) -> Service | None:
        """The server that a run needs beside it, if it does; the launcher starts it, and it ends with the run."""
        return None

    def estimate(self) -> str:
        """What `--estimate` prints: how much of a machine the run needs.

        Raises:
            UserError: the template has no estimate.
        """
        raise UserError(f"{self.template} has no estimate.")


def to_typed(cfg: DictConfig) -> Config:
    """The typed, checked object that a trainer receives.

    Raises:
        UserError: a key that is no field, or a contradiction that a `__post_init__` found.
        omegaconf.errors.OmegaConfBaseException: a value that is missing or cannot be interpolated.
    """
    _check_fields(cfg, "")
    typed = OmegaConf.to_object(cfg)
    assert isinstance(typed, Config)
    return typed


def open_dicts(kind: Any, prefix: str = "") -> list[str]:
    """The fields of a schema that take any key, as `user.slurm.additional_parameters`."""
    found: list[str] = []
    for one in fields(kind):
        if get_origin(one.type) is dict:
            found.append(f"{prefix}{one.name}")
        for part in (one.type, *get_args(one.type)):  # a dataclass, or one or None
            found += open_dicts(part, f"{prefix}{one.name}.") if is_dataclass(part) else []
    return found


def _check_fields(node: DictConfig, prefix: str) -> None:
    """Refuse a key that `+key=value` added where the schema has no such field: nobody would read it."""
    kind = OmegaConf.get_type(node)
    known = {f.name for f in fields(kind)} if is_dataclass(kind) else None
    for key in node:
        require(
            known is None or key in known,
            f"{prefix}{key} is no field of {getattr(kind, '__module__', '')}.{getattr(kind, '__name__', '')}: "
            "add it there first, or mend the name",
        )
        below = node._get_node(key)
        if isinstance(below, DictConfig) and not (below._is_none() or below._is_interpolation()):
            _check_fields(below, f"{prefix}{key}.")


def identity(cfg: DictConfig) -> dict[str, Any]:
    """What decides the result of a run, as flat keys: `{"trainer.seed": 42, ...}`."""
    kept = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in NOT_IDENTITY])
    flat = flatten(OmegaConf.to_container(kept, resolve=True))
    left_out = (*NOT_IDENTITY, *presets(OmegaConf.get_type(cfg)))
    return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{name}.") for name in left_out)}


def presets(kind: Any, prefix: str = "") -> list[str]:
    """The fields of a schema that take a compute preset: `compute`, and those of services, as `rollout.compute`."""
    found: list[str] = []
    for one in fields(kind) if is_dataclass(kind) else ():
        if one.type is Compute or Compute in get_args(one.type):
            found.append(f"{prefix}{one.name}")
        else:
            found += presets(one.type, f"{prefix}{one.name}.")
    return found


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists are values."""
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.")
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """`{"trainer.seed": "trainer.seed: 42 -> 43"}` for two flat dicts."""
    missing = "(absent)"
    keys = sorted(old.keys() | new.keys())
    pairs = [(key, old.get(key, missing), new.get(key, missing)) for key in keys]
    return {key: f"{key}: {was} -> {now}" for key, was, now in pairs if was != now}
