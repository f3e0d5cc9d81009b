"""Every picture and every table of measurements says which command printed it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from tests.docs import pages

NEAR = 6  # lines between a picture and its command
COMMAND = re.compile(r"^```bash|`(uv run|make|python|vec-jobs|\w+-launch) ", re.MULTILINE)
SENTENCE = re.compile(r"(first|second|last) command (above|below)")  # of the block nearby
# a decimal fraction, a spread, a per cent, a number of thousands: what nobody writes who has not measured
MEASURED = re.compile(r"\d\.\d|± ?\d|\d ?%|\d,\d{3}")
GENERATED = re.compile(r"<!-- fields of .*?<!-- end of fields -->", re.DOTALL)  # values, not measurements


def faults(text: str) -> list[str]:
    """What stands there without a command."""
    lines = GENERATED.sub("", text).splitlines()
    found: list[str] = []
    for number, line in enumerate(lines):
        nearby = "\n".join(lines[max(0, number - NEAR) : number + NEAR + 1])
        if re.match(r"!\[", line) and not (COMMAND.search(nearby) or SENTENCE.search(nearby)):
            found.append(f"no command within {NEAR} lines of {line}")
    starts = [number for number, line in enumerate(lines) if re.match(r"#+ ", line)]
    for start, end in pairwise([0, *starts, len(lines)]):
        rows = [line for line in lines[start:end] if line.startswith("|")]
        if sum(bool(MEASURED.search(row)) for row in rows) >= 2 and not COMMAND.search("\n".join(lines[start:end])):
            found.append(f"no command for the figures under {lines[start]!r}")
    return found


@pytest.mark.parametrize("page", pages.paths())
def test_every_figure_says_which_command_printed_it(page: str) -> None:
    assert not faults((pages.ROOT / page).read_text(encoding="utf-8"))


def test_a_figure_without_its_command_is_found() -> None:
    table = "| a | 1.5 s |\n| b | 0.9 |\n"
    assert faults(f"# Speed\n\n{table}") == ["no command for the figures under '# Speed'"]
    assert not faults(f"# Speed\n\n```bash\nmake bench\n```\n\n{table}")
    assert not faults("# Choice\n\n| a | slow |\n| b | fast |\n")
    assert faults("![a curve](x.png)") == ["no command within 6 lines of ![a curve](x.png)"]
    assert not faults("`make demo` draws it:\n\n![a curve](x.png)")
