"""A Slurm that writes down what it is asked, for tests of what reaches it."""

import os
import stat
from pathlib import Path

import pytest

FAKE_SBATCH = """#!/bin/sh
case "$1" in
    --test-only) cat > "$SEEN/tested"; echo "sbatch: Job 7 to start at some time" >&2;;
    *) cp "$3" "$SEEN/submitted"; env > "$SEEN/environment"; echo 4711;;  # --parsable --hold
esac
"""
SCONTROL = ("scontrol", '#!/bin/sh\n[ "$1" = release ] && echo "$2" >> "$SEEN/released"\n')


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `sbatch` leaves what it was given."""
    for name, text in (
        ("sbatch", FAKE_SBATCH),
        ("srun", "#!/bin/sh\nexit 1\n"),
        ("sacct", "#!/bin/sh\nexit 1\n"),
        SCONTROL,
    ):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    seen = tmp_path / "seen"
    seen.mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(seen))
    return seen
