"""What reaches sbatch: from a command line, over the composed configuration, to the text of the script."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from hydra_plugins.vec_launcher.config import VecLauncherConf
from tests.conftest import Cli, Compose, sbatch_options
from tests.disk import full_disk

Script = Callable[..., str]

L40S = ("compute=killarney/l40s_1x", "paths.work_root=/tmp")


def test_the_resources_of_a_preset_reach_sbatch(sbatch_script: Script) -> None:
    options = sbatch_options(sbatch_script(*L40S, "experiment_name=e", "user.slurm.account=def-a"))
    wanted = {
        "account": "def-a",
        "cpus-per-task": "16",
        "gpus-per-node": "l40s:1",
        "job-name": "mlp.single",
        "mem": "120G",
        "nodes": "1",
        "ntasks-per-node": "1",
        "output": "/tmp/vec_jobs/e/submitit_logs/%j/%j_0_log.out",
        "requeue": True,
        "signal": "USR2@120",
        "time": "60",
    }
    assert {name: options.get(name) for name in wanted} == wanted
    # no partition or QOS is invented where the preset has none
    assert not {"partition", "qos", "no-requeue", "gres", "constraint", "exclude"} & options.keys()


def test_requeue_off_asks_slurm_not_to_requeue(sbatch_script: Script) -> None:
    text = sbatch_script(*L40S, "requeue=off")
    assert "\n#SBATCH --no-requeue\n" in text
    assert "--requeue\n" not in text


def test_requeue_on_is_a_bare_flag(sbatch_script: Script) -> None:
    # sbatch refuses `--requeue=''` and `--requeue=True`
    assert "\n#SBATCH --requeue\n" in sbatch_script(*L40S, "requeue=on")


def test_values_of_the_command_line_reach_sbatch(sbatch_script: Script) -> None:
    options = sbatch_options(
        sbatch_script(
            "compute=bon_echo/a40_1x",
            "paths.work_root=/tmp",
            "compute.mem_gb=32",
            "compute.timeout_min=90",
            "compute.cpus_per_task=3",
            "compute.slurm.partition=rtx6000",
            "compute.slurm.qos=m3",
            "compute.slurm.constraint=a|b",
            "compute.slurm.exclude='gpu[001-003]'",
            "requeue.signal_delay_s=30",
        )
    )
    wanted = {
        "mem": "32G",
        "time": "90",
        "cpus-per-task": "3",
        "partition": "rtx6000",
        "qos": "m3",
        "constraint": "a|b",
        "exclude": "gpu[001-003]",
        "gpus-per-node": "1",  # Bon Echo's presets name no GPU type
        "signal": "USR2@30",
    }
    assert {name: options.get(name) for name in wanted} == wanted


def test_a_preset_without_gpus_asks_for_none(sbatch_script: Script) -> None:
    assert "gpus" not in sbatch_script("compute=bon_echo/cpu_1x", "paths.work_root=/tmp")


def test_several_points_become_one_array(sbatch_script: Script) -> None:
    options = sbatch_options(sbatch_script(*L40S, "trainer.seed=1,2,3"))
    assert str(options["array"]).partition("%")[0] == "0-2"
    assert "/%A_%a/%A_%a_0_log.out" in str(options["output"])


def test_points_that_ask_for_different_resources_become_different_arrays(composed: Compose) -> None:
    from hydra_plugins.vec_launcher._checks import arrays_of

    arrays = arrays_of(composed(*L40S, "compute.mem_gb=32,64", "trainer.seed=1,2"))
    assert [[run.params["mem_gb"] for run in array] for array in arrays] == [[32, 32], [64, 64]]
    assert [[run.point.index for run in array] for array in arrays] == [[0, 1], [2, 3]]


# ----- the command that starts -----


def last_line(text: str) -> str:
    return text.rstrip().splitlines()[-1]


def test_srun_kills_the_job_when_one_rank_fails_and_hands_on_the_cores(sbatch_script: Script) -> None:
    line = last_line(sbatch_script(*L40S))
    assert line.startswith("srun ")
    # without it the ranks that live on hang until the time limit
    assert " --kill-on-bad-exit=1 " in line
    # srun does not take it from sbatch since Slurm 22.05
    assert " --cpus-per-task=16 " in line
    assert "-m common.node" in line


def test_srun_args_and_python_reach_the_command(sbatch_script: Script) -> None:
    line = last_line(
        sbatch_script(
            *L40S, "hydra.launcher.srun_args=['--mpi=none']", "hydra.launcher.python='apptainer exec x.sif python'"
        )
    )
    assert " --mpi=none " in line
    assert " --kill-on-bad-exit=1 " in line
    assert " apptainer exec x.sif python -u -P -m common.node " in line


def test_srun_args_and_python_reach_an_array_too(sbatch_script: Script) -> None:
    line = last_line(sbatch_script(*L40S, "hydra.launcher.python=python9", "trainer.seed=1,2"))
    assert " python9 -u -P -m common.node " in line
    assert " --kill-on-bad-exit=1 " in line


def test_setup_lines_stand_before_srun_in_order(sbatch_script: Script) -> None:
    text = sbatch_script(*L40S, "compute.setup=[module load cuda, 'export A=\"b c\"']")
    lines = text.splitlines()
    srun = next(n for n, line in enumerate(lines) if line.startswith("srun "))
    assert lines.index("module load cuda") < lines.index('export A="b c"') < srun
    assert max(n for n, line in enumerate(lines) if line.startswith("#SBATCH")) < lines.index("module load cuda")


def test_without_srun_the_batch_shell_becomes_the_task_and_gets_the_notice(sbatch_script: Script) -> None:
    text = sbatch_script(*L40S, "compute.use_srun=false")
    assert "srun" not in text.replace("use_srun", "")
    assert last_line(text).startswith("exec ")
    # Slurm signals a batch shell only when asked to
    assert sbatch_options(text)["signal"] == "B:USR2@120"


def test_a_folder_with_blanks_and_quotes_is_quoted(sbatch_script: Script, tmp_path: Path) -> None:
    import shlex

    folder = tmp_path / 'it\'s a "folder"'
    folder.mkdir()
    text = sbatch_script(
        "compute=killarney/l40s_1x", "experiment_name=e", f"paths.work_root='{folder!s}'".replace("it's", "it\\'s")
    )
    assert shlex.split(last_line(text))[-1] == f"{folder}/vec_jobs/e/submitit_logs/%j"


# ----- options without a field of their own -----

LAYERS = ["requeue", "compute", "user", "command line"]  # weakest first


def additional(layer: str, value: str) -> dict[str, str]:
    """An own config folder's files in which `layer` sets the sbatch option `comment`."""
    option = f"additional_parameters: {{comment: {value}}}"
    return {
        "requeue": {"requeue/own.yaml": f"enabled: true\n{option}\n"},
        "compute": {"compute/own.yaml": f"executor: slurm\nwork_root: /tmp\nslurm:\n  qos: preset\n  {option}\n"},
        "user": {"user.yaml": f"user:\n  slurm:\n    account: null\n    {option}\n"},
    }[layer]


