"""The launcher `vec`: checks every point of a sweep, then submits them as job arrays (what they run: _node.py)."""

import logging
import shlex
import sys
import traceback
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common import compose, environment, jobs, paths, preempt, slurm, snapshot, sweep
from common.errors import UserError
from common.runs import look, of
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

from ._checks import arrays_of, check_folder, check_point, check_request, confirm, earlier_with_same_config
from ._node import run_on_node
from ._request import Run, jobs_of
from ._service import serve_on_node

if TYPE_CHECKING:
    from common.watch import Watch

    from ._queue import Held

log = logging.getLogger(__name__)


class VecLauncher(BaseSubmititLauncher):
    """Submits to Slurm, to this machine's background, or runs in this process: `hydra.launcher.executor`."""

    _EXECUTOR = "slurm"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check all points; then submit all; then wait or return.

        Raises:
            UserError: nothing was queued; or, after waiting, some runs did not complete.
        """
        points = dict(enumerate([list(overrides) for overrides in job_overrides], start=initial_job_idx))
        runs = self._compose(points)
        if not runs:
            log.info("the sweep has all these points already: nothing was submitted")
            return []
        here = self._launch(runs)
        return here if here is not None else _wait(runs)

    def check(self, overrides: list[str]) -> Path:
        """Compose and check one point, without submitting it.

        Returns:
            The folder of its sweep.

        Raises:
            UserError: what is wrong with it.
        """
        (run,) = self._compose({0: overrides})
        return Path(run.cfg.hydra.sweep.dir)

    def run(self, points: dict[int, list[str]]) -> dict[int, dict[str, float] | None]:
        """For sweepers that need results: submit the points, but for those that live or have ended well, and wait.

        Args:
            points: overrides by the index of the run.

        Returns:
            The final metrics of each run; None where it failed.
        """
        runs = self._compose(points)
        sweep_dir = Path(runs[0].cfg.hydra.sweep.dir)
        there = {one.point.index: one for one in look(sweep_dir, sweep.read(sweep_dir)) if one.state.live or one.result}
        waiting = [run for run in runs if run.point.index not in there]
        for run in runs:
            if run.point.index in there:  # an earlier launcher has submitted it
                run.point = there[run.point.index].point
        if waiting:
            self._launch(waiting)
        if runs[0].params["executor"] != "inprocess":
            _until_done(_watch(runs), runs)
        ended = {
            one.point.index: one.result["metrics"] for one in of(sweep_dir, sweep.read(sweep_dir)) if one.completed
        }
        return {run.point.index: ended.get(run.point.index) for run in runs}

    def _launch(self, runs: list[Run]) -> list[JobReturn] | None:
        """Check what asks the cluster, then submit; in this process, run.

        Returns:
            What runs in this process returned; None of others, which may still wait.
        """
        sweep_dir = Path(runs[0].cfg.hydra.sweep.dir)
        earlier = check_folder(runs, sweep_dir)
        arrays = arrays_of(runs)
        answers = [check_request(array[0], jobs_of(array)) for array in arrays]
        for run in runs:
            if run.beside:
                check_request(run.beside, 1)
        if runs[0].params["dry_run"]:
            from . import _dry_run

            _dry_run.show(arrays, answers)
            return []
        confirm(runs)

        try:
            sweep_dir.mkdir(parents=True, exist_ok=True)
            with sweep.submitting(sweep_dir) as lock:
                return self._record_and_submit(runs, arrays, earlier, lock)
        except OSError as error:
            raise UserError(
                f"{error.filename or sweep_dir} cannot be written ({error.strerror or error}). Nothing is left queued."
            ) from error

    def _record_and_submit(
        self, runs: list[Run], arrays: list[list[Run]], earlier: list[sweep.Submission], lock: int
    ) -> list[JobReturn] | None:
        sweep_dir = Path(runs[0].cfg.hydra.sweep.dir)
        if sweep.read(sweep_dir) != earlier:
            raise UserError(f"Another launcher has submitted into {sweep_dir} meanwhile: see vec-jobs status.")
        _drop_leftovers(earlier)
        new = _record(runs, _freeze(runs, sweep_dir))
        submissions = [*earlier, new]
        _warn_of_other_code(submissions)
        paths.write_atomic(sweep_dir / "multirun.yaml", sweep.redact(OmegaConf.to_yaml(self.config)))
        sweep.write(sweep_dir, submissions)
        log.info(f"Submitit '{new.executor}' sweep output dir : {sweep_dir}")
        for run in runs:
            log.info(f"\t#{run.point.index} : {' '.join(run.point.overrides)}")
        if new.executor == "inprocess":
            return [self._run_here(run, sweep_dir) for run in runs]
        self._submit(arrays, lock, lambda: sweep.write(sweep_dir, submissions), new)
        return None

    def _compose(self, points: dict[int, list[str]]) -> list[Run]:
        assert self.config is not None
        assert self.hydra_context is not None
        composer = compose.Composer(self.hydra_context.config_loader, self.config)
        runs: list[Run] = []
        left_out = 0
        for number, overrides in points.items():
            index = number - left_out
            try:
                run = check_point(composer.point(overrides), index, overrides)
                if (earlier := earlier_with_same_config(run)) is not None:
                    log.info(f"left out, for it is run {earlier}: {' '.join(overrides)}")
                    left_out += 1
                else:
                    runs.append(run)
            except (UserError, ValueError, HydraException, OmegaConfBaseException) as error:
                text = compose.explain_point(error, self.hydra_context.config_loader, self.config)
                if len(points) == 1:
                    raise UserError(text) from error
                shown = sweep.redact(" ".join(overrides))
                raise UserError(f"#{index} ({shown}): {text.rstrip('.')}. Nothing was submitted.") from error
        only = runs[0].params["only"] if runs else None
        if missing := set(only or []) - {run.point.index for run in runs}:
            last = runs[-1].point.index
            raise UserError(f"hydra.launcher.only names run {min(missing)}: they are {runs[0].point.index} to {last}.")
        return [run for run in runs if only is None or run.point.index in only]

    def _submit(
        self, arrays: list[list[Run]], lock: int, record: Callable[[], None], submission: sweep.Submission
    ) -> None:
        """Queue all on hold, write down the jobs' ids, let them start. If one is refused, none is left.

        Args:
            record: writes sweep.json.

        Raises:
            UserError: what refused it.
        """
        from ._queue import hold, suffixes

        for array in arrays:
            request = uuid.uuid4().hex
            for run, suffix in zip(array, suffixes(array[0].params, len(array)), strict=True):
                run.point.request, run.point.suffix = request, suffix
                run.point.service_request = uuid.uuid4().hex if run.beside else None
        record()
        held: list[Held] = []
        try:
            for array in arrays:
                for run in array:
                    if run.params["runs_per_job"] > 1:  # to the run, its job is a machine like any other
                        run.cfg.hydra.launcher.executor = "local"
                calls = [(run_on_node, self.task_function, run.cfg) for run in array]
                held.append(hold(array[0].params, array[0].additional, calls, str(array[0].point.request), lock))
                for run in array:
                    run.point.job_id = f"{held[-1].job_id}{run.point.suffix}"
            for run in (run for array in arrays for run in array):
                if run.beside:  # its server, which ends with it
                    call = (serve_on_node, run.service, run.cfg, run.beside.params)
                    asked = run.beside.params, run.beside.additional
                    held.append(hold(*asked, [call], str(run.point.service_request), lock))
                    run.point.service_job_id = held[-1].job_id
            record()
        except BaseException:
            for jobs_on_hold in held:
                jobs_on_hold.drop()
            for point in submission.points:
                point.job_id = point.service_job_id = None
            with suppress(OSError):  # the first error is the one to tell
                record()
            raise
        for jobs_on_hold in held:
            jobs_on_hold.start()
        submission.state = "submitted"
        try:
            record()
        except OSError as error:  # it has their ids
            log.warning(f"sweep.json does not tell that the jobs may start ({error})")

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


def _drop_leftovers(earlier: list[sweep.Submission]) -> None:
    for submission in earlier:
        if left := set(jobs.left_on_hold(submission).values()):
            log.warning(f"cancelled job {', '.join(sorted(left))}: a launcher that was killed had left it on hold")
            slurm.cancel(sorted(left))
        if submission.state == "submitting":
            submission.state = "broken off"
            for point in submission.points:
                if slurm.base(str(point.job_id)) in left:
                    point.job_id = None


def _warn_of_other_code(submissions: list[sweep.Submission]) -> None:
    changes = sweep.code_changes(*submissions[-2:]) if len(submissions) > 1 else []
    if changes:
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        log.warning(f"the code has changed since the last submission: {'; '.join(changes[:5])}{more}")


def _freeze(runs: list[Run], sweep_dir: Path) -> str | None:
    """Let the jobs run the code, and where it is asked for the environment, of now; returns the snapshot's name."""
    params = runs[0].params
    inprocess = params["executor"] == "inprocess"
    code = None if inprocess else snapshot.take(runs[0].cfg.template.partition(".")[0], sweep_dir)
    python = environment.freeze() if params["freeze_env"] else None
    for request in [*runs, *(run.beside for run in runs if run.beside)]:
        if code is not None:
            setup = [*(request.params["setup"] or []), snapshot.setup_line(sweep_dir, code)]
            request.params = request.params | {"setup": setup}
        if python is not None:
            request.params = request.params | {"python": shlex.quote(str(python))}
    return code


