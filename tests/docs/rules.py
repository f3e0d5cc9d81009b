"""How each command of the pages is executed, in one list. A command that no rule fits fails a test."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass, field

from tests.docs import pages
from tests.docs.pages import Command

# --- ways ---------------------------------------------------------------------------------------------------------
# tests/slurm/test_commands.py
SUBMITTED = "submitted to a real Slurm, and COMPLETED"
DRY = "with --dry-run on a real Slurm"
SLURM = "as it stands on a real Slurm, about a run of ours"
# tests/docs/test_commands.py
LOCAL = "in the background of this machine, with few steps"
INPROCESS = "in this process, with the smallest job of its template"
VEC_JOBS = "about a small finished sweep"
HERE = "as it stands, in an empty folder"
LISTING = "as it stands: a package lists its templates"
TARGET = "the target exists; CI or another test makes it"
PARSED = "bash reads it, and the program is known: it needs a network, or a person"
ELSEWHERE = "executed by another test file"

# Pages whose short launch commands are submitted and awaited; those of the other pages are put to Slurm only.
AWAITED = ("README.md", "docs/guide/running.md", "docs/guide/sweeps.md", "docs/moving-over.md")


@dataclass(frozen=True)
class Rule:
    pattern: str  # of the whole command, after `uv run`
    way: str
    where: str = ""  # page or pages, as a pattern; all if empty
    by: str = ""  # the test file, or the reason


RULES = [
    Rule(r".*", ELSEWHERE, where=r"docs/guide/writing-a-template\.md", by="tests/slurm/test_tutorial.py"),
    Rule(r".*", ELSEWHERE, where=r"docs/guide/copying\.md", by="tests/vec_new"),
    Rule(r"vec-jobs doctor .*|.* compute=mysite/.*", ELSEWHERE, by="tests/slurm/test_doctor.py"),
    Rule(r"vec-new .*", ELSEWHERE, by="tests/vec_new"),
    Rule(r"make release .*", ELSEWHERE, by="tests/test_release.py"),
    Rule(r"vec-jobs drill .*", ELSEWHERE, by="tests/vec_jobs/test_drill.py"),
    Rule(r"make slurm-(up|down)|eval \"\$\(make -s slurm-env\)\"", ELSEWHERE, by="tests/slurm/test_cluster.py"),
    Rule(r"vec-jobs .*", VEC_JOBS),
    Rule(r"python -m benchmarks\.\w+", TARGET, by="measures for minutes; make bench"),
    Rule(r"make (-s )?[\w-]+", TARGET, by=".ci/run makes check, demo and test, of which the other tests are parts"),
    Rule(r"\w+-launch", LISTING),
    Rule(r"mlp-launch \w+ .*compute=local( .*)?", LOCAL, where="|".join(AWAITED)),
    Rule(r"mlp-launch \w+ .*compute=local .*compute\.tasks_per_node=.*", LOCAL),
    Rule(r"(\w+-launch \w+|python -m [\w.]+\.launch) .*compute=(local|inprocess)( .*)?", INPROCESS),
    Rule(r"(mlp-launch \w+|python -m mlp\.\w+\.launch) (?!.*--dry-run).*", SUBMITTED, where="|".join(AWAITED)),
    Rule(r"(\w+-launch \w+|python -m [\w.]+\.launch) .*compute=.*", DRY),
    Rule(r"tensorboard --logdir .*", SLURM),
    Rule(r"wandb sync .*", PARSED, by="sends to wandb.ai; what it reads is tested in tests/common/test_tracking.py"),
    Rule(r"(squeue|scancel|scontrol|tail|ls) .*", SLURM),
    Rule(r"pytest tests/.*", PARSED, by="a test itself"),
    Rule(r"(export|cd|mkdir) .*", HERE),
    Rule(r"(git clone|curl -LsSf|uv sync|uv tool install|tmux|pre-commit install|git push) ?.*", PARSED),
]


def rule_of(command: Command) -> Rule | None:
    """The first that fits."""
    text = after_uv(command.text)
    for rule in RULES:
        if re.fullmatch(rule.where or ".*", command.page) and re.fullmatch(rule.pattern, text):
            return rule
    return None


def ruled(*ways: str) -> list[Command]:
    """The commands that are executed in one of these ways, each text once."""
    every = [command for page in pages.paths() for command in pages.commands(page)]
    found = [command for command in every if (rule := rule_of(command)) and rule.way in ways]
    # what is run in earnest for one page need not be run in a lighter way for another
    in_earnest = {one.text for one in every if (rule := rule_of(one)) and rule.way in (SUBMITTED, LOCAL)}
    lighter = {DRY, INPROCESS} & set(ways)
    wanted = [command for command in found if not lighter or command.text not in in_earnest]
    return list({command.text: command for command in reversed(wanted)}.values())[::-1]


# --- what a command says ------------------------------------------------------------------------------------------


def after_uv(text: str) -> str:
    """`uv run --package mlp --extra wandb mlp-launch single ...` -> `mlp-launch single ...`.

    The tests run what stands after it in the present environment, which `uv run` would change beneath them; that
    package and extras exist is tested apart.
    """
    return re.sub(r"^uv run (--(package|extra) \S+ )*", "", text)


def uv_options(text: str) -> tuple[str | None, list[str]]:
    """(package, extras) of `uv run --package mlp --extra wandb ...`."""
    found = re.match(r"^uv run ((?:--(?:package|extra) \S+ )*)", text)
    words = found[1].split() if found else []
    options = list(zip(words[::2], words[1::2], strict=True))
    return next((v for k, v in options if k == "--package"), None), [v for k, v in options if k == "--extra"]


@dataclass(frozen=True)
class Launch:
    """A launch command, read."""

    template: str  # llm.sft
    args: list[str] = field(default_factory=list)

    @property
    def package(self) -> str:
        return self.template.partition(".")[0]

    @property
    def smallest(self) -> list[str]:
        """The overrides that make it a run of seconds."""
        project = tomllib.loads((pages.ROOT / "packages" / self.package / "pyproject.toml").read_text(encoding="utf-8"))
        return shlex.split(project["tool"]["vec"]["smallest"][self.template.partition(".")[2]])

    @property
    def args_of_smallest(self) -> list[str]:
        """The command's own with those; a choice (assets=, env=) that it makes itself is left alone."""
        made = {arg.partition("=")[0] for arg in self.args if "." not in arg.partition("=")[0]}
        return self.args + [one for one in self.smallest if one.partition("=")[0] not in made]


def launch_of(text: str) -> Launch:
    """Of `... llm-launch sft key=value` or `... python -m llm.sft.launch key=value`."""
    words = shlex.split(after_uv(text))
    if words[0] == "python":
        return Launch(words[2].removesuffix(".launch"), words[3:])
    return Launch(f"{words[0].removesuffix('-launch')}.{words[1]}", words[2:])
