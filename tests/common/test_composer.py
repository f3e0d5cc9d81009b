"""common.compose.Composer gives what Hydra's own composition of each point gives, node for node."""

from collections.abc import Callable

import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.compose import Composer
from hydra_plugins.vec_launcher.launcher import VecLauncher

LauncherOf = Callable[..., tuple[VecLauncher, list[list[str]]]]

POINTS: list[list[str]] = [
    ["compute=local", "trainer.seed=3"],  # the same files again, other values
    ["compute=local", "trainer.batch_size=8", "trainer.learning_rate=1e-4"],
    ["trainer.batch_size=8", "compute=killarney/l40s_1x"],  # a group after a value
    ["compute=bon_echo/a100_4x", "compute.mem_gb=32", "requeue=off"],  # a value inside the chosen file
    ["compute.mem_gb=32", "compute=bon_echo/a100_4x"],  # the same, the other way round
    ["compute=local", "requeue=off", "requeue.max_num_timeout=3"],
    ["compute=local", "compute.slurm.partition=gpu", "user.slurm.account=def-a", "experiment_name=x"],
    [
        "compute=local",
        "++user.slurm.additional_parameters.qos=fast",
        "++user.slurm.additional_parameters.qos=slow",
    ],
    ["compute=local", "+user.slurm.additional_parameters={mail-user: a@b, nice: 5}"],
    ["compute=local", "compute.setup=[module load a, 'export B=1']"],
    ["++user.slurm.additional_parameters={a: 1, b: 2}", "~user.slurm.additional_parameters.a"],
    ["~compute", "trainer.seed=1"],
    [
        "compute=local",
        "trainer.seed='${trainer.batch_size}'",
        "experiment_name='${template}-${trainer.seed}'",
    ],
    ["compute=local", "trainer={batch_size: 4, seed: 2}"],
    ["compute=local", "paths.work_root=/tmp", "paths.out_dir='${paths.work_root}/x'"],
]


def plain(cfg: DictConfig) -> object:
    return OmegaConf.to_container(cfg, resolve=False)


def test_every_kind_of_override_composes_as_hydra_itself_does(launcher_of: LauncherOf) -> None:
    # overrides of the hydra node are part of the master config, not of a point
    launcher, _ = launcher_of("compute=local", "hydra.launcher.timeout_min=7", "+hydra.job.env_set.A=b")
    assert launcher.hydra_context is not None
    loader = launcher.hydra_context.config_loader
    composer = Composer(loader, launcher.config)
    for point in POINTS:
        wanted = loader.load_sweep_config(launcher.config, list(point))
        got = composer.point(list(point))
        assert plain(got) == plain(wanted), point
        assert OmegaConf.get_type(got, "compute") is OmegaConf.get_type(wanted, "compute"), point
        assert OmegaConf.is_struct(got) == OmegaConf.is_struct(wanted)
        assert got.hydra.launcher.timeout_min == 7


def test_one_point_does_not_change_the_next(launcher_of: LauncherOf) -> None:
    launcher, _ = launcher_of("compute=local")
    assert launcher.hydra_context is not None
    composer = Composer(launcher.hydra_context.config_loader, launcher.config)
    first = composer.point(["compute=local", "trainer.seed=1"])
    first.trainer.batch_size = 1
    second = composer.point(["compute=local"])
    assert (second.trainer.seed, second.trainer.batch_size) == (42, 32)  # the values of config.yaml


def test_a_time_stamp_is_the_same_for_all_points(launcher_of: LauncherOf) -> None:
    launcher, _ = launcher_of("compute=local", "experiment_name='${now:%f}'")  # microseconds
    assert launcher.hydra_context is not None
    name = launcher.config.experiment_name
    composer = Composer(launcher.hydra_context.config_loader, launcher.config)
    line = ["compute=local", "experiment_name='${now:%f}'"]
    assert {composer.point([*line, f"trainer.seed={seed}"]).experiment_name for seed in range(3)} == {name}


FAULTY = [
    ["compute=nope"],
    ["trainer.sed=1"],
    ["trainer.seed=x"],
    ["+compute.nodes=1"],
    ["~trainer.seed"],  # a field of a dataclass cannot be deleted
    ["compute=local", "trainer=none"],
]


def test_a_faulty_point_fails_as_in_hydra(launcher_of: LauncherOf) -> None:
    launcher, _ = launcher_of("compute=local")
    assert launcher.hydra_context is not None
    loader = launcher.hydra_context.config_loader
    composer = Composer(loader, launcher.config)
    for point in FAULTY:
        with pytest.raises((HydraException, OmegaConfBaseException)) as wanted:
            loader.load_sweep_config(launcher.config, list(point))
        with pytest.raises(type(wanted.value)) as got:
            composer.point(list(point))
        assert str(got.value) == str(wanted.value)
