"""What jobs ask for."""

import math
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from common import sweep
from common.config import Service


@dataclass
class Request:
    """What a job asks for."""

    params: dict[str, Any]  # of hydra.launcher
    additional: dict[str, Any]  # sbatch options without a field of their own


@dataclass
class Run(Request):
    """A point of the sweep, composed and checked."""

    point: sweep.Point
    cfg: DictConfig  # with the hydra node
    service: Service | None  # the server that it needs beside it
    beside: Request | None  # what that asks for


def jobs_of(runs: list[Run]) -> int:
    """How many jobs the runs of one array are."""
    return math.ceil(len(runs) / runs[0].params["runs_per_job"])


def gpu_hours(runs: list[Run]) -> float:
    """What the runs ask for, if they take all of their time."""
    return sum(node_hours(run) * (run.params["gpus_per_node"] or 0) for run in runs)


def node_hours(run: Run) -> float:
    """The share of a run in what its job asks for."""
    return run.params["nodes"] * run.params["timeout_min"] / 60 / run.params["runs_per_job"]


def in_words(params: dict[str, Any]) -> str:
    """The resources of one run, in words."""
    gpus = f"{params['gpus_per_node'] or 0} {params['gpu_type'] or ''} GPU(s)".replace("  ", " ")
    cores = params["tasks_per_node"] * (params["cpus_per_task"] or 1)
    words = f"{params['nodes']} node(s) with {cores} cores, {gpus}, {params['mem_gb'] or 'default'} GiB each"
    named = [f"{name} {params[name]}" for name in ("partition", "account", "qos") if params[name]]
    return ", ".join([words, f"{params['timeout_min']} min", *named])
