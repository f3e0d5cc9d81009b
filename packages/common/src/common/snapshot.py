"""The code of a submission: copied when it is submitted, so that later edits do not reach jobs that wait or come back.

    <sweep>/code/<digest>/     common/ hydra_plugins/ mlp/ ...: what the jobs import first

Copied are the source folders of the template's package, and of those it needs, where they are installed from a
checkout ("editable"). What lies in site-packages is the environment's (see common.environment). The same code is copied
once: the folder's name is a digest of its files.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import uuid
from pathlib import Path

from common.errors import UserError

FOLDER = "code"  # in a sweep folder
_LIMIT_MB = 100
_NOT_COPIED = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")


def take(package: str, sweep_dir: Path) -> str | None:
    """Copy the code of a package.

    Args:
        package: the first part of the template's name, e.g. `mlp`.

    Returns:
        The name of the folder in `<sweep>/code/`; None where all is installed, not run from a checkout.

    Raises:
        UserError: the source folders hold more than code, or there is no room for a copy.
    """
    folders = sources(package)
    if not folders:
        return None
    _check_size(folders)
    (sweep_dir / FOLDER).mkdir(parents=True, exist_ok=True)
    temporary = sweep_dir / FOLDER / f".{uuid.uuid4().hex}"
    try:
        for folder in folders:
            # configs are a symbolic link out of the folder: its target is copied
            shutil.copytree(folder, temporary, ignore=_NOT_COPIED, dirs_exist_ok=True)
        digest = _digest(temporary)
        target = sweep_dir / FOLDER / digest
        if not target.exists():
            os.replace(temporary, target)
    except shutil.Error as error:  # all that went wrong, file by file
        source, _, reason = error.args[0][0]
        raise UserError(f"{source} cannot be copied into {sweep_dir} ({reason}). Nothing is left queued.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return digest


def setup_line(sweep_dir: Path, digest: str) -> str:
    """The shell line that lets a job import the snapshot before anything else."""
    return f"export PYTHONPATH={shlex.quote(str(sweep_dir / FOLDER / digest))}${{PYTHONPATH:+:$PYTHONPATH}}"


def differing(old: Path, new: Path) -> list[str]:
    """The files that are not the same in two snapshots, as `mlp/single/train.py`."""
    both = {old: _files(old), new: _files(new)}
    names = {path.relative_to(folder) for folder, files in both.items() for path in files}
    return sorted(str(name) for name in names if _content(old / name) != _content(new / name))


def sources(package: str) -> list[Path]:
    """The source folders of a package and of those it needs that are installed from a checkout."""
    editable: dict[str, tuple[list[Path], set[str]]] = {}  # by distribution: its folders, what it needs
    for dist in importlib.metadata.distributions():
        if is_editable(dist):
            needs = {_canonical(re.split(r"[^\w.\-]", text, maxsplit=1)[0]) for text in dist.requires or []}
            editable[_canonical(dist.name)] = (_folders(dist), needs)
    waiting = [name for name, (folders, _) in editable.items() if any((f / package).is_dir() for f in folders)]
    found: dict[str, list[Path]] = {}
    while waiting:
        name = waiting.pop()
        if name in editable and name not in found:
            found[name] = editable[name][0]
            waiting += editable[name][1]
    return [folder for name in sorted(found) for folder in found[name]]


def is_editable(dist: importlib.metadata.Distribution) -> bool:
    """By direct_url.json, as the packaging specifications define it (PEP 610)."""
    return bool(json.loads(dist.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"))


def _folders(dist: importlib.metadata.Distribution) -> list[Path]:
    """What its .pth file puts into the import path."""
    lines = [line for path in path_files(dist) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Path(line) for line in lines if not line.startswith("import ") and Path(line).is_dir()]


def path_files(dist: importlib.metadata.Distribution) -> list[Path]:
    """Its .pth files."""
    return [Path(str(dist.locate_file(path))) for path in dist.files or [] if path.suffix == ".pth"]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _check_size(folders: list[Path]) -> None:
    sizes = {path: path.stat().st_size for folder in folders for path in _files(folder)}
    total_mb = sum(sizes.values()) / 2**20
    if total_mb > _LIMIT_MB:
        largest = max(sizes, key=lambda path: sizes[path])
        raise UserError(
            f"The code holds {total_mb:.0f} MiB, and every sweep keeps a copy of it: move data and models out of the "
            f"source folders, first {largest} ({sizes[largest] / 2**20:.0f} MiB)."
        )


def _files(folder: Path) -> list[Path]:
    """But for what Python writes besides when it imports them."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