def own_configs(folder: Path, layers: list[str]) -> None:
    """A $VEC_CONFIG_DIR in which each of `layers` says its own name; the others say nothing."""
    files = {"requeue/own.yaml": "enabled: true\n", "compute/own.yaml": "executor: slurm\nwork_root: /tmp\n"}
    for layer in layers:
        files |= additional(layer, layer)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("weaker", "stronger"), [(a, b) for n, a in enumerate(LAYERS) for b in LAYERS[n + 1 :]], ids=lambda name: str(name)
)
def test_precedence_is_command_line_user_compute_requeue(
    sbatch_script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weaker: str, stronger: str
) -> None:
    own_configs(tmp_path, [layer for layer in (weaker, stronger) if layer != "command line"])
    monkeypatch.setenv("VEC_CONFIG_DIR", str(tmp_path))
    line = ["compute=own", "requeue=own"]
    if stronger == "command line":
        # said at the weakest of the three places, it still wins
        line.append("requeue.additional_parameters.comment=typed")
    options = sbatch_options(sbatch_script(*line))
    assert options["comment"] == {"command line": "typed"}.get(stronger, stronger)


def test_a_qos_without_plus_overrides_the_qos_of_the_preset(
    sbatch_script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_configs(tmp_path, ["compute"])  # its slurm.qos is "preset"
    monkeypatch.setenv("VEC_CONFIG_DIR", str(tmp_path))
    assert sbatch_options(sbatch_script("compute=own"))["qos"] == "preset"
    typed = sbatch_script("compute=own", "user.slurm.additional_parameters.qos=fast")
    assert sbatch_options(typed)["qos"] == "fast"


def test_a_qos_typed_for_the_preset_beats_an_additional_one_of_the_user_file(
    sbatch_script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user.yaml").write_text("user: {slurm: {account: a, additional_parameters: {qos: mine, nice: 5}}}\n")
    monkeypatch.setenv("VEC_CONFIG_DIR", str(tmp_path))
    from_file = sbatch_options(sbatch_script(*L40S))
    assert (from_file["qos"], from_file["nice"], from_file["account"]) == ("mine", "5", "a")
    typed = sbatch_options(sbatch_script(*L40S, "compute.slurm.qos=typed"))
    assert (typed["qos"], typed["nice"]) == ("typed", "5")


def test_the_later_of_two_typed_values_wins(sbatch_script: Script) -> None:
    name = "user.slurm.additional_parameters.qos"
    assert sbatch_options(sbatch_script(*L40S, f"{name}=a", f"{name}=b"))["qos"] == "b"
    assert sbatch_options(sbatch_script(*L40S, f"{name}=a", "compute.slurm.qos=b"))["qos"] == "b"
    assert sbatch_options(sbatch_script(*L40S, "compute.slurm.qos=b", f"{name}=a"))["qos"] == "a"


@pytest.mark.parametrize("nothing", ["null", "false"])
def test_null_or_false_removes_an_option(
    sbatch_script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing: str
) -> None:
    own_configs(tmp_path, ["user"])
    monkeypatch.setenv("VEC_CONFIG_DIR", str(tmp_path))
    options = sbatch_options(sbatch_script("compute=own", f"user.slurm.additional_parameters.comment={nothing}"))
    assert "comment" not in options


def test_dashes_underscores_and_bare_flags_are_understood(sbatch_script: Script) -> None:
    add = "user.slurm.additional_parameters"
    options = sbatch_options(
        sbatch_script(*L40S, f"{add}.mail-user=me@x", f"{add}.mail_type=END", f"{add}.exclusive=true")
    )
    assert (options["mail-user"], options["mail-type"], options["exclusive"]) == ("me@x", "END", True)


# ----- hydra-submitit-launcher's own fields -----

# field: (a value to type, the option of sbatch, its value there)
FIELDS: dict[str, tuple[str, str, str | bool]] = {
    "timeout_min": ("7", "time", "7"),
    "cpus_per_task": ("3", "cpus-per-task", "3"),
    "gpus_per_node": ("2", "gpus-per-node", "l40s:2"),
    "tasks_per_node": ("2", "ntasks-per-node", "2"),
    "mem_gb": ("9", "mem", "9G"),
    "nodes": ("2", "nodes", "2"),
    "name": ("my-name", "job-name", "my-name"),
    "partition": ("p", "partition", "p"),
    "qos": ("q", "qos", "q"),
    "comment": ("c", "comment", "c"),
    "constraint": ("c", "constraint", "c"),
    "exclude": ("n1", "exclude", "n1"),
    "gres": ("'gpu:2'", "gres", "gpu:2"),
    "cpus_per_gpu": ("4", "cpus-per-gpu", "4"),
    "gpus_per_task": ("1", "gpus-per-task", "1"),
    "mem_per_gpu": ("8G", "mem-per-gpu", "8G"),
    "mem_per_cpu": ("2G", "mem-per-cpu", "2G"),
    "account": ("acc", "account", "acc"),
    "signal_delay_s": ("33", "signal", "USR2@33"),
    "additional_parameters": ("{reservation: r}", "reservation", "r"),
    "array_parallelism": ("2", "array", "0-1%2"),
    "stderr_to_stdout": ("true", "error", ""),  # removes the option
    # ours
    "nodelist": ("n7", "nodelist", "n7"),
    "dependency": ("'afterok:1'", "dependency", "afterok:1"),
    "mail_type": ("ALL", "mail-type", "ALL"),
    "mail_user": ("me@x", "mail-user", "me@x"),
}
# fields that are no options of sbatch; each has a test of its own, above or with the launcher
NOT_OPTIONS = {"_target_", "submitit_folder", "max_num_timeout", "setup", "srun_args", "use_srun", "executor", "wait",
               "requeue", "gpu_type", "python", "dry_run", "confirm_gpu_hours", "first",
               "freeze_env", "runs_per_job", "runs_at_once", "only"}  # fmt: skip


def test_every_field_of_hydra_submitit_launcher_is_still_a_field_of_ours() -> None:
    theirs = {field.name for field in dataclasses.fields(SlurmQueueConf)}
    ours = {field.name for field in dataclasses.fields(VecLauncherConf)}
    assert theirs <= ours
    assert ours == FIELDS.keys() | NOT_OPTIONS, "say in this file what the new field becomes in the script"


def test_every_field_of_the_launcher_reaches_the_script(sbatch_script: Script) -> None:
    typed = [
        f"{'++' if name == 'additional_parameters' else ''}hydra.launcher.{name}={value}"
        for name, (value, _, _) in FIELDS.items()
    ]
    options = sbatch_options(sbatch_script(*L40S, "trainer.seed=1,2", *typed))
    for name, (_, option, value) in FIELDS.items():
        if name == "stderr_to_stdout":
            assert "error" not in options
        else:
            assert options.get(option) == value, name


# ----- the whole way, with a program named sbatch that writes down what it is given -----


def test_a_sweep_is_tested_submitted_once_and_recorded(
    cli: Cli, work_root: Path, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json
    import pickle

    monkeypatch.setenv("SLURM_JOB_ID", "99")  # as if submitted from inside another job
    answer = cli(
        "compute=killarney/l40s_1x", f"paths.work_root={work_root}", "experiment_name=e", "trainer.seed=1,2,3",
        "user.slurm.account=def-a", "hydra.launcher.python=python9",
    )  # fmt: skip
    assert (answer.code, answer.err) == (0, "")
    assert "4711" in answer.out
    assert "squeue --me -j 4711" in answer.out

    script = (fake_slurm / "submitted").read_text()
    assert " python9 -u -P -m common.node " in last_line(script)  # submitit's own array forgets `python`
    submitted = sbatch_options(script)
    tested = sbatch_options((fake_slurm / "tested").read_text())
    assert submitted == tested | {"array": submitted["array"]}, "another request was tested than the one submitted"
    assert (submitted["account"], str(submitted["array"]).partition("%")[0]) == ("def-a", "0-2")
    assert "SLURM_JOB_ID" not in (fake_slurm / "environment").read_text()

    folder = work_root / "vec_jobs" / "e"
    (submission,) = json.loads((folder / "sweep.json").read_text())["submissions"]
    assert submission["state"] == "submitted"
    assert [point["job_id"] for point in submission["points"]] == ["4711_0", "4711_1", "4711_2"]
    assert [point["config"]["trainer.seed"] for point in submission["points"]] == [1, 2, 3]
    assert (fake_slurm / "released").read_text() == "4711\n"  # it was on hold until its id was written down
    for index in range(3):
        calls = list((folder / "submitit_logs" / f"4711_{index}").glob("*_submitted.pkl"))
        assert len(calls) == 1
        # the point travels as it was composed: nothing is left to be looked up on the node
        _, cfg = pickle.loads(calls[0].read_bytes()).args
        assert cfg.trainer.seed == index + 1
        assert cfg.paths.out_dir == str(folder / str(index) / "outputs")


def test_a_full_disk_is_one_message_and_leaves_nothing_queued(cli: Cli, work_root: Path, fake_slurm: Path) -> None:
    with full_disk(limit=4000):  # enough for the lock, not for the code or sweep.json
        answer = cli("compute=killarney/l40s_1x", f"paths.work_root={work_root}", "experiment_name=e")
    assert answer.code == 1
    assert "File too large" in answer.err
    assert answer.err.endswith(" Nothing is left queued.\n")
    assert len(answer.err.splitlines()) == 1
    assert not (fake_slurm / "submitted").exists()
    again = cli("compute=killarney/l40s_1x", f"paths.work_root={work_root}", "experiment_name=e")
    assert (again.code, again.err) == (0, "")


def test_a_request_that_slurm_refuses_is_one_message_and_leaves_nothing(
    cli: Cli, work_root: Path, fake_slurm: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: Memory specification can not be satisfied' >&2\nexit 1\n"
    )
    answer = cli("compute=killarney/l40s_1x", f"paths.work_root={work_root}")
    assert answer.code == 1
    assert answer.err.count("\n") <= 2
    assert "Slurm refuses the job: Memory specification can not be satisfied." in answer.err
    assert "Asked for: 1 node(s) with 16 cores, 1 l40s GPU(s), 120 GiB each, 60 min" in answer.err
    assert "Nothing was submitted." in answer.err
    assert list(work_root.iterdir()) == []


def test_saves_that_were_too_slow_for_the_notice_are_told_before_the_next_attempt(
    composed: Compose, work_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hydra_plugins.vec_launcher._checks import check_folder

    line = ["compute=killarney/l40s_1x", f"paths.work_dir={work_root}/run"]
    (run,) = composed(*line)
    out_dir = Path(run.cfg.paths.out_dir)
    out_dir.mkdir(parents=True)
    check_folder([run], work_root / "run")
    assert "a save took" not in capsys.readouterr().out
    (out_dir / "attempts.jsonl").write_text('{"event": "save", "step": 1, "stall_s": 70.0, "write_s": 70.0}\n')
    check_folder([run], work_root / "run")
    told = capsys.readouterr().out
    assert "run 0: a save took 70 s, the notice comes 120 s before the limit" in told
    assert "requeue.signal_delay_s=140 or more" in told
    assert "there is one every 300 s; save less often" in told
