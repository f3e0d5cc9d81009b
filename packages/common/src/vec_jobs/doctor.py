"""`vec-jobs doctor`: where a cluster's profile and presets differ from the site at hand, and what to do about each."""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.cluster import NodeKind
from common.config import Compute, User
from common.errors import UserError
from vec_jobs.profiles import Configs, Preset, Profile, Source
from vec_jobs.site import Nodes, Site


@dataclass(frozen=True)
class Difference:
    what: str  # it is about, e.g. "partition a40"
    ours: str  # what our files say
    theirs: str  # what the site says; empty where ours is wrong in itself
    remedy: str

    def __str__(self) -> str:
        found = f"we say {self.ours}, the site says {self.theirs}" if self.theirs else self.ours
        return f"{self.what}: {found}. {self.remedy}."


@dataclass(frozen=True)
class Diagnosis:
    profile: Profile
    presets: list[Preset]
    differences: list[Difference]

    def row(self) -> dict[str, Any]:
        """For --json."""
        return {
            "cluster": self.profile.name,
            "profile": str(self.profile.source.path),
            "presets": [preset.name for preset in self.presets],
            "differences": [asdict(difference) for difference in self.differences],
        }

    def text(self) -> list[str]:
        """One line for each difference, or one that there is none."""
        if self.differences:
            return [str(difference) for difference in self.differences]
        return [f"{self.profile.name}: the profile and its {len(self.presets)} presets agree with this site."]


def diagnose(configs: Configs, site: Site, name: str | None) -> Diagnosis:
    """Compare a profile, or the one that fits best, with the site.

    Raises:
        UserError: there is no such profile, or none fits.
    """
    profile = configs.profile(name or guess(configs, site))
    presets = configs.presets(profile)
    user, user_file = configs.user()
    differences = [
        *_name(profile),
        *_partitions(profile, site),
        *(found for kind in profile.site.nodes for found in _kind(profile, kind, site)),
        *_facts(profile, site),
        *(_unreadable(preset, why) for preset, why in configs.unreadable.items()),
        *(found for preset in presets for found in _preset(preset, site)),
        *_account(user, user_file, site),
        *_qos(user, user_file, presets, site),
        *_folders(profile),
    ]
    return Diagnosis(profile, presets, differences)


def guess(configs: Configs, site: Site) -> str:
    """The profile that is called as Slurm calls the cluster, or the one that has most of its partitions here.

    Raises:
        UserError: it is to be named.
    """
    if site.name.replace("-", "_") in configs.clusters:
        return site.name.replace("-", "_")
    fitting: dict[str, int] = {}  # how many of its partitions are here, where most are
    for name in configs.clusters:
        named = _named_partitions(configs.profile(name))
        if 2 * len(named & site.partitions) > len(named):
            fitting[name] = len(named & site.partitions)
    best = [name for name, count in fitting.items() if count == max(fitting.values())]
    if len(best) == 1:
        return best[0]
    raise UserError(
        f"Name the profile to compare with this site (Slurm calls it {site.name}): {', '.join(configs.clusters)}; "
        "or draft one with vec-jobs doctor --write <name>."
    )


def _named_partitions(profile: Profile) -> set[str]:
    return {name for kind in profile.site.nodes.values() for name in kind.partitions}


def _name(profile: Profile) -> Iterator[Difference]:
    if profile.compute.cluster != profile.name:
        yield Difference(
            "cluster", f"{profile.compute.cluster} is not what the file is called, by which presets name it", "",
            f"Write cluster: {profile.name} at {profile.source.at('cluster')}",
        )  # fmt: skip


def _partitions(profile: Profile, site: Site) -> Iterator[Difference]:
    """Each partition of each kind of node: is it there, is it up, how long may a job run in it?"""
    for kind_name, kind in profile.site.nodes.items():
        for name, limit in kind.partitions.items():
            at = profile.source.at("site", "nodes", kind_name, "partitions", name)
            here = [nodes for nodes in site.nodes if nodes.partition == name]
            if not here:
                yield Difference(
                    f"partition {name}", "it is there", "there is none of that name",
                    f"Remove its line, {at}; sinfo -a shows those there are",
                )  # fmt: skip
                continue
            if not here[0].up:
                yield Difference(
                    f"partition {name}", "it is up", "it is not up", f"Use another one until it is: sinfo -p {name}"
                )
            longest = here[0].max_time_min
            if limit is not None and limit != longest:
                yield Difference(
                    f"time limit of partition {name}", f"{limit} min", _limit(longest),
                    f"Write {'null' if longest is None else longest} at {at}",
                )  # fmt: skip


