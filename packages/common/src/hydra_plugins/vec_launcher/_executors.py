"""Slurm jobs from launcher parameters. (The leading underscore keeps Hydra's plugin scan from importing submitit.)"""

import copy
import shlex
import uuid
from pathlib import Path
from typing import Any

from submitit.core import core, utils
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

from ._options import RENAMED

# launcher fields that are not options of the script
_NOT_SBATCH = {
    "_target_", "executor", "only", "wait", "requeue", "gpu_type", "python", "submitit_folder", "max_num_timeout",
    "additional_parameters", "srun_args",
}  # fmt: skip


class ArrayExecutor(SlurmExecutor):
    """submitit's executor, with our entry point; unlike submitit's, an array keeps `python`."""

    @property
    def _submitit_command_str(self) -> str:
        command = f"{self.python} -u -m common.node {shlex.quote(str(self.folder))}"
        # without srun the batch shell becomes the task, so that Slurm's signals reach it
        return command if self.parameters.get("use_srun", True) else f"exec {command}"

    def _internal_process_submissions(self, delayed_submissions: list[utils.DelayedSubmission]) -> list[core.Job[Any]]:
        if len(delayed_submissions) == 1:
            return super()._internal_process_submissions(delayed_submissions)
        folder = utils.JobPaths.get_first_id_independent_folder(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        pickles: list[Path] = []
        for delayed in delayed_submissions:
            delayed.set_timeout(self.parameters.get("time", 5), self.max_num_timeout)
            pickles.append(folder / f"{uuid.uuid4().hex}.pkl")
            delayed.dump(pickles[-1])
        array = copy.copy(self)
        array.parameters = {**self.parameters, "map_count": len(delayed_submissions)}
        first = array._submit_command(self._submitit_command_str)
        tasks = range(first.num_tasks)
        jobs: list[core.Job[Any]] = [
            SlurmJob(self.folder, f"{first.job_id}_{n}", list(tasks)) for n in range(len(delayed_submissions))
        ]
        for job, path in zip(jobs, pickles, strict=True):
            job.paths.move_temporary_file(path, "submitted_pickle")
        return jobs


def slurm_executor(params: dict[str, Any], additional: dict[str, Any]) -> ArrayExecutor:
    """An executor for launcher parameters and merged additional sbatch options."""
    executor = ArrayExecutor(params["submitit_folder"], params["max_num_timeout"], python=params["python"])
    options = {
        RENAMED.get(name, name): value
        for name, value in params.items()
        if name not in _NOT_SBATCH and value is not None
    }
    if options.get("gpus_per_node") == 0:
        del options["gpus_per_node"]
    elif options.get("gpus_per_node") and params["gpu_type"]:
        options["gpus_per_node"] = f"{params['gpu_type']}:{options['gpus_per_node']}"
    if "mem" in options:
        options["mem"] = f"{options['mem']}G"  # Slurm's G is 2^30 bytes
    # One dead rank must end the job, or the others wait for it until the time limit. srun does not take the number of
    # cores from sbatch since Slurm 22.05.
    srun_args = ["--kill-on-bad-exit=1", f"--cpus-per-task={params['cpus_per_task'] or 1}"]
    executor.parameters = options | {
        "srun_args": [*srun_args, *(params["srun_args"] or [])],
        "additional_parameters": additional,
    }
    if not params["use_srun"]:
        # without a step of its own the task is the batch shell, which Slurm signals only when it is asked to
        executor.parameters["additional_parameters"] = {"signal": f"B:USR2@{params['signal_delay_s']}"} | additional
    return executor


def script(executor: ArrayExecutor, count: int) -> str:
    """The sbatch script of an array of `count` runs, to show or to test."""
    probe = copy.copy(executor)
    probe.parameters = {**executor.parameters, **({"map_count": count} if count > 1 else {})}
    return probe._make_submission_file_text(executor._submitit_command_str, "")
