"""The environment of a submission, frozen: a copy of the virtual environment that later `uv sync` calls do not change.

    <project>/.frozen-envs/<digest>/     beside the environment itself, so that its files can be hard links

A `uv sync` removes and replaces files, it does not write into them: what the copy links to stays. The same environment
is copied once. Packages that are installed from a checkout are left out: jobs import those from the snapshot of the
code (common.snapshot).
"""

import hashlib
import importlib.metadata
import os
import shutil
import stat
import sys
import uuid
from pathlib import Path

from common.config import require
from common.snapshot import is_editable, path_files

FOLDER = ".frozen-envs"


def freeze() -> Path:
    """Copy the running environment.

    Returns:
        The Python of the copy.

    Raises:
        UserError: this Python runs in no virtual environment.
    """
    source = Path(sys.prefix)
    require(
        sys.prefix != sys.base_prefix,
        f"hydra.launcher.freeze_env=true needs a virtual environment, but {sys.executable} is in none: use uv run",
    )
    target = source.parent / FOLDER / _digest()
    if not target.exists():
        temporary = target.with_name(f".{uuid.uuid4().hex}")
        try:
            _copy(source, temporary, target)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target / "bin" / "python"


def _copy(source: Path, to: Path, final: Path) -> None:
    """Hard links, but for what names the folder it is in: pyvenv.cfg and the scripts of bin/."""
    left_out = {path for dist in importlib.metadata.distributions() if is_editable(dist) for path in path_files(dist)}

    def put(original: str, copy: str) -> str:
        path = Path(original)
        if path in left_out:
            return copy
        if path.parent == source / "bin" and not path.is_symlink() and _is_script(path):
            text = path.read_text(encoding="utf-8").replace(str(source), str(final))
            Path(copy).write_text(text, encoding="utf-8")
            Path(copy).chmod(stat.S_IMODE(path.stat().st_mode))
        elif path.name == "pyvenv.cfg":
            shutil.copy2(path, copy)
        else:
            _link(original, copy)
        return copy

    shutil.copytree(source, to, symlinks=True, copy_function=put)


def _link(original: str, copy: str) -> None:
    try:
        os.link(original, copy)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(original, copy)


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(1024)
    return b"\0" not in head


def _digest() -> str:
    """Of what is installed, file by file, as the RECORD of every distribution lists it."""
    digest = hashlib.sha256(sys.version.encode())
    for dist in sorted(importlib.metadata.distributions(), key=lambda dist: dist.name):
        digest.update((dist.read_text("RECORD") or f"{dist.name}=={dist.version}").encode())
    return digest.hexdigest()[:16]
