"""Every command of every page is executed, here or where rules.py says; those that need a Slurm in tests/slurm."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import Cli
from tests.docs import pages, rules
from tests.docs.pages import Command
from vec_jobs.cli import app

BIN = Path(sys.executable).parent
LIMIT_S = 300.0


def each(*ways: str) -> pytest.MarkDecorator:
    """A test for each command that is executed so, named after where it stands."""
    return pytest.mark.parametrize("command", rules.ruled(*ways), ids=lambda one: f"{one.page}:{one.line}")


def bash(text: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """With the commands of the present environment first on the PATH, as `uv run` has it."""
    known = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | env
    return subprocess.run(["bash", "-c", text], cwd=folder, env=known, capture_output=True, text=True, timeout=LIMIT_S)


# --- none is left out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages.paths())
def test_every_command_is_executed_somehow(page: str) -> None:
    missing = [str(command) for command in pages.commands(page) if rules.rule_of(command) is None]
    assert not missing, "no rule of tests/docs/rules.py says how this is executed:\n" + "\n".join(missing)


def test_a_command_that_nobody_executes_is_found_and_named() -> None:
    assert rules.rule_of(Command("README.md", 1, "uv run --package mlp mlp-lunch single compute=local")) is None
    assert rules.rule_of(Command("README.md", 1, "rm -rf /")) is None
    (command,) = pages._commands_of("README.md", 7, "a \\\n  b 'c # d'   # comment\n\n# only a comment\n")
    assert str(command) == "README.md:7: a b 'c # d'"


@pytest.mark.parametrize("by", sorted({rule.by for rule in rules.RULES if rule.way == rules.ELSEWHERE}))
def test_what_another_test_executes_is_there(by: str) -> None:
    assert (pages.ROOT / by).exists(), f"{by} is to execute commands of the pages (tests/docs/rules.py)"


@pytest.mark.parametrize("page", pages.paths())
def test_bash_can_read_it(page: str, tmp_path: Path) -> None:
    text = "\n".join(re.sub(r"<[a-z ]+>", "x", command.text) for command in pages.commands(page))
    read = bash(f"set -n\n{text}", tmp_path)
    assert read.returncode == 0, f"{page}\n{read.stderr}"


@pytest.mark.parametrize("page", pages.paths())
def test_package_extras_and_program_exist(page: str) -> None:
    for command in pages.commands(page):
        package, extras = rules.uv_options(command.text)
        rule = rules.rule_of(command)
        if package is None or rule is None or rule.way == rules.ELSEWHERE:
            continue
        project = tomllib.loads((pages.ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8"))
        assert set(extras) <= project["project"].get("optional-dependencies", {}).keys(), command
        program = rules.after_uv(command.text).split()[0]
        assert program in project["project"]["scripts"] or (BIN / program).exists(), command


# --- those that are made elsewhere ---------------------------------------------------------------------------------


@each(rules.TARGET)
def test_target_or_module_exists(command: Command) -> None:
    makefile = (pages.ROOT / "Makefile").read_text(encoding="utf-8")
    words = rules.after_uv(command.text).split()
    if words[0] == "make":
        assert re.search(rf"^{words[-1]}:", makefile, re.MULTILINE), command
    else:
        assert (pages.ROOT / f"{words[-1].replace('.', '/')}.py").exists(), command
        assert f"{words[-1]} " in makefile.replace("\n", " "), f"{command}: not in make bench"


@pytest.mark.parametrize("page", pages.paths())
def test_targets_and_verbs_in_the_text_exist(page: str) -> None:
    """`make lock`, `vec-jobs why`: what a sentence names, one can type."""
    makefile = (pages.ROOT / "Makefile").read_text(encoding="utf-8")
    verbs = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    for code in pages.codes(page):
        if found := re.match(r"make (?:-s )?([a-z][\w-]*)", code):
            assert re.search(rf"^{found[1]}:", makefile, re.MULTILINE), f"{page}: {code}"
        if found := re.match(r"(?:uv run )?vec-jobs ([a-z]+)", code):
            assert found[1] in verbs, f"{page}: {code}"


# --- those that are executed here ----------------------------------------------------------------------------------


@each(rules.HERE)
def test_command_ends_well(command: Command, tmp_path: Path) -> None:
    """After those that stand above it on its page: one exports what the next needs."""
    rule = rules.rule_of(command)
    above = [one for one in pages.commands(command.page) if rules.rule_of(one) == rule and one.line < command.line]
    text = "\n".join(["set -e", *(one.text for one in (*above, command))])
    done = bash(text.replace("/scratch/$USER", shlex.quote(str(tmp_path))), tmp_path, HOME=str(tmp_path))
    assert done.returncode == 0, f"{command}\n{done.stderr}"


@each(rules.LISTING)
def test_a_package_lists_its_templates(command: Command, tmp_path: Path) -> None:
    done = bash(rules.after_uv(command.text), tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), command
    assert "Templates:" in done.stdout


@pytest.fixture(scope="module")
def work_root_of_a_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work root with one sweep of four short runs, `width_and_rate`."""
    folder = tmp_path_factory.mktemp("work")
    points = "trainer.seed=0,1,2,3 trainer.num_epochs=2 trainer.log_every=5"
    done = bash(f"mlp-launch single compute=inprocess {points} experiment_name=width_and_rate", folder, USER="alice")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.pages