def _record(runs: list[Run], code: str | None) -> sweep.Submission:
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
        objective=runs[0].cfg.objective,
        direction=runs[0].cfg.direction,
        git=git,
        code=code,
        versions=versions,
    )


def _wait(runs: list[Run]) -> Sequence[JobReturn]:
    """Until all jobs have ended, where the launcher is to wait; else say how to watch them."""
    from common import watch

    executor, sweep_dir = runs[0].params["executor"], Path(runs[0].cfg.hydra.sweep.dir)
    wait = runs[0].params["wait"]
    points = [run.point for run in runs]
    ids = ",".join(sorted({slurm.base(str(point.job_id)) for point in points}))
    watch.say(f"Submitted {len(runs)} run(s) as job {ids}; results will be in {sweep_dir}/<run>/outputs")
    if services := ",".join(str(point.service_job_id) for point in points if point.service_job_id):
        watch.say(f"Their servers are job {services}; each ends with its run")
    if not (executor != "slurm" if wait is None else wait):
        watch.say(f"See them: squeue --me -j {ids}   follow: tail -F {sweep_dir}/submitit_logs/*/*.err")
        return []
    watching = _watch(runs)
    if not _until_done(watching, runs):
        failed = [str(run.point.index) for run in watching.runs if run.state.state != "COMPLETED"]
        raise UserError(
            f"{len(failed)} of {len(runs)} runs did not complete: {', '.join(failed)}. "
            f"Their logs: {sweep_dir}/submitit_logs. Submit again with paths.work_dir={sweep_dir} to resume them."
        )
    return [_returned(run, one.result["metrics"]) for run, one in zip(runs, watching.runs, strict=True)]


def _returned(run: Run, metrics: dict[str, float]) -> JobReturn:
    returned = JobReturn(overrides=run.point.overrides, cfg=run.cfg, status=JobStatus.COMPLETED)
    returned.return_value = metrics
    return returned


def _watch(runs: list[Run]) -> "Watch":
    from common.watch import Watch

    sweep_dir = Path(runs[0].cfg.hydra.sweep.dir)
    indices = {run.point.index for run in runs}
    submissions = [
        replace(one, points=[point for point in one.points if point.index in indices]) for one in sweep.read(sweep_dir)
    ]
    return Watch(sweep_dir, submissions)


def _until_done(watching: "Watch", runs: list[Run]) -> bool:
    """Whether all runs completed; ctrl-C leaves them."""
    from common.watch import detach

    try:
        return watching.until_done()
    except KeyboardInterrupt:
        detach(Path(runs[0].cfg.hydra.sweep.dir), [run.point for run in runs], runs[0].params["executor"])
        raise
