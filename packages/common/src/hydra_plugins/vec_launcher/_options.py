"""Which sbatch option wins: command line > user > compute > requeue."""

import re
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

# fields of the launcher that sbatch (and submitit's script) know under another name
RENAMED = {"timeout_min": "time", "tasks_per_node": "ntasks_per_node", "name": "job_name", "mem_gb": "mem"}


def additional_options(cfg: DictConfig, params: dict[str, Any]) -> dict[str, Any]:
    """The sbatch options without a field of their own.

    Precedence: command line > user > compute > requeue. An option given here beats the field of the same name, unless
    that field is set on the command line. null or false removes an option.
    """
    merged: dict[str, Any] = {"requeue" if params["requeue"] else "no_requeue": True}
    for layer in (cfg.requeue, cfg.compute.slurm, cfg.user.slurm):
        merged |= _normal(OmegaConf.to_container(layer.additional_parameters, resolve=True))
    merged |= _normal(params["additional_parameters"])
    for key, value in _command_line(cfg):
        name = key.split(".")[-1].replace("-", "_")
        if ".additional_parameters." in key:
            merged[name] = value
        elif key.startswith(("compute.", "user.slurm.", "hydra.launcher.")):
            merged.pop(RENAMED.get(name, name), None)
    return {name: value for name, value in merged.items() if value is not None and value is not False}


def _normal(options: Any) -> dict[str, Any]:
    return {str(name).replace("-", "_"): value for name, value in options.items()}


def _command_line(cfg: DictConfig) -> list[tuple[str, Any]]:
    """(key, its value in the end) of every override that may concern sbatch, in order."""
    lines = [*cfg.hydra.overrides.hydra, *cfg.hydra.overrides.task]
    concerned = [line for line in lines if re.match(r"\+*(user|compute|requeue|hydra\.launcher)\.", line)]
    return [(key, OmegaConf.select(cfg, key)) for key in map(_key, concerned)]


@cache  # the points of a sweep share most of their overrides
def _key(line: str) -> str:
    return OverridesParser.create().parse_override(line).key_or_group
