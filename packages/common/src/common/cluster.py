"""The facts of a site that its presets build on and `vec-jobs doctor` compares: `site` in configs/cluster/*.yaml.

A fact that is null is one that nobody has looked up: it is not compared.
"""

from dataclasses import dataclass, field

from common.errors import UserError

__all__ = ["NodeKind", "Site"]


@dataclass
class NodeKind:
    cpus: int = 1  # cores of a node, as Slurm counts them
    memory_gb: int = 1  # GiB of a node that jobs may ask for
    gpus: int = 0  # of a node
    gpu_type: str | None = None  # as Slurm calls it, e.g. l40s; null: the site gives its GPUs no name
    gpu_memory_gb: int | None = None  # GiB of one GPU; Slurm does not know it
    partitions: dict[str, int | None] = field(default_factory=dict)  # that have such nodes: longest time limit, minutes

    def __post_init__(self) -> None:
        for name in ("cpus", "memory_gb"):
            if getattr(self, name) < 1:
                raise UserError(f"site.nodes: {name} of a kind of node must be at least 1, got {getattr(self, name)}")
        if self.gpus < 0:
            raise UserError(f"site.nodes: gpus of a kind of node must not be negative, got {self.gpus}")


@dataclass
class Site:
    nodes: dict[str, NodeKind] = field(default_factory=dict)  # kinds of nodes, by a name of ours
    max_array_size: int | None = None  # one more than the jobs that one array may have (MaxArraySize)
    kill_wait_s: int | None = None  # seconds between TERM and KILL (KillWait): a preempted run saves in them
    preempt_send_user_signal: bool | None = None  # a preempted job is sent USR2 when its grace time begins
    sacct: bool | None = None  # the site keeps accounts: an ended job is known for longer than some minutes
    free_gb: int | None = None  # GiB that should be free in the work root
