"""A preset takes from its cluster's profile what it does not say itself, wherever it is used, and a job gets values."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from common.config import CONFIGS, Compute
from tests.conftest import Cli, Compose

PROFILES = sorted(path.stem for path in (CONFIGS.resolve() / "cluster").glob("*.yaml"))
PROFILE = """\
executor: slurm
cluster: mine
work_root: /big
site: {nodes: {small: {cpus: 4, memory_gb: 8, gpus: 1, gpu_memory_gb: 11, partitions: {short: 60}}}}
"""
PRESET = """\
defaults:
  - /cluster@_here_: mine
  - _self_
gpus_per_node: 1
gpu_memory_gb: ${.site.nodes.small.gpu_memory_gb}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "own"
    (folder / "compute").mkdir(parents=True)
    (folder / "cluster").mkdir()
    monkeypatch.setenv("VEC_CONFIG_DIR", str(folder))
    return folder


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_the_name_of_its_file_and_kinds_of_nodes(composed: Compose, name: str) -> None:
    profile = OmegaConf.merge(OmegaConf.structured(Compute), OmegaConf.load(CONFIGS / "cluster" / f"{name}.yaml"))
    compute = OmegaConf.to_object(profile)
    assert isinstance(compute, Compute)
    assert compute.cluster == name
    assert compute.site is not None
    assert all(kind.partitions for kind in compute.site.nodes.values())


def test_own_presets_use_own_profiles(composed: Compose, own: Path) -> None:
    (own / "cluster/mine.yaml").write_text(PROFILE)
    (own / "compute/small.yaml").write_text(PRESET)
    (run,) = composed("compute=small")
    assert (run.cfg.compute.cluster, run.cfg.compute.gpu_memory_gb, run.cfg.paths.work_root) == ("mine", 11, "/big")


def test_an_own_profile_replaces_that_of_the_packaged_presets(composed: Compose, own: Path) -> None:
    packaged = (CONFIGS / "cluster/killarney.yaml").read_text()
    (own / "cluster/killarney.yaml").write_text(packaged.replace("/scratch/${oc.env:USER}", "/elsewhere"))
    (run,) = composed("compute=killarney/l40s_1x")
    assert run.cfg.paths.work_root == "/elsewhere"


def test_a_preset_that_says_all_itself_needs_no_profile(composed: Compose, own: Path) -> None:
    (own / "compute/old.yaml").write_text("executor: slurm\ncluster: site\nwork_root: /old\nslurm: {partition: p}\n")
    (run,) = composed("compute=old")
    assert (run.cfg.compute.cluster, run.cfg.paths.work_root, run.params["partition"]) == ("site", "/old", "p")


def test_the_preset_of_a_service_takes_from_the_profile_too(composed: Compose) -> None:
    (run,) = composed(
        "compute=bon_echo/a40_1x", "rollout=vllm_server", "rollout.compute=killarney/h100_2x", "assets=embedded",
        template="rl.grpo",
    )  # fmt: skip
    assert run.beside is not None
    assert (run.cfg.compute.gpu_memory_gb, run.cfg.rollout.compute.gpu_memory_gb) == (48, 80)
    assert (run.cfg.compute.cluster, run.cfg.rollout.compute.cluster) == ("bon_echo", "killarney")


def test_a_job_gets_values_and_not_the_facts_of_the_site(composed: Compose) -> None:
    (run,) = composed("compute=killarney/l40s_1x")
    assert run.cfg.compute.site is None
    assert run.cfg.compute.gpu_memory_gb == 48


def test_a_wrong_key_in_a_profile_is_named(cli: Cli, own: Path) -> None:
    (own / "cluster/mine.yaml").write_text(PROFILE.replace("memory_gb: 8", "memory: 8"))
    (own / "compute/small.yaml").write_text(PRESET)
    answer = cli("compute=small")
    assert answer.code == 1
    assert len(answer.err.strip().splitlines()) == 1
    assert "'memory'" in answer.err
