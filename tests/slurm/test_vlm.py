"""Image captioning on a real Slurm: the sweep of the seed, with one of its runs preempted on the way."""

from __future__ import annotations

import pytest

from .training import Submit, train_until

pytestmark = pytest.mark.slurm


@pytest.mark.minutes(6)
def test_sweep_of_the_seed_completes_though_preempted(submit: Submit) -> None:
    runs = submit(
        "vlm.image_captioning",
        "compute=killarney/h100_1x",
        "trainer.batch_size=8,16,32",
        "trainer.learning_rate=1e-4,5e-5",
        "assets=embedded",
        "trainer.num_epochs=1",
        "trainer.print_every=5",
        "trainer.workers=0",
        "compute.mem_gb=4",
        "compute.cpus_per_task=1",
    )
    assert len(runs.job_ids()) == 6
    train_until(runs, 1, 10)  # the first: 180 steps of 8 images
    # no partition of higher priority has these nodes; this is what Slurm does to a job that it preempts
    requeued = runs.slurm.run("scontrol", "requeue", runs.job_ids()[0])
    assert requeued.returncode == 0, requeued.stderr
    runs.wait_attempts(1, "end")
    runs.release()
    for index in range(6):
        runs.wait_state("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", index=index)
        assert runs.state(index) == "COMPLETED", runs.logs(index)[-3000:]
    assert runs.first_steps()[1] >= 10
    assert [runs.result(index)["step"] for index in range(6)] == [180, 180, 90, 90, 45, 45]
