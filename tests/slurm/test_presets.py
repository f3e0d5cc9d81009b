"""Every preset of both clusters asks for what its nodes have, and a short run of it completes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .runs import Runs

pytestmark = pytest.mark.slurm

COMPUTE = Path(__file__).parents[2] / "configs" / "compute"
PRESETS = sorted(f"{path.parent.name}/{path.stem}" for path in COMPUTE.glob("*/*.yaml"))

# CPUs, memory in GiB, GPUs that sacct must show: per GPU 8/40 (A40), 16/80 (A100), 16/120 (L40S), 6/240 (H100)
PER_GPU = {"a40": (8, 40), "a100": (16, 80), "l40s": (16, 120), "h100": (6, 240)}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_runs_a_short_job(preset: str, submit: Callable[..., Runs]) -> None:
    name, _, rest = preset.split("/")[1].partition("_")
    gpus, nodes = int(rest[0]), 2 if rest.endswith("_2n") else 1
    several = gpus * nodes > 1
    # one optimizer step: 8 or 16 ranks are too many for two cores
    one_step = ["trainer.num_epochs=1", "trainer.batch_size=1024", "trainer.log_every=1"]
    runs = submit("mlp.ddp" if several else "mlp.single", f"compute={preset}", *one_step)
    runs.wait_state("COMPLETED", "FAILED", "TIMEOUT")
    assert runs.state() == "COMPLETED", runs.logs()[-3000:]
    assert runs.result()["step"] == 1
    fields = "AllocCPUS,ReqMem,AllocNodes,ReqTRES"
    shown = runs.slurm.run("sacct", "-n", "-P", "-X", "-o", fields, "-j", runs.job_ids()[0]).stdout.strip()
    cpus, memory, allocated, request = shown.split("|")
    if name == "cpu":
        assert (cpus, memory) == ("2", "8G")
        assert "gres/gpu" not in request
        return
    cores, gib = PER_GPU[name]
    assert (int(cpus), int(allocated)) == (cores * gpus * nodes, nodes)
    assert f"mem={gib * gpus * nodes}G" in request or f"mem={gib * gpus * nodes / 1024:.2f}T" in request
    assert f"gres/gpu={gpus * nodes}" in request
