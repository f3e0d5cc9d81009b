"""Does a run that is stopped end as one that is not? Tries it: two real runs, real signals, one comparison.

    <folder>/straight/       the run, left alone
    <folder>/interrupted/    the same run, stopped at moments drawn from a seed

The runs are submitted with the template's own launcher, so the drill works for every template that has one.
"""

import json
import random
import signal as signals
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from common import attempts, jobs, slurm, sweep
from common.config import require
from common.errors import UserError
from common.paths import last_line, read_lines

SIGNALS = ("USR1", "USR2", "TERM", "KILL")  # the run requeues itself after the first two; else it is submitted again
_POLL_S = 0.2
_ASK_S = 2.0  # between two questions to the scheduler
_NOT_COMPARED = ("time_s", "attempt")
_SAY_EVERY_S = 10.0


class Run:
    """One of the two runs: run 0 of a work directory."""

    def __init__(self, name: str, template: str, overrides: list[str], folder: Path) -> None:
        self.name = name
        self.work_dir = folder / name
        self.out_dir = self.work_dir / "0" / "outputs"
        module = template.replace("/", ".")
        placed = [f"paths.work_dir={self.work_dir}", "hydra.launcher.wait=false"]
        self._command = [sys.executable, "-m", f"{module}.launch", *overrides, *placed]
        self._asked = 0.0
        self._state = "UNKNOWN"

    def submit(self) -> None:
        """Queue it, or queue it again.

        Raises:
            UserError: what the launcher said.
        """
        done = subprocess.run(self._command, capture_output=True, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
            raise UserError(f"the {self.name} run could not be submitted: {last.removeprefix('Error: ')}")
        points = self._submission().points
        require(len(points) == 1, f"a drill takes one run, not a sweep of {len(points)}")
        require(points[0].job_id is not None, "compute=inprocess cannot be stopped and resumed: use compute=local")
        self._asked = 0.0

    def state(self) -> str:
        """What the scheduler says, asked now and then."""
        if time.monotonic() - self._asked > _ASK_S:
            self._state = jobs.states(*self._where(), [self.job_id])[self.job_id].state
            self._asked = time.monotonic()
        return self._state

    @property
    def job_id(self) -> str:
        return str(self._submission().points[0].job_id)

    def send(self, sig: signals.Signals) -> None:
        jobs.send(*self._where(), self.job_id, sig)

    def hurry(self) -> None:
        """Spare a requeued job Slurm's hold."""
        if self._submission().executor == "slurm":
            slurm.start_soon(self.job_id)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in attempts.read(self.out_dir) if event["event"] == name]

    def series(self) -> list[dict[str, Any]]:
        """The logged metrics, without what may differ."""
        lines = read_lines(self.out_dir / "metrics.jsonl")
        return [{key: value for key, value in line.items() if key not in _NOT_COMPARED} for line in lines]

    def step(self) -> int:
        return int(last_line(self.out_dir / "metrics.jsonl").get("step", 0))

    def result(self) -> dict[str, Any]:
        return json.loads((self.out_dir / "result.json").read_text())

    def logs(self) -> str:
        return f"{self.work_dir}/submitit_logs"

    def _submission(self) -> sweep.Submission:
        return sweep.read(self.work_dir)[-1]

    def _where(self) -> tuple[str, str]:
        return self._submission().executor, f"{self.work_dir}/submitit_logs/%j"


