"""common.config: what is refused, what a run's identity is, and how two configurations differ."""

import pytest
from omegaconf import OmegaConf

from common.config import Compute, Paths, Requeue, differences, flatten, identity, to_typed
from common.errors import UserError
from mlp.single.schema import Config, Trainer

TRAINER = {
    "input_dim": 4, "hidden_dim": 8, "num_classes": 3, "num_samples": 32, "batch_size": 8,
    "learning_rate": 1e-3, "num_epochs": 2, "log_every": 1, "seed": 42,
}  # fmt: skip


def structured(**changes: object) -> Config:
    trainer = TRAINER | changes
    return OmegaConf.structured(
        Config(
            template="mlp.single",
            experiment_name="e",
            objective="eval_loss",
            direction="minimize",
            paths=Paths("/tmp", "/tmp/e", "/tmp/e/0/outputs"),
            trainer=Trainer(**trainer),  # pyright: ignore[reportArgumentType]
        )
    )


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (Compute, {"executor": "ssh"}, "compute.executor is one of slurm, local, inprocess, not ssh"),
        (Compute, {"executor": "local", "nodes": 2}, "compute.nodes=2 needs Slurm"),
        (Compute, {"executor": "slurm", "nodes": 0}, "compute.nodes must be at least 1, got 0"),
        (Compute, {"executor": "slurm", "timeout_min": 0}, "compute.timeout_min must be at least 1, got 0"),
        (Compute, {"executor": "slurm", "cpus_per_task": -1}, "compute.cpus_per_task must be at least 1, got -1"),
        (Compute, {"executor": "slurm", "mem_gb": 0}, "compute.mem_gb must be at least 1, got 0"),
        (Compute, {"executor": "slurm", "gpus_per_node": -1}, "compute.gpus_per_node must not be negative"),
        (Compute, {"executor": "inprocess", "tasks_per_node": 2}, "compute=inprocess runs one process"),
        (Compute, {"executor": "slurm", "tasks_per_node": 2, "use_srun": False}, "compute.use_srun=false starts one"),
        (Requeue, {"save_every_min": 0.0}, "requeue.save_every_min must be positive"),
        (Requeue, {"max_num_timeout": -1}, "requeue.max_num_timeout must not be negative"),
        (Requeue, {"signal_delay_s": -1}, "requeue.signal_delay_s must not be negative"),
        (Trainer, TRAINER | {"learning_rate": 0.0}, "trainer.learning_rate must be positive, got 0.0"),
        (Trainer, TRAINER | {"learning_rate": float("nan")}, "trainer.learning_rate must be positive, got nan"),
        (Trainer, TRAINER | {"batch_size": 33}, "trainer.batch_size=33 is more than trainer.num_samples=32"),
        (Trainer, TRAINER | {"num_classes": 1}, "trainer.num_classes must be at least 2"),
        (Trainer, TRAINER | {"seed": -1}, "trainer.seed must not be negative"),
        (Paths, {"work_root": "", "work_dir": "", "out_dir": ""}, "paths.work_root=<folder>"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused_with_a_sentence(kind: type, values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match="^.*" + sentence.replace(".", r"\.")):
        kind(**values)


def test_a_key_that_is_no_field_is_refused_at_any_depth() -> None:
    cfg = structured()
    OmegaConf.set_struct(cfg, False)
    OmegaConf.update(cfg, "compute.slurm.nice", 5, force_add=True)
    with pytest.raises(UserError, match=r"compute\.slurm\.nice is no field of common\.config\.ComputeSlurm"):
        to_typed(cfg)


def test_free_form_options_may_have_any_key() -> None:
    cfg = structured()
    OmegaConf.update(cfg, "user.slurm.additional_parameters.nice", 5, force_add=True)
    assert to_typed(cfg).user.slurm.additional_parameters == {"nice": 5}


def test_identity_is_what_decides_the_result_and_not_where_it_runs() -> None:
    cfg = structured()
    elsewhere = structured()
    elsewhere.compute.mem_gb = 7
    elsewhere.paths.work_root = "/other"
    elsewhere.user.slurm.account = "b"
    elsewhere.requeue.enabled = False
    elsewhere.experiment_name = "f"
    assert identity(cfg) == identity(elsewhere)
    assert identity(cfg) == {"template": "mlp.single"} | {f"trainer.{name}": value for name, value in TRAINER.items()}
    assert identity(structured(seed=43)) != identity(cfg)


def test_identity_holds_values_and_no_interpolations() -> None:
    cfg = OmegaConf.create({"template": "t", "a": "${b}", "b": 3, "paths": {"x": "${hydra.none}"}})
    assert identity(cfg) == {"template": "t", "a": 3, "b": 3}


def test_flatten_joins_keys_and_keeps_lists_whole() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1, {"f": 2}]}) == {
        "a.b": 1,
        "a.c.d": None,
        "e": [1, {"f": 2}],
    }


def test_differences_name_changed_added_and_removed_keys() -> None:
    old = {"trainer.seed": 42, "same": 1, "gone": 2}
    new = {"trainer.seed": 43, "same": 1, "new": None}
    assert list(differences(old, new).values()) == [
        "gone: 2 -> (absent)", "new: (absent) -> None", "trainer.seed: 42 -> 43",
    ]  # fmt: skip
    assert differences(old, dict(old)) == {}
