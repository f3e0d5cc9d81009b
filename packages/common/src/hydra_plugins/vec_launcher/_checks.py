"""What is refused before anything is queued: points, folders, requests."""

import copy
import json
import logging
import math
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override, open_dict

from common import attempts, compose, jobs, paths, slurm, sweep
from common.config import Service, identity, presets, require, to_typed
from common.errors import UserError

from ._options import additional_options
from ._request import Request, Run, gpu_hours, in_words

log = logging.getLogger(__name__)


def check_point(cfg: DictConfig, index: int, overrides: list[str]) -> Run:
    """A composed point, if it is right in itself.

    Raises:
        UserError, omegaconf.errors.OmegaConfBaseException: what is wrong with it.
    """
    if not cfg.compute.executor:
        raise UserError(
            "Say where to run with compute=<preset>, e.g. compute=local (this machine) or compute=killarney/l40s_1x; "
            "--help lists all presets."
        )
    with open_dict(cfg.hydra.job):
        cfg.hydra.job.num = index
    for name in ("work_root", "work_dir"):
        cfg.paths[name] = os.path.abspath(os.path.expanduser(os.path.expandvars(cfg.paths[name])))
    compose.resolve(cfg)
    for preset in presets(OmegaConf.get_type(cfg)):
        if OmegaConf.select(cfg, preset) is not None:
            OmegaConf.update(cfg, f"{preset}.site", None)  # its facts are resolved; they are none of the run's
    params: Any = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    # lift the hydra node out instead of copying the rest: a sweep has many points
    with flag_override(cfg, ["struct", "no_deepcopy_set_nodes"], [False, True]):
        hydra = cfg.pop("hydra")
        typed = to_typed(cfg)
        typed.before_submission()
        point = sweep.Point(index, overrides, identity(cfg))
        hydra._set_parent(None)  # OmegaConf copies what it takes for a part of the same config
        cfg.hydra = hydra
    service = typed.service()
    beside = None if service is None else _request_of_service(cfg, service)
    return Run(params, additional_options(cfg, params), point, cfg, service, beside)


def _request_of_service(cfg: DictConfig, service: Service) -> Request:
    """What the launcher would ask for with the service's preset in the place of the run's."""
    other = copy.deepcopy(cfg)
    with open_dict(other):
        other.compute = OmegaConf.structured(service.compute)
        other.hydra.launcher.name = f"{cfg.hydra.job.name}.{service.name}"
    if other.compute.executor != cfg.compute.executor:
        raise UserError(
            f"the run is on {cfg.compute.executor}, its {service.name} on {other.compute.executor}: both need a preset "
            "of the same place"
        )
    params: Any = OmegaConf.to_container(other.hydra.launcher, resolve=True)
    return Request(params, additional_options(other, params))


def check_folder(runs: list[Run], sweep_dir: Path) -> list[sweep.Submission]:
    """Refuse a folder that cannot be used for these runs; returns the earlier submissions into it."""
    if any(run.cfg.hydra.sweep.dir != str(sweep_dir) for run in runs):
        raise UserError("One sweep has one folder: experiment_name and paths.* cannot be swept over.")
    paths.check_work_dir(sweep_dir, Path(runs[0].cfg.paths.work_root))
    earlier = sweep.read(sweep_dir)
    allowed = list(runs[0].cfg.requeue.allow_changes)
    for index, changes in sweep.check_same_runs(sweep_dir, earlier, [run.point for run in runs], allowed).items():
        log.warning(f"run {index} goes on with a change: {'; '.join(changes)}")
    _warn_of_slow_saves(runs)
    if sweep_dir.exists() and sweep.is_being_submitted(sweep_dir):
        raise UserError(f"Another launcher is submitting into {sweep_dir}: wait for its end.")
    indices = {run.point.index for run in runs}
    for submission in earlier:
        left = set(jobs.left_on_hold(submission).values())
        points = [point for point in submission.points if point.index in indices]
        ids = [job_id for point in points for job_id in (point.job_id, point.service_job_id) if job_id]
        ids = [job_id for job_id in ids if slurm.base(job_id) not in left]
        for job_id, state in jobs.states(submission.executor, f"{sweep_dir}/submitit_logs/%j", ids).items():
            if state.live:  # two jobs in one run directory would overwrite each other
                raise UserError(
                    f"{sweep_dir} is in use: job {job_id} is {state.state}. Cancel it, or wait for its end."
                )
    return earlier