class Drill:
    """Both runs and their comparison.

    Args:
        template: `package/template`.
        overrides: of the launcher, e.g. `["compute=local", "trainer.num_epochs=20"]`.
        stops: how often the second run is stopped, at one random step in each of as many equal parts of the run.
        signal: one of SIGNALS.
        folder: for both runs; it must be new.

    Raises:
        UserError: nothing was started.
    """

    def __init__(
        self, template: str, overrides: list[str], stops: int, seed: int, signal: str, folder: Path | None
    ) -> None:
        require(template.count("/") == 1, f"{template}: name the template as package/template, e.g. mlp/single")
        require(signal in SIGNALS, f"--signal is one of {', '.join(SIGNALS)}, not {signal}")
        name = f"{template.replace('/', '.')}-{datetime.now():%Y%m%d-%H%M%S}"
        self.folder = (folder or Path("vec_drills") / name).resolve()
        require(not self.folder.exists(), f"{self.folder} exists already: give another --folder")
        self._stops = stops
        self._signal = signals.Signals[f"SIG{signal}"]
        self._draw = random.Random(seed)
        self._straight = Run("straight", template, overrides, self.folder)
        self._interrupted = Run("interrupted", template, overrides, self.folder)
        self._said = 0.0

    def run(self) -> bool:
        """Both runs, then the comparison.

        Returns:
            Whether they ended the same.

        Raises:
            UserError: a run failed, or ended before all stops.
        """
        self._say(f"both runs go to {self.folder}")
        self._straight.submit()
        self._until_completed(self._straight)
        steps = int(self._straight.result()["step"])
        self._say(f"straight: {steps} steps in {self._straight.result()['seconds']:.0f} s")
        self._interrupted.submit()
        part = steps / (self._stops + 1)
        for stop in range(1, self._stops + 1):
            self._stop(stop, int(part * (stop - 1) + self._draw.uniform(0.1, 1) * part))
        self._until_completed(self._interrupted)
        return self._compare()

    def _stop(self, stop: int, step: int) -> None:
        run = self._interrupted
        self._wait(run, lambda: len(run.events("resume")) >= stop, f"attempt {stop}")
        self._wait(run, lambda: run.step() >= step, f"step {step}")
        before = run.step()
        run.send(self._signal)
        if self._signal in (signals.SIGUSR1, signals.SIGUSR2):
            self._wait(run, lambda: len(run.events("requeue")) >= stop, "the requeue")
            self._wait(run, lambda: run.state() == "PENDING" or len(run.events("start")) > stop, "the requeue")
            run.hurry()
        else:
            self._wait(run, lambda: run.state() in ("FAILED", "CANCELLED"), "its end")
            run.submit()
        self._say(f"stop {stop} of {self._stops}: {self._signal.name} at step {before}")

    def _until_completed(self, run: Run) -> None:
        self._wait(run, lambda: run.state() == "COMPLETED" and (run.out_dir / "result.json").exists(), "its end")

    def _wait(self, run: Run, ready: Callable[[], bool], what: str) -> None:
        while not ready():
            state = run.state()
            if state == "COMPLETED" and not ready():
                raise UserError(
                    f"the {run.name} run completed before {what}: let it run longer, or ask for fewer --stops"
                )
            if state not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "UNKNOWN", "COMPLETED") and not ready():
                raise UserError(f"the {run.name} run is {state}, waiting for {what}: see {run.logs()}")
            if time.monotonic() - self._said > _SAY_EVERY_S:
                self._say(f"{run.name}: {state}, step {run.step()}, waiting for {what}")
            time.sleep(_POLL_S)

    def _compare(self) -> bool:
        ours, theirs = self._straight.series(), self._interrupted.series()
        resumed = [event["step"] for event in self._interrupted.events("resume")]
        self._say(f"interrupted: {len(resumed)} attempts, begun at the steps {', '.join(map(str, resumed))}")
        for straight, interrupted in zip(ours, theirs, strict=False):
            if straight != interrupted:
                self._say(f"NOT equal: they first differ at step {straight['step']}: {straight} against {interrupted}")
                return False
        if len(ours) != len(theirs):
            self._say(f"NOT equal: {len(ours)} log lines against {len(theirs)}")
            return False
        for key in ("step", "metrics", "parameters_sha256"):
            if self._straight.result()[key] != self._interrupted.result()[key]:
                was, now = self._straight.result()[key], self._interrupted.result()[key]
                self._say(f"NOT equal: {key} of the results: {was} against {now}")
                return False
        digest = str(self._straight.result()["parameters_sha256"])[:12]
        self._say(f"equal: {len(ours)} log lines, the final metrics, and the parameters (sha256 {digest}…)")
        return True

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        print(line, flush=True)
