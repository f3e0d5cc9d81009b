"""Every preset in configs/compute composes, is of the right types, and asks for what the clusters' tables say."""

import copy
from pathlib import Path

import pytest
from omegaconf import open_dict

from common.config import CONFIGS, Config, to_typed
from hydra_plugins.vec_launcher._request import Run
from tests.conftest import Compose

BON_ECHO_ROOT = "/scratch/ssd004/scratch/alice"
KILLARNEY_ROOT = "/scratch/alice"

# preset: (nodes, GPUs per node, GPU type, cores and GiB per process, partition, work root).
# Sizes: cores and memory per GPU as the sites recommend them; one process per GPU.
TABLE: dict[str, tuple[int, int, str | None, int, int, str | None, str]] = {
    "bon_echo/cpu_1x": (1, 0, None, 2, 8, "cpu", BON_ECHO_ROOT),
    **{f"bon_echo/a40_{n}x": (1, n, None, 8, 40, "a40", BON_ECHO_ROOT) for n in (1, 2, 4)},
    **{f"bon_echo/a100_{n}x": (1, n, None, 16, 80, "a100", BON_ECHO_ROOT) for n in (1, 4)},
    **{f"killarney/l40s_{n}x": (1, n, "l40s", 16, 120, None, KILLARNEY_ROOT) for n in (1, 2, 4)},
    **{f"killarney/h100_{n}x": (1, n, "h100", 6, 240, None, KILLARNEY_ROOT) for n in (1, 2, 4, 8)},
    "killarney/l40s_4x_2n": (2, 4, "l40s", 16, 120, None, KILLARNEY_ROOT),
    "killarney/h100_8x_2n": (2, 8, "h100", 6, 240, None, KILLARNEY_ROOT),
}
OTHERS = {"local", "inprocess"}

# cores and GiB of a Killarney node
NODES = {"l40s": (64, 512), "h100": (48, 2000)}


def names() -> list[str]:
    folder = CONFIGS.resolve() / "compute"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def typed(run: Run) -> Config:
    """What a trainer would receive."""
    cfg = copy.deepcopy(run.cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return to_typed(cfg)


def test_every_preset_stands_in_the_table() -> None:
    assert set(names()) == TABLE.keys() | OTHERS


def test_every_slurm_preset_asks_for_what_the_table_says(composed: Compose) -> None:
    # one sweep over all presets, of a template that runs on any number of processes
    runs = composed(f"compute={','.join(TABLE)}", template="mlp.ddp")
    for (name, row), run in zip(TABLE.items(), runs, strict=True):
        nodes, gpus, gpu_type, cores, gib, partition, work_root = row
        cfg = typed(run)
        compute = cfg.compute
        assert compute.executor == "slurm", name
        assert compute.cluster == name.split("/")[0]
        assert (compute.nodes, compute.gpus_per_node, compute.gpu_type) == (nodes, gpus, gpu_type), name
        tasks = max(gpus, 1)
        assert compute.tasks_per_node == tasks, f"{name}: one process per GPU"
        assert compute.cpus_per_task == cores, name
        assert compute.mem_gb == tasks * gib, name
        assert compute.slurm.partition == partition, name
        assert compute.timeout_min == 60, name
        assert cfg.paths.work_root == work_root, name
        assert str(Path(cfg.paths.work_dir).parent) == f"{work_root}/vec_jobs", name
        # what the preset says is what the launcher is given
        asked = {key: run.params[key] for key in ("nodes", "gpus_per_node", "gpu_type", "cpus_per_task", "mem_gb")}
        assert asked == {key: getattr(compute, key) for key in asked}, name
        if gpu_type is not None:
            most_cores, most_gib = NODES[gpu_type]
            assert gpus * cores <= most_cores, f"{name} could never start"
            assert gpus * gib <= most_gib, f"{name} could never start"


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_the_presets_of_this_machine_work_in_the_present_folder(composed: Compose, name: str, tmp_path: Path) -> None:
    (run,) = composed(f"compute={name}")
    cfg = typed(run)
    assert run.params["executor"] == cfg.compute.executor == name
    assert cfg.paths.work_root == str(tmp_path)  # conftest.py makes it the current folder
    assert cfg.compute.tasks == 1