def _limit(limit_min: int | None) -> str:
    return "none" if limit_min is None else f"{limit_min} min"


def _kind(profile: Profile, name: str, site: Site) -> Iterator[Difference]:
    """The shape of a node against those of its partitions that have such GPUs."""
    kind = profile.site.nodes[name]
    here = [nodes for nodes in site.nodes if nodes.partition in kind.partitions and nodes.count]
    at = ("site", "nodes", name)
    if not here:
        if not kind.partitions or set(kind.partitions) & site.partitions:  # else they are named already
            mend = f"Mend the partitions at {profile.source.at(*at, 'partitions')}, or remove the kind"
            yield Difference(f"nodes {name}", "they are there", "no node in its partitions", mend)
        return
    if not (such := [nodes for nodes in here if not kind.gpus or (kind.gpu_type or "") in _types(nodes, kind)]):
        others = sorted({gpu or "without a type" for nodes in here for gpu in nodes.gpus})
        yield Difference(
            f"GPU type of nodes {name}", kind.gpu_type or "without a type", ", ".join(others) or "no GPU",
            f"Mend gpu_type at {profile.source.at(*at, 'gpu_type')}",
        )  # fmt: skip
        return
    if not any(nodes.usable for nodes in such):
        states = ", ".join(sorted({nodes.state for nodes in such}))
        yield Difference(f"nodes {name}", "they are there", f"all are {states}", "sinfo -R says why; use another kind")
    nearest = min(such, key=lambda nodes: len(_misfits(kind, nodes)))
    for field, theirs in _misfits(kind, nearest).items():
        yield Difference(
            f"{field} of nodes {name}", str(getattr(kind, field)), str(theirs),
            f"Write {field}: {theirs} at {profile.source.at(*at, field)}",
        )  # fmt: skip


def _types(nodes: Nodes, kind: NodeKind) -> list[str]:
    """Names under which a kind may ask for the GPUs: without a type it takes any."""
    return [*nodes.gpus, ""] if nodes.gpus and kind.gpu_type is None else list(nodes.gpus)


def _misfits(kind: NodeKind, nodes: Nodes) -> dict[str, int]:
    """The fields in which nodes are not of the kind, and what they have."""
    have = {"cpus": nodes.cpus, "memory_gb": nodes.memory_gb}
    if kind.gpus:
        have["gpus"] = nodes.gpus[kind.gpu_type] if kind.gpu_type else sum(nodes.gpus.values())
    return {field: value for field, value in have.items() if value != getattr(kind, field)}


def _facts(profile: Profile, site: Site) -> Iterator[Difference]:
    """Single numbers and words. JobRequeue is none of them: our jobs ask for --requeue themselves, which Slurm grants
    whatever its default is."""
    for name, theirs in site.facts.items():
        ours = getattr(profile.site, name)
        if ours is not None and theirs is not None and ours != theirs:
            value = str(theirs).lower()
            remedy = f"Write {name}: {value} at {profile.source.at('site', name)}"
            yield Difference(name, str(ours).lower(), value, f"{remedy}{_MEANING.get(name, '')}")


_MEANING = {
    "kill_wait_s": "; in these seconds a run that is preempted without a grace time saves",
    "preempt_send_user_signal": "; with it a preempted run is told to save when its grace time begins",
    "sacct": "; without it vec-jobs forgets how a job ended after some minutes",
}


def _unreadable(preset: str, why: str) -> Difference:
    return Difference(f"preset {preset}", f"it cannot be composed: {why.rstrip('.')}", "", "Mend it, or remove it")


def _preset(preset: Preset, site: Site) -> Iterator[Difference]:
    """The first thing that a preset asks for and no node of its partition has."""
    compute = preset.compute
    chosen = compute.slurm.partition.split(",") if compute.slurm.partition else None  # null: a site may choose any
    nodes = [one for one in site.nodes if chosen is None or one.partition in chosen]
    what = f"preset {preset.name}"
    if chosen and not nodes:
        there = ", ".join(sorted(site.partitions))
        at = preset.at("slurm", "partition")
        yield Difference(what, f"partition {compute.slurm.partition}", f"no such partition: {there}", f"Mend {at}")
        return
    for key, asked, have in _needs(compute):
        enough = [one for one in nodes if have(one) >= asked]
        if not enough:
            most = max(have(one) for one in nodes)
            unit = _UNITS[key].format(gpu=compute.gpu_type or "GPUs")
            yield Difference(what, f"{asked} {unit}", f"at most {most:.0f}", f"Lower {key} at {preset.at(key)}")
            return
        nodes = enough
    count = max(
        sum(one.count for one in nodes if one.partition == partition) for partition in {n.partition for n in nodes}
    )
    if count < compute.nodes:
        yield Difference(
            what, f"{compute.nodes} such nodes", f"at most {count}", f"Lower nodes at {preset.at('nodes')}"
        )


