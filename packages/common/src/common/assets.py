"""The model and the data of a run: whether they can be had, before anything is queued, and where they are on the node.

    assets=hub        ids of the Hugging Face hub: the site's shared folder (compute.model_weights) or the hub's cache;
                      assets.prefetch=true fetches what is missing, at submission
    assets=local      folders
    assets=embedded   small ones, made of installed packages: no network (the template's `embedded` module makes them)

`locate` gives folders in all three cases, so that the code that follows is the same. Nothing here imports torch, for it
runs on the login node, too.
"""

import atexit
import importlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from common.config import Config, require
from common.errors import UserError

__all__ = ["Assets", "Embedded", "Folders", "check", "context_length", "embedded_folder", "locate"]

log = logging.getLogger(__name__)

KINDS = ("hub", "local", "embedded")
_NOT_NEEDED = ["*.bin", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*.mlmodel", "onnx/*", "original/*"]


@dataclass
class Assets:
    kind: str = MISSING  # hub | local | embedded
    model: str = MISSING  # hub id, folder, or a name in the package's embedded module; its tokenizer comes with it
    data: str = MISSING  # hub id, folder, or a name in the package's embedded module
    data_config: str | None = None  # the configuration ("subset") of the data set, if it has several
    prefetch: bool = False  # hub: fetch what is not in the cache, at submission
    stage: bool = False  # hub, local: copy both to the node's own disk first ($SLURM_TMPDIR, else the temporary folder)

    def __post_init__(self) -> None:
        require(self.kind in KINDS, f"assets is one of {', '.join(KINDS)}, not {self.kind}")


@dataclass(frozen=True)
class Folders:
    """Where model and data are on this machine."""

    model: Path
    data: Path


@dataclass(frozen=True)
class Embedded:
    """What an entry of a package's `EMBEDDED` says: what it is made of, and how.

    Args:
        needs: modules that must be installed.
        make: writes it into the folder that it is given.
    """

    needs: tuple[str, ...]
    make: Callable[[Path], None]


def check(config: Config, assets: Assets, embedded: str) -> Folders | None:
    """Before submission: can model and data be had where the job runs? Fetches them if `assets.prefetch` says so.

    Args:
        embedded: the module whose `EMBEDDED` names what assets=embedded can make.

    Returns:
        Where they are; None for embedded ones, which the job makes.

    Raises:
        UserError: what is missing, and what to do.
    """
    if assets.kind == "embedded":
        for name in (assets.model, assets.data):
            _embedded(embedded, name)
        return None
    return _located(config, assets, fetch=assets.prefetch)


def locate(config: Config, assets: Assets, embedded: str) -> Folders:
    """On the node, all ranks together. The network is not asked from here on.

    Raises:
        UserError: what is missing, and what to do.
    """
    if assets.kind == "embedded":
        from common import distributed

        # rank 0 alone: save_pretrained writes nothing on the others, and does not say so
        return distributed.on_rank_0(
            lambda: Folders(_made(config, embedded, assets.model), _made(config, embedded, assets.data))
        )
    os.environ["HF_HUB_OFFLINE"] = "1"
    folders = _located(config, assets, fetch=False)
    return _staged(folders) if assets.stage else folders


def embedded_folder(config: Config, embedded: str, name: str) -> Path:
    """Where `locate` makes it."""
    return Path(config.paths.work_root) / ".vec_assets" / f"{embedded}.{name}"


def context_length(model: Path) -> int | None:
    """How many tokens a model can read, as its files say; None if they do not."""
    limits: list[int] = []
    for name, keys in (
        ("config.json", ("max_position_embeddings", "n_positions")),
        ("tokenizer_config.json", ("model_max_length",)),
    ):
        path = model / name
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        said = said | said.get("text_config", {})
        limits += [int(said[key]) for key in keys if isinstance(said.get(key), int | float)]
    return min(limits, default=None)


def _located(config: Config, assets: Assets, fetch: bool) -> Folders:
    if assets.kind == "local":
        model, data = Path(assets.model).expanduser().resolve(), Path(assets.data).expanduser().resolve()
        require(data.is_dir(), f"assets.data={assets.data}: there is no such folder")
    else:
        shared = Path(config.compute.model_weights or "/", Path(assets.model).name)
        here = config.compute.model_weights is not None and shared.is_dir()
        model = shared if here else _cached(assets.model, "model", fetch)
        data = _cached(assets.data, "dataset", fetch)
    _check_complete(model, assets.model)
    return Folders(model, data)


def _staged(folders: Folders) -> Folders:
    """Once per node; removed when the process ends."""
    from common import distributed

    disk = Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir())
    target = disk / f"vec_stage_{os.environ.get('VEC_JOB_ID', os.getpid())}"
    failure: UserError | OSError | None = None
    if distributed.local_rank() == 0:
        try:
            _copy_to_node(folders, target)
        except (UserError, OSError) as error:
            failure = error
    for other in distributed.gather(failure):
        if other is not None:
            raise other
    return Folders(target / "model", target / "data")


def _copy_to_node(folders: Folders, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)  # of an earlier attempt that was killed
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    files = [path for folder in (folders.model, folders.data) for path in folder.rglob("*") if path.is_file()]
    disk, needed = target.parent, sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(disk).free
    require(
        needed < free,
        f"assets.stage=true: model and data have {needed / 2**30:.1f} GiB, but {disk} on {os.uname().nodename} has "
        f"{free / 2**30:.1f} free. Use assets.stage=false, or a node with a larger disk",
    )
    log.info("copying model and data (%.1f GiB) to %s", needed / 2**30, target)
    shutil.copytree(folders.model, target / "model")  # the hub's cache has links: what they point to is copied
    shutil.copytree(folders.data, target / "data")


def _cached(repo: str, kind: str, fetch: bool) -> Path:
    """The folder of a hub id in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repo, repo_type=kind, local_files_only=True))
    except LocalEntryNotFoundError as error:
        if not fetch:
            raise UserError(
                f"The {kind} {repo} is not in the hub's cache. Fetch it with assets.prefetch=true (where there is a "
                "network), or take assets=local with your own folders, or assets=embedded for a first try."
            ) from error
    for http in ("httpx", "httpx2"):  # which log every request
        logging.getLogger(http).setLevel(logging.WARNING)
    try:
        log.info("fetching the %s %s", kind, repo)
        return Path(snapshot_download(repo, repo_type=kind, ignore_patterns=_NOT_NEEDED))
    except GatedRepoError as error:
        raise UserError(f"The {kind} {repo} is gated: accept its terms on the hub, then `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"The hub has no {kind} {repo}; if it is private: `hf auth login`.") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"The hub does not answer for the {kind} {repo}: {type(error).__name__}.") from error


def _check_complete(model: Path, name: str) -> None:
    require(model.is_dir(), f"assets.model={name}: there is no such folder")
    require((model / "config.json").is_file(), f"assets.model={name}: {model} has no config.json")
    index = model / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text())["weight_map"].values())
    else:
        shards = {"model.safetensors"} if not (model / "pytorch_model.bin").is_file() else set()
    missing = sorted(shard for shard in shards if not (model / shard).is_file())
    require(not missing, f"assets.model={name}: {model} lacks {', '.join(missing[:3])}")


def _embedded(module: str, name: str) -> Embedded:
    known: dict[str, Embedded] = importlib.import_module(module).EMBEDDED
    require(name in known, f"assets=embedded has no {name}: it has {', '.join(known)}")
    missing = [need for need in known[name].needs if importlib.util.find_spec(need) is None]
    package = module.partition(".")[0]
    require(
        not missing,
        f"assets=embedded needs {', '.join(missing)}: `uv sync --package {package} --extra embedded` adds it",
    )
    return known[name]


def _made(config: Config, module: str, name: str) -> Path:
    """Made once for all runs of a work root; jobs that start at the same moment each make it, and one of them wins."""
    folder = embedded_folder(config, module, name)
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir(parents=True)
        try:
            _embedded(module, name).make(temporary)
            temporary.rename(folder)
        except OSError:  # another job was first
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