def _warn_of_slow_saves(runs: list[Run]) -> None:
    """Say when the saves of earlier attempts were too slow for the notice, or take too large a part of the time."""
    for run in runs:
        slowest_s = attempts.slowest_save_s(Path(run.cfg.paths.out_dir))
        lead_s, every_s = run.cfg.requeue.signal_delay_s, run.cfg.requeue.save_every_min * 60
        if 2 * slowest_s > lead_s:
            log.warning(
                f"run {run.point.index}: a save took {slowest_s:.0f} s, the notice comes {lead_s} s before the limit; "
                f"give it time with requeue.signal_delay_s={math.ceil(2 * slowest_s)} or more"
            )
        if slowest_s > 0.2 * every_s:
            log.warning(
                f"run {run.point.index}: a save took {slowest_s:.0f} s, and there is one every {every_s:.0f} s; save "
                "less often (requeue.save_every_min) or in the background (requeue.async_save=true)"
            )


def arrays_of(runs: list[Run]) -> list[list[Run]]:
    """Runs that ask for the same resources go into one job array, or several where they are more than one may hold."""
    arrays: dict[str, list[Run]] = {}
    for run in runs:
        arrays.setdefault(repr((run.params, run.additional)), []).append(run)
    if len({run.params["executor"] for run in runs}) > 1:
        raise UserError("One sweep runs in one place: slurm, local and inprocess presets cannot be mixed.")
    _check_packs(runs)
    most = (
        slurm.max_array_size() * runs[0].params["runs_per_job"] if runs[0].params["executor"] == "slurm" else len(runs)
    )
    return [array[first : first + most] for array in arrays.values() for first in range(0, len(array), most)]


def _check_packs(runs: list[Run]) -> None:
    """Refuse runs that cannot share a job."""
    for run in runs:
        each, at_once = run.params["runs_per_job"], run.params["runs_at_once"]
        require(1 <= at_once <= each, f"hydra.launcher.runs_at_once={at_once} is to be 1 to runs_per_job={each}")
        if each > 1:
            where = "hydra.launcher.runs_per_job"
            require(run.params["executor"] == "slurm", f"{where}={each} is for Slurm, not {run.params['executor']}")
            tasks = run.params["nodes"] * run.params["tasks_per_node"]
            require(tasks == 1, f"{where}={each} is for runs of one process, these have {tasks}")
            require(run.service is None, f"{where}={each} is not for runs that need a server beside them")


def check_request(request: Request, count: int) -> str:
    """What Slurm answers to the request: its estimate of the start; empty elsewhere."""
    params = request.params
    require(
        not params["freeze_env"] or params["python"] is None,
        f"hydra.launcher.freeze_env=true freezes this environment, but hydra.launcher.python={params['python']} starts "
        "another: leave out one of them",
    )
    if params["executor"] == "local":
        from ._queue import local_plan

        local_plan(params, count)
    elif params["executor"] == "slurm":
        slurm.check_available()
        from ._executors import script, slurm_executor

        executor = slurm_executor(params, request.additional)
        try:
            return slurm.test_only(script(executor, count))
        except UserError as error:
            raise UserError(f"{error} Asked for: {in_words(params)}. Nothing was submitted.") from error
    return ""


def confirm(runs: list[Run]) -> None:
    """Ask, on a terminal, before a sweep that takes many GPU-hours.

    Raises:
        UserError: no.
    """
    limit = runs[0].params["confirm_gpu_hours"]
    hours = gpu_hours(runs)
    if runs[0].params["executor"] != "slurm" or limit is None or hours <= limit or not sys.stdin.isatty():
        return
    asked = f"{len(runs)} run(s) ask for {hours:.0f} GPU-hours (hydra.launcher.confirm_gpu_hours={limit:.0f}). Submit? "
    require(input(f"{asked}[y/N] ").strip().lower() in ("y", "yes"), "Nothing was submitted.")


def earlier_with_same_config(run: Run) -> int | None:
    """Where a sweep is extended: the index of the run before its extension that is the same."""
    first = run.params["first"]
    if first == 0:
        return None
    return _indices_by_config(run.cfg.hydra.sweep.dir, first).get(_key(sweep.redact_values(run.point.config)))


@cache  # a large sweep is read once, not for each point
def _indices_by_config(sweep_dir: str, first: int) -> dict[str, int]:
    points = [point for one in sweep.read(Path(sweep_dir)) for point in one.points]
    return {_key(point.config): point.index for point in points if point.index < first}


def _key(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