_UNITS = {
    "gpus_per_node": "{gpu} a node",
    "cpus_per_task": "cores a node",
    "mem_gb": "GiB a node",
    "timeout_min": "min",
}


def _needs(compute: Compute) -> list[tuple[str, int, Callable[[Nodes], float]]]:
    """(key, how much of it, how much nodes have), what is found first being the likelier cause."""

    def gpus(nodes: Nodes) -> int:
        return nodes.gpus.get(compute.gpu_type, 0) if compute.gpu_type else sum(nodes.gpus.values())

    def minutes(nodes: Nodes) -> float:
        return math.inf if nodes.max_time_min is None else nodes.max_time_min

    return [
        ("gpus_per_node", compute.gpus_per_node or 0, gpus),
        ("cpus_per_task", compute.tasks_per_node * compute.cpus_per_task, lambda nodes: nodes.cpus),
        ("mem_gb", compute.mem_gb or 0, lambda nodes: nodes.memory_gb),
        ("timeout_min", compute.timeout_min, minutes),
    ]


def _account(user: User, file: Source, site: Site) -> Iterator[Difference]:
    if site.associations is None:
        return
    more = user.slurm.additional_parameters  # wins over the field
    account = more.get("account", user.slurm.account)
    yours = [one.account for one in site.associations]
    at = file.at("user", "slurm", *(["additional_parameters"] if "account" in more else []), "account")
    if account is not None and account not in yours:
        yield Difference("account", account, f"yours are {', '.join(yours) or 'none'}", f"Mend {at}")
    if account is None and not yours and site.needs_account:
        yield Difference(
            "account", "none", "a job needs one, and you have none", f"Ask the site for one, then put it at {at}"
        )


def _qos(user: User, file: Source, presets: list[Preset], site: Site) -> Iterator[Difference]:
    more = user.slurm.additional_parameters  # wins over the presets, as theirs over their field
    asked = [("user", more.get("qos"), file.at("user", "slurm", "additional_parameters", "qos"))]
    for one in presets if "qos" not in more else []:
        own = one.compute.slurm.additional_parameters
        at = one.at("slurm", "additional_parameters", "qos") if "qos" in own else one.at("slurm", "qos")
        asked.append((f"preset {one.name}", own.get("qos", one.compute.slurm.qos), at))
    mine = {qos for one in site.associations or [] for qos in one.qos}
    for what, qos, at in asked:
        if qos is None or site.qos is None:
            continue
        if qos not in site.qos:
            yield Difference(f"qos of {what}", qos, f"there are {', '.join(sorted(site.qos))}", f"Mend {at}")
        elif mine and qos not in mine:
            yield Difference(f"qos of {what}", qos, f"you may use {', '.join(sorted(mine))}", f"Mend {at}")


def _folders(profile: Profile) -> Iterator[Difference]:
    """What the profile says of the file system; whether nodes see it, too, cannot be told from here."""
    compute, source = profile.compute, profile.source
    root = Path(os.path.expandvars(compute.work_root)).expanduser()
    at = source.at("work_root")
    if not compute.work_root:
        yield Difference("work root", "none is named", "", f"Name a folder that all nodes see at {at}")
    elif not root.is_dir():
        yield Difference("work root", str(root), "no such folder", f"Make it (mkdir -p {root}), or mend {at}")
    elif not os.access(root, os.W_OK | os.X_OK):
        yield Difference("work root", str(root), "you may not write there", f"Mend {at}, or ask the site")
    elif profile.site.free_gb is not None:
        free = shutil.disk_usage(root).free // 2**30
        if free < profile.site.free_gb:
            wanted = f"{profile.site.free_gb} GiB free in {root}"
            yield Difference("work root", wanted, f"{free} GiB", "vec-jobs clean --older-than 30 shows what can go")
    if compute.model_weights is not None and not os.access(compute.model_weights, os.R_OK | os.X_OK):
        at = source.at("model_weights")
        yield Difference("model weights", compute.model_weights, "no folder that you may read", f"Mend {at}, or null")
