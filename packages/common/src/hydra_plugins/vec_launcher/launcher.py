"""The launcher `vec`: checks every point of a sweep, then submits them as job arrays (what they run: _node.py)."""

import copy
import logging
import math
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict
from omegaconf.errors import OmegaConfBaseException

from common import attempts, compose, jobs, local, paths, preempt, slurm, sweep
from common.config import Service, identity, to_typed
from common.errors import UserError
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

from ._node import run_on_node
from ._options import additional_options
from ._service import serve_on_node

log = logging.getLogger(__name__)


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


class VecLauncher(BaseSubmititLauncher):
    """Submits to Slurm, to this machine's background, or runs in this process: `hydra.launcher.executor`."""

    _EXECUTOR = "slurm"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check all points; then submit all; then wait or return.

        Raises:
            UserError: nothing was queued; or, after waiting, some runs did not complete.
        """
        runs = self._compose([list(overrides) for overrides in job_overrides], initial_job_idx)
        sweep_dir = Path(runs[0].cfg.hydra.sweep.dir)
        earlier = _check_folder(runs, sweep_dir)
        arrays = _arrays(runs)
        for array in arrays:
            _check_request(array[0], len(array))
        for run in runs:
            if run.beside:
                _check_request(run.beside, 1)

        submissions = [*earlier, _record(runs)]
        _warn_of_other_code(submissions)
        sweep_dir.mkdir(parents=True, exist_ok=True)
        paths.write_atomic(sweep_dir / "multirun.yaml", sweep.redact(OmegaConf.to_yaml(self.config)))
        sweep.write(sweep_dir, submissions)
        log.info(f"Submitit '{runs[0].params['executor']}' sweep output dir : {sweep_dir}")
        for run in runs:
            log.info(f"\t#{run.point.index} : {' '.join(run.point.overrides)}")
        if runs[0].params["executor"] == "inprocess":
            return [self._run_here(run, sweep_dir) for run in runs]
        for array in arrays:
            self._submit(array, runs)
            sweep.write(sweep_dir, submissions)
        for run in runs:
            if run.beside:
                self._submit_service(run, runs)
                sweep.write(sweep_dir, submissions)
        submissions[-1].state = "submitted"
        sweep.write(sweep_dir, submissions)
        return _wait(runs, sweep_dir)

    def _compose(self, batch: list[list[str]], first: int) -> list[Run]:
        assert self.config is not None
        assert self.hydra_context is not None
        composer = compose.Composer(self.hydra_context.config_loader, self.config)
        runs: list[Run] = []
        for index, overrides in enumerate(batch, start=first):
            try:
                runs.append(_check_point(composer.point(overrides), index, overrides))
            except (UserError, ValueError, HydraException, OmegaConfBaseException) as error:
                text = compose.explain_point(error, self.hydra_context.config_loader, self.config)
                if len(batch) == 1:
                    raise UserError(text) from error
                shown = sweep.redact(" ".join(overrides))
                raise UserError(f"#{index} ({shown}): {text.rstrip('.')}. Nothing was submitted.") from error
        only = runs[0].params["only"]
        if missing := set(only or []) - {run.point.index for run in runs}:
            raise UserError(f"hydra.launcher.only names run {min(missing)}: there are {len(runs)}, from 0 on.")
        return [run for run in runs if only is None or run.point.index in only]

    def _submit(self, array: list[Run], runs: list[Run]) -> None:
        """Queue one array and note its job ids."""
        calls = [(run_on_node, self.task_function, run.cfg) for run in array]
        for run, job_id in zip(array, _queue(array[0], calls, runs), strict=True):
            run.point.job_id = job_id

    def _submit_service(self, run: Run, runs: list[Run]) -> None:
        """Queue the server of one run, which ends with it."""
        assert run.beside is not None
        call = (serve_on_node, run.service, run.cfg, run.beside.params)
        (run.point.service_job_id,) = _queue(run.beside, [call], runs)

    def _run_here(self, run: Run, sweep_dir: Path) -> JobReturn:
        assert self.task_function is not None
        preempt.forget()
        try:
            return run_on_node(self.task_function, run.cfg)
        except preempt.Preempted as stop:
            raise UserError(f"{stop}; go on with the same command and paths.work_dir={sweep_dir}") from stop
        except Exception as error:
            traceback.print_exception(error)  # the training's own, as in the log of a job
            raise UserError(f"Run {run.point.index} failed: {type(error).__name__}: {error}") from error


def _queue(request: Request, calls: list[tuple[Any, ...]], runs: list[Run]) -> list[str]:
    """One array of calls. If that fails, cancel what is queued of the sweep.

    Returns:
        Its job ids.

    Raises:
        UserError: a limit on jobs, a full disk: sbatch --test-only does not see them.
    """
    from submitit.core.utils import DelayedSubmission

    delayed = [DelayedSubmission(*call) for call in calls]
    try:
        if request.params["executor"] == "local":
            return local.submit(_local_plan(request.params, len(calls)), delayed)
        from ._executors import slurm_executor

        executor = slurm_executor(request.params, request.additional)
        with slurm.clean_environment():
            return [str(job.job_id) for job in executor._internal_process_submissions(delayed)]
    except Exception as error:
        slurm.cancel([run.point.job_id for run in runs if run.point.job_id])
        raise UserError(f"Submission failed: {' '.join(str(error).split())} Nothing is left queued.") from error


def _check_point(cfg: DictConfig, index: int, overrides: list[str]) -> Run:
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


def _check_folder(runs: list[Run], sweep_dir: Path) -> list[sweep.Submission]:
    """Refuse a folder that cannot be used for these runs; returns the earlier submissions into it."""
    if any(run.cfg.hydra.sweep.dir != str(sweep_dir) for run in runs):
        raise UserError("One sweep has one folder: experiment_name and paths.* cannot be swept over.")
    paths.check_work_dir(sweep_dir, Path(runs[0].cfg.paths.work_root))
    earlier = sweep.read(sweep_dir)
    allowed = list(runs[0].cfg.requeue.allow_changes)
    for index, changes in sweep.check_same_runs(sweep_dir, earlier, [run.point for run in runs], allowed).items():
        log.warning(f"run {index} goes on with a change: {'; '.join(changes)}")
    _warn_of_slow_saves(runs)
    for submission in earlier:
        ids = [job_id for point in submission.points for job_id in (point.job_id, point.service_job_id) if job_id]
        for job_id, state in jobs.states(submission.executor, f"{sweep_dir}/submitit_logs/%j", ids).items():
            if state.live:  # two jobs in one run directory would overwrite each other
                raise UserError(
                    f"{sweep_dir} is in use: job {job_id} is {state.state}. Cancel it, or wait for its end."
                )
    return earlier


def _warn_of_other_code(submissions: list[sweep.Submission]) -> None:
    changes = sweep.code_changes(*submissions[-2:]) if len(submissions) > 1 else []
    if changes:
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        log.warning(f"the code has changed since the last submission: {'; '.join(changes[:5])}{more}")


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


def _arrays(runs: list[Run]) -> list[list[Run]]:
    """Runs that ask for the same resources go into one job array."""
    arrays: dict[str, list[Run]] = {}
    for run in runs:
        arrays.setdefault(repr((run.params, run.additional)), []).append(run)
    if len({run.params["executor"] for run in runs}) > 1:
        raise UserError("One sweep runs in one place: slurm, local and inprocess presets cannot be mixed.")
    return list(arrays.values())


def _check_request(request: Request, count: int) -> None:
    params = request.params
    if params["executor"] == "local":
        _local_plan(params, count)
    elif params["executor"] == "slurm":
        slurm.check_available()
        from ._executors import script, slurm_executor

        executor = slurm_executor(params, request.additional)
        try:
            slurm.test_only(script(executor, count))
        except UserError as error:
            raise UserError(f"{error} Asked for: {_request(params)}. Nothing was submitted.") from error


def _request(params: dict[str, Any]) -> str:
    """The resources of one run, in words."""
    gpus = f"{params['gpus_per_node'] or 0} {params['gpu_type'] or ''} GPU(s)".replace("  ", " ")
    cores = params["tasks_per_node"] * (params["cpus_per_task"] or 1)
    words = f"{params['nodes']} node(s) with {cores} cores, {gpus}, {params['mem_gb'] or 'default'} GiB each"
    named = [f"{name} {params[name]}" for name in ("partition", "account", "qos") if params[name]]
    return ", ".join([words, f"{params['timeout_min']} min", *named])


def _record(runs: list[Run]) -> sweep.Submission:
    """What sweep.json keeps of a submission, without secrets."""
    git, versions = sweep.provenance()
    for run in runs:
        run.point.config = sweep.redact_values(run.point.config)
        run.point.overrides = [sweep.redact(override) for override in run.point.overrides]
    return sweep.Submission(
        time=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=[sweep.redact(word) for word in sys.argv],
        template=runs[0].cfg.template,
        preset=str(runs[0].cfg.hydra.runtime.choices.get("compute")),
        executor=runs[0].params["executor"],
        points=[run.point for run in runs],
        git=git,
        versions=versions,
    )


def _wait(runs: list[Run], sweep_dir: Path) -> Sequence[JobReturn]:
    """Until all jobs have ended, where the launcher is to wait; else say how to watch them."""
    from common import watch

    executor, folder = runs[0].params["executor"], runs[0].params["submitit_folder"]
    wait = runs[0].params["wait"]
    points = [run.point for run in runs]
    ids = ",".join(sorted({str(point.job_id).split("_")[0] for point in points}))
    watch.say(f"Submitted {len(runs)} run(s) as job {ids}; results will be in {sweep_dir}/<run>/outputs")
    if services := ",".join(str(point.service_job_id) for point in points if point.service_job_id):
        watch.say(f"Their servers are job {services}; each ends with its run")
    if not (executor != "slurm" if wait is None else wait):
        watch.say(f"See them: squeue --me -j {ids}   follow: tail -F {sweep_dir}/submitit_logs/*/*.err")
        return []
    poll_s = (2.0, 30.0) if executor == "slurm" else (0.3, 2.0)
    watching = watch.Watch(sweep_dir, points, lambda ids: jobs.states(executor, folder, ids), poll_s)
    try:
        completed = watching.until_done()
    except KeyboardInterrupt:
        watch.say(watch.detached_line(points, sweep_dir, executor))
        raise
    if not completed:
        failed = [str(point.index) for point in points if watching.states[point.index].state != "COMPLETED"]
        raise UserError(
            f"{len(failed)} of {len(runs)} runs did not complete: {', '.join(failed)}. "
            f"Their logs: {sweep_dir}/submitit_logs. Submit again with paths.work_dir={sweep_dir} to resume them."
        )
    return [_read_return(run, sweep_dir) for run in runs]


def _local_plan(params: dict[str, Any], count: int) -> local.Plan:
    cpus = params["cpus_per_task"] or 1
    return local.Plan(
        folder=params["submitit_folder"],
        python=params["python"] or sys.executable,
        tasks_per_run=params["tasks_per_node"],
        at_once=local.at_once(params["tasks_per_node"], cpus, params["gpus_per_node"]),
        gpus_per_run=params["gpus_per_node"],
        timeout_min=params["timeout_min"],
        signal_delay_s=params["signal_delay_s"],
        setup=params["setup"] or [],
        count=count,
    )


def _read_return(run: Run, sweep_dir: Path) -> JobReturn:
    import json

    result = json.loads((sweep_dir / str(run.point.index) / "outputs" / "result.json").read_text())
    returned = JobReturn(overrides=run.point.overrides, cfg=run.cfg, status=JobStatus.COMPLETED)
    returned.return_value = result["metrics"]
    return returned
