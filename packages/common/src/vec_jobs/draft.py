"""`vec-jobs doctor --write`: a profile and presets for a site that has none, from what its Slurm says."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.paths import write_atomic
from vec_jobs.profiles import Source
from vec_jobs.site import Nodes, Site

_SCRATCH = ("${oc.env:SCRATCH}", "/scratch/${oc.env:USER}", "${oc.env:HOME}")  # the first that exists
_MODELS = "/model-weights"
_CPU_PRESET = 2  # cores of cpu_1x


@dataclass(frozen=True)
class Kind:
    """Nodes of one site with the same GPUs: the most frequent shape among them."""

    name: str
    gpu_type: str | None
    gpus: int
    cpus: int
    memory_gb: int
    partitions: dict[str, int | None]  # time limits, minutes
    partition: str  # of the presets: the site's default where that has such nodes, else the one with most of them
    is_default: bool  # presets need not name it
    count: int  # nodes of this shape in it


def write(name: str, site: Site, folder: Path) -> list[Path]:
    """Write cluster/<name>.yaml and compute/<name>/*.yaml into `folder`: all of them or nothing.

    Raises:
        UserError: the name is none, or something of it is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name} cannot be the name of a profile: use a-z, 0-9 and _, e.g. my_site.")
    profile, presets = folder / "cluster" / f"{name}.yaml", folder / "compute" / name
    for there in (profile, presets):
        if there.exists():
            raise UserError(f"{there} is there already: remove it, or draft under another name.")
    kinds = kinds_of(site)
    if not kinds:
        raise UserError("This site shows no usable nodes (sinfo): there is nothing to write a profile of.")
    files = {f"{preset}.yaml": text for kind in kinds for preset, text in _presets(name, kind)}
    files["cpu_1x.yaml"] = _cpu_preset(name, min(kinds, key=lambda kind: kind.gpus))
    for parent in (profile.parent, presets.parent):
        parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder))
    try:
        for file, text in files.items():
            (unfinished / file).write_text(text, encoding="utf-8")
        unfinished.chmod(0o755)
        unfinished.rename(presets)
        write_atomic(profile, _profile(name, site, kinds))
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(presets, ignore_errors=True)
        raise
    return [profile, *sorted(presets / file for file in files)]


def told(name: str, files: list[Path]) -> str:
    """What was written, and what Slurm could not say."""
    return "\n".join(
        [
            *(Source(file).shown for file in files),
            f"Look over {Source(files[0]).shown}: work_root (scratch that all nodes see), model_weights (models",
            "that the site shares), gpu_memory_gb (Slurm does not know it), setup (module load); and the presets'",
            "partitions.",
            f"Then: vec-jobs doctor {name}",
        ]
    )


def kinds_of(site: Site) -> list[Kind]:
    """One for each type of GPU, and one for nodes without; nodes that are down are left out."""
    by_gpu: dict[str | None, list[Nodes]] = {}
    for nodes in site.nodes:
        if nodes.usable and nodes.up and nodes.cpus and nodes.memory_gb:
            for gpu in nodes.gpus or [None]:
                by_gpu.setdefault(gpu, []).append(nodes)
    kinds: list[Kind] = []
    for gpu, alike in by_gpu.items():
        name = _name(gpu)
        same = sum(re.fullmatch(rf"{name}(_\d+)?", kind.name) is not None for kind in kinds)  # a100 and A100
        kinds.append(_kind(f"{name}_{same + 1}" if same else name, gpu, alike))
    return kinds


def _name(gpu: str | None) -> str:
    """Of a kind, and of its presets: a word that begins with a letter."""
    word = "cpu" if gpu is None else re.sub(r"\W+", "_", gpu.lower()) or "gpu"
    return word if word[0].isalpha() else f"gpu_{word}"  # 4090


def _kind(name: str, gpu: str | None, alike: list[Nodes]) -> Kind:
    def shape(nodes: Nodes) -> tuple[int, int, int]:
        return (0 if gpu is None else nodes.gpus[gpu], nodes.cpus, nodes.memory_gb)

    counts: dict[tuple[int, int, int], dict[str, int]] = {}  # nodes in other states are other lines of sinfo
    for nodes in alike:
        of_shape = counts.setdefault(shape(nodes), {})
        of_shape[nodes.partition] = of_shape.get(nodes.partition, 0) + nodes.count
    gpus, cpus, memory_gb = frequent = max(counts, key=lambda one: max(counts[one].values()))
    chosen = [nodes for nodes in alike if shape(nodes) == frequent]
    in_partition = counts[frequent]
    default = next((nodes.partition for nodes in chosen if nodes.default), None)
    partition = default or max(in_partition, key=lambda one: in_partition[one])
    return Kind(
        name=name,
        gpu_type=gpu or None,
        gpus=gpus,
        cpus=cpus,
        memory_gb=memory_gb,
        partitions={nodes.partition: nodes.max_time_min for nodes in chosen},
        partition=partition,
        is_default=default is not None,
        count=in_partition[partition],
    )


def _profile(name: str, site: Site, kinds: list[Kind]) -> str:
    weights = _MODELS if Path(_MODELS).is_dir() else "null"
    lines = [
        f"# {name}: what its presets have in common, and what `vec-jobs doctor {name}` compares with the site.",
        "# Drafted by vec-jobs doctor --write. Fields: common/config.py (Compute) and common/cluster.py (site).",
        "executor: slurm",
        f"cluster: {name}",
        f"work_root: {_work_root()} # to look over: a folder that all nodes see",
        f"model_weights: {weights} # folder of models that the site shares",
        "setup: null # shell lines before srun, e.g. [module load apptainer]",
        "site:",
        *(f"  {fact}: {_yaml(value)}" for fact, value in site.facts.items()),
        "  nodes:",
    ]
    for kind in kinds:
        lines += [f"    {kind.name}:", f"      cpus: {kind.cpus}", f"      memory_gb: {kind.memory_gb}"]
        if kind.gpus:
            lines += [f"      gpus: {kind.gpus}", f"      gpu_type: {_yaml(kind.gpu_type)}"]
            lines += ["      gpu_memory_gb: null # to fill in: GiB of one GPU"]
        lines += ["      partitions:", *(f"        {_yaml(one)}: {_yaml(at)}" for one, at in kind.partitions.items())]
    return "\n".join(lines) + "\n"


def _work_root() -> str:
    for candidate in _SCRATCH:
        path = re.sub(r"\$\{oc\.env:(\w+)\}", lambda match: os.environ.get(match[1], "/nowhere"), candidate)
        if Path(path).is_dir():
            return candidate
    return _SCRATCH[-1]


def _presets(cluster: str, kind: Kind) -> Iterator[tuple[str, str]]:
    """1, 2 and all GPUs of a node, and two nodes of all."""
    for gpus in sorted({1, min(2, kind.gpus), kind.gpus} if kind.gpus else ()):
        yield f"{kind.name}_{gpus}x", _preset(cluster, kind, gpus, nodes=1)
    if kind.gpus and kind.count > 1:
        yield f"{kind.name}_{kind.gpus}x_2n", _preset(cluster, kind, kind.gpus, nodes=2)


def _preset(cluster: str, kind: Kind, gpus: int, nodes: int) -> str:
    where = f"{nodes} nodes of {gpus}" if nodes > 1 else str(gpus)
    return _text(
        f"# {cluster}, {where} {kind.gpu_type or 'GPU'}",
        cluster,
        f"nodes: {nodes}",
        f"tasks_per_node: {gpus} # one per GPU",
        f"gpus_per_node: {gpus}",
        f"gpu_type: {_yaml(kind.gpu_type)}",
        f"gpu_memory_gb: ${{.site.nodes.{kind.name}.gpu_memory_gb}}",
        f"cpus_per_task: {max(1, kind.cpus // kind.gpus)}",
        f"mem_gb: {max(1, kind.memory_gb * gpus // kind.gpus)}",
        kind=kind,
    )


def _cpu_preset(cluster: str, kind: Kind) -> str:
    cores = min(_CPU_PRESET, kind.cpus)
    return _text(
        f"# {cluster}, no GPU",
        cluster,
        "nodes: 1",
        "tasks_per_node: 1",
        "gpus_per_node: 0",
        f"cpus_per_task: {cores}",
        f"mem_gb: {max(1, kind.memory_gb * cores // kind.cpus)}",
        kind=kind,
    )


def _text(head: str, cluster: str, *lines: str, kind: Kind) -> str:
    timeout = f"timeout_min: {min(60, kind.partitions[kind.partition] or 60)}"
    partition = [] if kind.is_default else ["slurm:", f"  partition: {_yaml(kind.partition)}"]
    defaults = ["defaults:", f"  - /cluster@_here_: {cluster}", "  - _self_", ""]
    return "\n".join([head, *defaults, *lines, timeout, *partition]) + "\n"


def _yaml(value: object) -> str:
    """A scalar that YAML reads as the same: a partition may be called 24, or no."""
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z][\w.-]*", value) and value.lower() not in _YAML_WORDS
        return value if plain else f'"{value}"'
    return "null" if value is None else str(value).lower()


_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
