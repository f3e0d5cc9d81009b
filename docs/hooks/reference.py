"""Makes the pages of docs/reference/ when the site is built: fields, presets, commands. Nothing of it is committed."""

import re
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import typer
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from omegaconf import DictConfig, OmegaConf
from typer.cli import get_docs_for_click

from common import fields
from common.config import CONFIGS
from common.launch import templates

# Any template will do to compose a preset: what a preset sets is the same for all.
TEMPLATE = "mlp.single"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    packages = Path(config.config_file_path).parent / "packages"
    pages = {
        "presets": presets(),
        "fields": shared_fields(),
        "launcher": launcher(),
        "templates": fields_of_templates(packages),
        "commands": commands(),
    }
    for name, text in pages.items():
        page = File.generated(config, f"docs/reference/{name}.md", content=text)
        page.dest_uri = f"reference/{name}.html"
        files.append(page)
    return files


def shared_fields() -> str:
    """What common.config declares."""
    intro = "Every template has these. A [preset](presets.md) sets `compute.*`, `configs/user.yaml` sets `user.*`."
    return f"# Shared fields\n\n{intro} `???` is filled in by the launcher.\n\n{fields.shared_table()}\n"


def launcher() -> str:
    """What hydra_plugins.vec_launcher declares."""
    from hydra_plugins.vec_launcher.config import VecLauncherConf

    intro = "Those of hydra-submitit-launcher and ours. Most take their value from a field that is easier to remember."
    return f"# Fields of the launcher\n\n{intro}\n\n{fields.launcher_table(VecLauncherConf)}\n"


def fields_of_templates(packages: Path) -> str:
    """What each template adds."""
    parts = ["# Fields of the templates\n\nWhat each template adds to the [shared fields](fields.md)."]
    for package in sorted(path.name for path in packages.iterdir() if (path / "src" / path.name).is_dir()):
        for name, about in templates(package).items():
            title = f"{package}.{name}"
            parts.append(f"## {title}\n\n{about}\n\n{fields.table(title)}")
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """What the console scripts of common show with --help."""
    parts = ["# Commands"]
    for script in sorted(distribution("common").entry_points.select(group="console_scripts"), key=lambda one: one.name):
        command = typer.main.get_command(script.load())
        text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name=script.name), name=script.name)
        text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text)  # the table of contents has them
        parts.append(re.sub(r"^(#+) `(.+)`$", r"#\1 \2", text, flags=re.MULTILINE))
    return "\n\n".join(parts) + "\n"


def presets() -> str:
    """A row for each file of configs/compute/, as it is composed."""
    lines = ["| `compute=` | nodes | GPUs each | processes each | cores of one | GiB a node | minutes | partition |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for path in sorted(CONFIGS.glob("compute/**/*.yaml")):
        name = str(path.relative_to(CONFIGS / "compute").with_suffix(""))
        lines.append(f"| {' | '.join([f'`{name}`', *_cells(_composed(name))])} |")
    intro = "What a run asks for; any of it can be changed: `compute.mem_gb=32`. Empty: what the site gives."
    return "# Presets\n\n" + intro + "\n\n" + "\n".join(lines) + "\n"


def _composed(preset: str) -> DictConfig:
    schema = import_module(f"{TEMPLATE}.schema")
    ConfigStore.instance().store(name="schema", node=OmegaConf.structured(schema.Config))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(Path(schema.__file__ or "").parent), version_base="1.3"):
        return compose("config", [f"compute={preset}"]).compute


def _cells(compute: DictConfig) -> list[str]:
    gpus = f"{compute.gpus_per_node} {compute.gpu_type or ''}".strip() if compute.gpus_per_node else ""
    numbers: list[Any] = [compute.nodes, gpus, compute.tasks_per_node, compute.cpus_per_task, compute.mem_gb]
    return ["" if cell is None else str(cell) for cell in (*numbers, compute.timeout_min, compute.slurm.partition)]
