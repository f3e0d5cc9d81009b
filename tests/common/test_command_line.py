"""What a person gets for a wrong command line: one short message, and nothing half done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Answer, Cli

BIN = Path(sys.executable).parent


def refused(answer: Answer, work_root: Path) -> str:
    """The message of a command that was refused as it should be."""
    assert answer.code == 1
    assert "Traceback" not in answer.out + answer.err
    message = answer.err.rstrip("\n")
    assert message
    assert message.count("\n") <= 1, f"more than two lines: {message}"
    assert answer.out == ""
    assert list(work_root.iterdir()) == [], "a refused command left something behind"
    return message


BAD_VALUES = [
    # what was typed, what the message says
    ("trainer.learning_rat=1", "Unknown key trainer.learning_rat: did you mean trainer.learning_rate?"),
    ("learning_rate=1", "Unknown key learning_rate: did you mean trainer.learning_rate?"),
    (
        "hydra.launcher.timeout_mn=5",
        "Unknown key hydra.launcher.timeout_mn: did you mean hydra.launcher.timeout_min?",
    ),
    (
        "trainer.learning_rate=abc",
        "trainer.learning_rate=abc: Value 'abc' of type 'str' could not be converted",
    ),
    ("trainer.batch_size=0", "trainer.batch_size must be at least 1, got 0"),
    ("trainer.hidden_dim=-1", "trainer.hidden_dim must be at least 1, got -1"),
    ("trainer.num_epochs=-5", "trainer.num_epochs must be at least 1, got -5"),
    ("+trainer.foo=1", "trainer.foo is no field of mlp.single.schema.Trainer"),
    ("trainer.batch_size=[1", "trainer.batch_size=[1: cannot be read"),
    ("requeue=maybe", "requeue=maybe: no such preset. Valid: off, on."),
    ("compute.tasks_per_node=2", "mlp.single runs on one process, but this compute preset starts 2"),
]


@pytest.mark.parametrize(("typed", "message"), BAD_VALUES, ids=[typed for typed, _ in BAD_VALUES])
def test_a_bad_value_is_refused_in_one_message(cli: Cli, work_root: Path, typed: str, message: str) -> None:
    # short, should it be accepted after all
    answer = cli("compute=local", f"paths.work_root={work_root}", "trainer.num_epochs=1", typed)
    assert message in refused(answer, work_root)


def test_the_faulty_point_of_a_sweep_is_named_and_no_other_runs(cli: Cli, work_root: Path) -> None:
    answer = cli("compute=local", f"paths.work_root={work_root}", "trainer.batch_size=8,0")
    message = refused(answer, work_root)
    assert message.startswith("Error: #1 (")
    assert "trainer.batch_size=0)" in message
    assert "trainer.batch_size must be at least 1, got 0. Nothing was submitted." in message


def test_an_unknown_key_is_named_inside_a_sweep_too(cli: Cli, work_root: Path) -> None:
    answer = cli("compute=local", f"paths.work_root={work_root}", "trainer.batch_siz=8,16")
    assert "Unknown key trainer.batch_siz: did you mean trainer.batch_size?" in refused(answer, work_root)


def test_a_value_of_the_wrong_type_inside_a_sweep_names_its_point(cli: Cli, work_root: Path) -> None:
    answer = cli("compute=local", f"paths.work_root={work_root}", "trainer.seed=1,2,x")
    message = refused(answer, work_root)
    assert message.startswith("Error: #2 (")
    assert "trainer.seed=x: Value 'x'" in message


def test_a_sweep_over_its_own_folder_is_refused(cli: Cli, work_root: Path) -> None:
    answer = cli("compute=local", f"paths.work_root={work_root}", "experiment_name=a,b")
    assert "One sweep has one folder" in refused(answer, work_root)


def test_an_unknown_preset_lists_all_valid_ones_with_their_folders(cli: Cli, work_root: Path) -> None:
    message = refused(cli("compute=nope", f"paths.work_root={work_root}"), work_root)
    assert "compute=nope: no such preset" in message
    for valid in ("local", "inprocess", "bon_echo/a40_1x", "killarney/h100_8x_2n"):
        assert valid in message


def test_without_a_preset_it_says_how_to_choose_one(cli: Cli, work_root: Path) -> None:
    message = refused(cli(f"paths.work_root={work_root}"), work_root)
    assert "compute=<preset>" in message
    assert "compute=local" in message


def test_an_unset_user_is_named(cli: Cli, work_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER")
    message = refused(cli("compute=killarney/l40s_1x"), work_root)
    assert "environment variable USER is not set" in message


def test_a_missing_work_root_is_named_with_the_remedy(cli: Cli, work_root: Path) -> None:
    missing = work_root / "missing"
    message = refused(cli("compute=local", f"paths.work_root={missing}"), work_root)
    assert f"{missing} does not exist" in message
    assert "paths.work_root=<folder>" in message


def test_a_work_root_that_is_a_file_is_refused(cli: Cli, work_root: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    message = refused(cli("compute=local", f"paths.work_root={file}"), work_root)
    assert f"{file} is not a folder" in message
    assert file.read_text() == "kept"


def test_a_work_dir_below_a_file_is_refused(cli: Cli, work_root: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    answer = cli("compute=local", f"paths.work_root={work_root}", f"paths.work_dir={file}/below")
    assert f"{file} is not a folder" in refused(answer, work_root)


def test_a_template_of_one_process_on_several_gpus_names_its_sibling(cli: Cli, work_root: Path) -> None:
    message = refused(cli("compute=killarney/l40s_4x", f"paths.work_root={work_root}"), work_root)
    assert "use mlp.ddp" in message


def test_a_machine_without_slurm_says_compute_local(cli: Cli, work_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    message = refused(cli("compute=killarney/l40s_1x", f"paths.work_root={work_root}"), work_root)
    assert "sbatch not found" in message
    assert "compute=local" in message


def test_gpus_that_this_machine_lacks_are_refused(cli: Cli, work_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    answer = cli("compute=local", f"paths.work_root={work_root}", "compute.gpus_per_node=2")
    assert "compute.gpus_per_node=2, but this machine shows 1 GPU(s)" in refused(answer, work_root)


def test_an_unknown_option_is_refused(cli: Cli, work_root: Path) -> None:
    message = refused(cli("compute=local", f"paths.work_root={work_root}", "--dryrun"), work_root)
    assert "Unknown option --dryrun" in message


def test_a_wrong_config_folder_of_ones_own_is_named(cli: Cli, work_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEC_CONFIG_DIR", str(work_root / "none"))
    message = refused(cli("compute=local", f"paths.work_root={work_root}"), work_root)
    assert "VEC_CONFIG_DIR" in message
    assert "is not a folder" in message


def test_a_config_that_is_no_yaml_is_told_with_its_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compute").mkdir()
    (tmp_path / "compute/mine.yaml").write_text("executor: slurm\nsetup: [module load\n")
    monkeypatch.setenv("VEC_CONFIG_DIR", str(tmp_path))
    answer = cli("compute=mine")
    assert answer.code == 1
    assert answer.err.startswith(f"Error: {tmp_path}/compute/mine.yaml:3: ")
    assert len(answer.err.splitlines()) == 1


def test_another_configuration_in_a_used_folder_is_refused_by_key(cli: Cli, work_root: Path) -> None:
    from common import sweep

    used = work_root / "used"
    used.mkdir()
    config = {"trainer.seed": 1}
    sweep.write(used, [sweep.Submission("now", [], "mlp.single", "local", "local", [sweep.Point(0, [], config)])])
    before = {path: path.read_bytes() for path in used.iterdir()}
    answer = cli(
        "compute=local",
        f"paths.work_root={work_root}",
        f"paths.work_dir={used}",
        "trainer.seed=2",
        "trainer.num_epochs=1",
    )
    assert answer.code == 1
    assert "already holds another run 0" in answer.err
    assert "trainer.seed: 1 -> 2" in answer.err
    assert {path: path.read_bytes() for path in used.iterdir()} == before


@pytest.mark.parametrize(("flag", "position"), [("-m", 0), ("--multirun", 1), ("-m", 3)])
def test_multirun_anywhere_changes_nothing(cli: Cli, work_root: Path, flag: str, position: int) -> None:
    # Hydra's own parser breaks on an override after the flag: `a=1 --multirun b=2`.
    line = ["compute=local", f"paths.work_root={work_root}", "trainer.batch_size=8,0"]
    message = refused(cli(*line[:position], flag, *line[position:]), work_root)
    assert message.startswith("Error: #1 (")
    assert message.endswith("trainer.batch_size must be at least 1, got 0. Nothing was submitted.")


def test_debug_shows_the_traceback_and_then_the_message(cli: Cli, work_root: Path) -> None:
    answer = cli("compute=local", f"paths.work_root={work_root}", "trainer.batch_size=0", "--debug")
    assert answer.code == 1
    assert "Traceback (most recent call last)" in answer.err
    assert answer.err.rstrip().splitlines()[-1] == "Error: trainer.batch_size must be at least 1, got 0"
    assert list(work_root.iterdir()) == []


# ----- the same from outside: real processes, as a person starts them -----


def run(*command: str, **environment: str) -> Answer:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)
    return Answer(ended.returncode, ended.stdout, ended.stderr)


def test_the_console_script_refuses_with_exit_code_1(work_root: Path) -> None:
    answer = run(str(BIN / "mlp-launch"), "single", "compute=local", f"paths.work_root={work_root}", "trainer.x=1")
    assert "Unknown key trainer.x" in refused(answer, work_root)


def test_the_module_refuses_with_exit_code_1(work_root: Path) -> None:
    line = ["compute=local", f"paths.work_root={work_root}", "--multirun", "trainer.batch_size=0"]
    answer = run(sys.executable, "-m", "mlp.single.launch", *line)
    assert "trainer.batch_size must be at least 1" in refused(answer, work_root)


def test_an_unknown_template_names_the_nearest(work_root: Path) -> None:
    answer = run(str(BIN / "mlp-launch"), "singel", "compute=local", f"paths.work_root={work_root}")
    assert "unknown template singel: did you mean single?" in refused(answer, work_root)


def launch_package(
    package: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Answer:
    """`<package>-launch words...` in this process, also where the package is not installed."""
    import importlib

    source = Path(__file__).parents[2] / "packages" / package / "src"
    monkeypatch.syspath_prepend(str(source))
    monkeypatch.setattr(sys, "argv", [f"{package}-launch", *words])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"{package}.launch").main()
    said = capsys.readouterr()
    message, code = (end.value.code, 1) if isinstance(end.value.code, str) else ("", int(end.value.code or 0))
    return Answer(code, said.out, said.err + message)


def test_a_package_without_a_word_lists_its_templates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = launch_package("mlp", [], monkeypatch, capsys)
    assert answer.code == 0
    for template in ("single", "single_not_checkpointable", "ddp"):
        assert f"\n  {template} " in answer.out
    assert "exact resume" in answer.out  # the first line of train.py says what the template is


def test_a_package_without_templates_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "__init__.py").touch()
    main = "from common.launch import launch_package\ndef main(): launch_package('empty')\n"
    (tmp_path / "empty" / "launch.py").write_text(main)
    monkeypatch.syspath_prepend(tmp_path)
    answer = launch_package("empty", [], monkeypatch, capsys)
    assert answer.code == 1
    assert "empty has no template yet" in answer.out + answer.err
    answer = launch_package("empty", ["anything", "compute=local"], monkeypatch, capsys)
    assert answer.code == 1
    assert "no template yet" in answer.err


def test_a_limit_that_ends_before_its_notice_is_refused(cli: Cli, work_root: Path) -> None:
    answer = cli("compute=local", "compute.timeout_min=2", f"paths.work_root={work_root}")
    assert answer.code == 1
    assert "requeue.signal_delay_s=120: the notice to save would come before the run has begun" in answer.err
    assert list(work_root.iterdir()) == []