@each(rules.VEC_JOBS)
def test_vec_jobs(command: Command, work_root_of_a_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work_root_of_a_sweep)
    monkeypatch.setenv("VEC_WORK_ROOT", str(work_root_of_a_sweep))
    text = rules.after_uv(command.text).replace("<sweep>", "width_and_rate")
    _, *words = shlex.split(text)
    if "-f" in words:
        assert first_line([str(BIN / "vec-jobs"), *words])
        return
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, f"{command}\n{answer.output}"
    assert answer.output.strip() or words[0] in ("retry", "extend"), command  # the launcher speaks for those


def first_line(command: list[str]) -> str:
    """Of a command that does not end by itself."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    process.wait()
    process.stdout.close()
    return line


@pytest.mark.pages
@pytest.mark.parametrize(
    "command",
    [one for one in rules.ruled(rules.ELSEWHERE) if " vec-jobs drill " in one.text and "/single " in one.text],
    ids=lambda one: f"{one.page}:{one.line}",
)
def test_drill_asks_for_what_the_template_has(command: Command, cli: Cli, tmp_path: Path) -> None:
    """tests/vec_jobs/test_drill.py drills; here only that these overrides are some."""
    _, _, template, *words = shlex.split(rules.after_uv(command.text))
    overrides = [word for word in words if "=" in word]
    done = cli(*overrides, f"paths.work_root={tmp_path}", "--dry-run", template=template.replace("/", "."))
    assert done.code == 0, f"{command}\n{done.err}"


@pytest.mark.pages
@each(rules.LOCAL)
def test_local_launch_completes(command: Command, tmp_path: Path) -> None:
    text = f"{rules.after_uv(command.text)} trainer.num_epochs=2 paths.work_root={shlex.quote(str(tmp_path))}"
    if "sweep=optuna" in text:
        text += " hydra.sweeper.n_trials=2"
    elif "," in text:
        text += " hydra.launcher.only=[0]"
    done = bash(text, tmp_path)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert statuses(tmp_path)
    assert set(statuses(tmp_path)) == {"COMPLETED"}


@pytest.mark.pages
@each(rules.INPROCESS)
def test_smallest_job_of_a_launch_completes(command: Command, cli: Cli, tmp_path: Path) -> None:
    read = rules.launch_of(command.text)
    args = read.args_of_smallest
    where = f"paths.work_root={tmp_path}"
    dry = cli(*args, where, "--dry-run", template=read.template)  # as it stands, with every point
    assert dry.code == 0, f"{command}\n{dry.err}"
    here = ["compute=inprocess" if arg == "compute=local" else arg for arg in args]
    done = cli(*here, where, "hydra.launcher.only=[0]", template=read.template)
    assert done.code == 0, f"{command}\n{done.err}"
    assert statuses(tmp_path) == ["COMPLETED"]


def statuses(work_root: Path) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in work_root.glob("vec_jobs/*/*/outputs/result.json")]


@each(rules.PARSED)
def test_the_reason_why_it_is_only_read_holds(command: Command) -> None:
    program = rules.after_uv(command.text).split()[0]
    assert program in ("git", "curl", "tmux", "uv", "wandb", "pre-commit", "pytest"), command
    assert program in ("curl", "tmux") or shutil.which(program) or (BIN / program).exists(), command
