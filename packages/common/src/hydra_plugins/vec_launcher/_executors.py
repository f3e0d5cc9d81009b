"""The batch script of a job. (The leading underscore keeps Hydra's plugin scan from importing submitit.)"""

import copy
import shlex
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from ._options import RENAMED

# launcher fields that are not options of the script
_NOT_SBATCH = {
    "_target_", "executor", "dry_run", "confirm_gpu_hours", "first", "only", "wait", "requeue", "gpu_type", "python",
    "freeze_env", "runs_per_job", "runs_at_once", "submitit_folder", "max_num_timeout",
    "additional_parameters", "srun_args",
}  # fmt: skip


class ScriptExecutor(SlurmExecutor):
    """Writes submitit's script with our entry point."""

    @property
    def _submitit_command_str(self) -> str:
        command = f"{self.python} -u -P -m common.node {shlex.quote(str(self.folder))}"
        # without srun the batch shell becomes the task, so that Slurm's signals reach it
        return command if self.parameters.get("use_srun", True) else f"exec {command}"


def slurm_executor(params: dict[str, Any], additional: dict[str, Any]) -> ScriptExecutor:
    """An executor for launcher parameters and merged additional sbatch options."""
    executor = ScriptExecutor(params["submitit_folder"], params["max_num_timeout"], python=params["python"])
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


def script(executor: ScriptExecutor, count: int) -> str:
    """The sbatch script of an array of `count` runs, to show or to test."""
    probe = copy.copy(executor)
    probe.parameters = {**executor.parameters, **({"map_count": count} if count > 1 else {})}
    return probe._make_submission_file_text(executor._submitit_command_str, "")
