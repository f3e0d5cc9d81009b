"""What differs between two runs, and how they ended."""

from typing import Any

from common.board import Table, one_line
from common.config import differences
from common.runs import Run
from common.snapshot import FOLDER, differing
from common.sweep import environment_changes, git_changes


class Diff:
    """Of run `a`, the old one, and run `b`."""

    def __init__(self, a: Run, b: Run) -> None:
        self._a, self._b = a, b
        old, new = a.submission, b.submission
        places = ({"preset": one.preset, "executor": one.executor, "template": one.template} for one in (old, new))
        self._parts = {
            "configuration": list(differences(a.point.config, b.point.config).values()),
            "code": _code_changes(a, b),
            "environment": [*differences(*places).values(), *environment_changes(old, new)],
        }

    def row(self) -> dict[str, Any]:
        """For a program."""
        return self._parts | {"results": self._results()}

    def text(self) -> list[str]:
        """A line for each difference."""
        if not any(self._parts.values()):
            return ["Nothing differs in configuration, code and environment."]
        lines: list[str] = []
        for name, changes in self._parts.items():
            lines += [f"{name}: {'' if changes else 'the same'}".rstrip(), *(f"  {one_line(text)}" for text in changes)]
        return lines

    def table(self) -> Table:
        """The results side by side."""
        same_sweep = self._a.sweep_dir == self._b.sweep_dir
        names = [f"run {one.point.index}" + ("" if same_sweep else f" of {one.sweep_dir.name}") for one in self._runs]
        cells = [[name, *(_shown(value) for value in pair)] for name, pair in self._results().items()]
        return Table(("result", *map(one_line, names)), cells)

    @property
    def _runs(self) -> tuple[Run, Run]:
        return self._a, self._b

    def _results(self) -> dict[str, list[Any]]:
        facts = [
            {"state": run.state.state, "step": run.step}
            | run.metrics
            | {name: run.result[name] for name in ("seconds", "attempts", "parameters_sha256") if name in run.result}
            for run in self._runs
        ]
        return {name: [one.get(name) for one in facts] for name in dict.fromkeys([*facts[0], *facts[1]])}


def _code_changes(a: Run, b: Run) -> list[str]:
    """By git, of the folder in which they were submitted; and by the snapshots that the jobs run, file by file."""
    folders = [run.sweep_dir / FOLDER / str(run.submission.code) for run in (a, b)]
    files = differing(*folders) if all(folder.is_dir() for folder in folders) else []
    return [*git_changes(a.submission, b.submission), *files]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
