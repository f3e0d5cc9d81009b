"""From the command line to the launcher, and, on the node, from the launcher to a template's `train`.

launch_package("mlp")     mlp-launch single compute=local ...
launch("mlp.single")      python -m mlp.single.launch compute=local ...
run_task(cfg)             what every process of a job runs
"""

import ast
import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path

from hydra import main as hydra_main
from hydra import version as hydra_version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from common import attempts, compose, ownership, preempt, tracking
from common.config import open_dicts, presets, to_typed
from common.errors import SilentRankError, UserError

__all__ = ["launch", "launch_package"]

_VERSION_BASE = "1.3"
_MULTIRUN = {"-m", "--multirun"}  # implied, see hydra.mode in _global.yaml
_ESTIMATE = "--estimate"
_DRY_RUN = "--dry-run"
_SHOW = (
    "-c",
    "--cfg",
    "-h",
    "--help",
    "--hydra-help",
    "--version",
    "-i",
    "--info",
    "-sc",
    "--shell-completion",
)


def launch_package(package: str) -> None:
    """The console script of a package: the first word names the template. Ends the process."""
    known = templates(package)
    command = f"{package}-launch"
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(_package_help(package, command, known))
        sys.exit(0 if words or known else 1)
    if words[0] not in known:
        near = difflib.get_close_matches(words[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{package} has: {', '.join(known) or 'no template yet'}."
        sys.exit(f"{command}: unknown template {words[0]}: {hint}")
    sys.argv[0] = f"{command} {words[0]}"
    launch(f"{package}.{words[0]}", words[1:])


def launch(template: str, args: list[str] | None = None) -> None:
    """Compose, check and submit the runs of one template, or show its configuration. Ends the process.

    Args:
        template: its module, e.g. "mlp.single".
        args: command line without the program's name.
    """
    args = sys.argv[1:] if args is None else args
    debug = "--debug" in args or os.environ.get("HYDRA_FULL_ERROR") == "1"
    args = [arg for arg in args if arg != "--debug" and arg not in _MULTIRUN]
    try:
        hydra_version.setbase(_VERSION_BASE)
        schema = importlib.import_module(f"{template}.schema").Config
        node = OmegaConf.structured(schema)
        node.template = template
        ConfigStore.instance().store(name="schema", node=node)
        folder = _folder(template)
        args = [_open_dict_override(arg, open_dicts(schema)) for arg in args]
        args = [_preset_of_service(arg, presets(schema)) for arg in args]
        _refuse_renamed(args, schema.renamed)
        args = ["hydra.launcher.dry_run=true" if arg == _DRY_RUN else arg for arg in args]
        if _ESTIMATE in args:
            print(_estimate(template, folder, [arg for arg in args if arg != _ESTIMATE]))
        elif any(arg.split("=")[0] in _SHOW for arg in args):
            _show(folder, args)
        else:
            _submit(template, folder, args)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(f"Error: {_one_line(error, template, args)}")


def run_task(cfg: DictConfig) -> dict[str, float]:
    """Train: on every process of a job, once the ranks are in its environment (see the launcher).

    Returns:
        The final metrics.

    Raises:
        Preempted: the run was told to stop and has saved.
        Exception: whatever the training raises.
    """
    typed = to_typed(cfg)
    out_dir = Path(typed.paths.out_dir)
    first = os.environ.get("RANK", "0") == "0"
    out_dir.mkdir(parents=True, exist_ok=True)
    if not typed.checkpointable:
        preempt.uninstall()
    if first:
        ownership.hold(out_dir)  # before anything is written, and before torch is imported
        attempts.start(out_dir, os.environ.get("VEC_JOB_ID", "inprocess"))
    reason, facts = "interrupted", {}
    try:
        _leave_if_terminated()
        template = importlib.import_module(f"{typed.template}.train")
        _leave_if_terminated()
        metrics: dict[str, float] = template.train(typed)
        reason = "completed"
        return metrics
    except preempt.Preempted as stop:
        reason, facts = stop.signal.name, {} if stop.step is None else {"step": stop.step}
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if silent := _silent_ranks(error):
            reason = f"rank {', '.join(map(str, silent))} does not answer (compute.rank_timeout_min): {error}"
            raise SilentRankError(reason) from error
        raise
    finally:
        if "torch" in sys.modules:
            from common import distributed

            distributed.stop()
        tracking.stop()
        if first:
            attempts.end(out_dir, reason, **facts)
            ownership.release(out_dir)


def _leave_if_terminated() -> None:
    """After TERM there is no time to import or build anything, and nothing to save yet."""
    if preempt.requested() == preempt.TERM:
        raise preempt.Preempted(preempt.TERM, None)


def _silent_ranks(error: Exception) -> list[int]:
    if "torch" not in sys.modules:
        return []
    from common import distributed

    return distributed.silent_ranks(error)


def templates(package: str) -> dict[str, str]:
    """The templates of a package, with the first line of their train.py's docstring."""
    found: dict[str, str] = {}
    for config in sorted(_folder(package).glob("*/config.yaml")):
        train = config.with_name("train.py")
        if train.exists():
            docstring = ast.get_docstring(ast.parse(train.read_text(encoding="utf-8"))) or ""
            found[config.parent.name] = docstring.partition("\n")[0]
    return found


def _folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def _package_help(package: str, command: str, known: dict[str, str]) -> str:
    if not known:
        return f"{package} has no template yet."
    lines = [f"  {name:28} {about}" for name, about in known.items()]
    return "\n".join(
        [
            f"Usage: {command} <template> compute=<preset> [key=value ...]",
            "",
            "Templates:",
            *lines,
            "",
            f"Fields and presets of one: {command} <template> --help",
            "See what would be submitted: --dry-run",
        ]
    )


def _open_dict_override(arg: str, dicts: list[str]) -> str:
    """`user.slurm.additional_parameters.qos=fast` adds a key to a free-form dict: no `+` needed for that."""
    key = arg.partition("=")[0]
    return f"++{arg}" if any(f"{key}.".startswith(f"{name}.") for name in dicts) else arg


def _preset_of_service(arg: str, fields: list[str]) -> str:
    """`rollout.compute=killarney/l40s_1x` chooses a file of the group `compute`, as `compute=...` itself does."""
    key = arg.partition("=")[0]
    return f"compute@{arg}" if key in fields and "." in key else arg


def _refuse_renamed(args: list[str], renamed: dict[str, str]) -> None:
    for key in (arg.lstrip("+~").partition("=")[0] for arg in args):
        for old, new in renamed.items():
            if key == old or key.startswith(f"{old}."):
                raise UserError(f"{key} is not known here: write {new}.")


def _hydra(template: str, folder: Path) -> Hydra:
    return Hydra.create_main_hydra2(task_name=template, config_search_path=create_config_search_path(str(folder)))


def _submit(template: str, folder: Path, args: list[str]) -> None:
    if flags := [arg for arg in args if arg.startswith("-")]:
        raise UserError(f"Unknown option {flags[0]}: see --help. (To debug in this process: compute=inprocess.)")
    try:
        _hydra(template, folder).multirun("config", run_task, args)
    finally:
        GlobalHydra.instance().clear()


def _estimate(template: str, folder: Path, args: list[str]) -> str:
    """Of one configuration; nothing is submitted and no folder is made."""
    try:
        cfg = _hydra(template, folder).compose_config("config", args, run_mode=RunMode.RUN)
    finally:
        GlobalHydra.instance().clear()
    with open_dict(cfg):
        cfg.hydra.job.num = 0
        compose.resolve(cfg)
        del cfg["hydra"]
    return to_typed(cfg).estimate()


def _show(folder: Path, args: list[str]) -> None:
    """--cfg, --help and their like are Hydra's own."""
    sys.argv[1:] = args
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise instead of printing several lines
    hydra_main(version_base=_VERSION_BASE, config_path=str(folder), config_name="config")(run_task)()


def _one_line(error: Exception, template: str, args: list[str]) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MarkedYAMLError):
        return compose.explain(error, [], {})
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return f"{type(error).__name__}: {error} (this is a fault of ours, or of the system; --debug shows where)"
    keys, presets = _valid_names(template, args)
    return compose.explain(error, keys, presets)


def _valid_names(template: str, args: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """(keys, options of each config group) to suggest, for what can be composed of a faulty command line."""
    try:
        hydra = _hydra(template, _folder(template))
        presets = compose.valid_presets(hydra.config_loader)
        choices = [arg for arg in args if arg.partition("=")[2] in presets.get(arg.partition("=")[0], [])]
        return compose.valid_keys(hydra.compose_config("config", choices, run_mode=RunMode.MULTIRUN)), presets
    except (HydraException, OmegaConfBaseException):
        return [], {}
    finally:
        GlobalHydra.instance().clear()
