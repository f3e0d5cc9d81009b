"""`vec-jobs report`, on sweep folders as the launcher and the runs write them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from common import attempts, sweep
from common.errors import UserError
from tests.chromium import chromium
from tests.conftest import SEED
from vec_jobs.charts import learning_curves
from vec_jobs.facts import curves, gather
from vec_jobs.importance import importances
from vec_jobs.report import write
from vec_jobs.sweeps import Sweep

pytestmark = pytest.mark.browser  # all of them: the libraries that draw take seconds

MARKUP = "<img src=x onerror=\"document.title='executed'\"></script><script>document.title='executed'</script>"


@dataclass
class Made:
    """A run to write: its hyperparameters, its final metrics (None: it was killed), its log."""

    values: dict[str, Any] = field(default_factory=dict)
    final: dict[str, float] | None = None
    losses: list[float] = field(default_factory=list)
    failed: str = ""


def make(folder: Path, runs: list[Made], objective: str = "eval_loss", direction: str = "minimize") -> Sweep:
    """The sweep, as if it had been run in the launching process: no scheduler is asked for its states."""
    points: list[sweep.Point] = []
    for index, run in enumerate(runs):
        out_dir = folder / str(index) / "outputs"
        out_dir.mkdir(parents=True)
        config = {"template": "mlp.single"} | {f"trainer.{name}": value for name, value in run.values.items()}
        overrides = [f"trainer.{name}={value}" for name, value in run.values.items()]
        points.append(sweep.Point(index, overrides, config))
        attempts.start(out_dir, "1")
        attempts.resume(out_dir, step=0, restore_s=0.0)
        if run.losses:
            lines = [{"step": i, "time_s": i / 10, "attempt": 1, "loss": loss} for i, loss in enumerate(run.losses, 1)]
            (out_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if run.final is not None:
            (out_dir / "result.json").write_text(json.dumps({"step": len(run.losses), "metrics": run.final}))
            attempts.end(out_dir, "completed")
        elif run.failed:
            attempts.end(out_dir, run.failed)
    submission = sweep.Submission(
        "2026-11-20T10:00:00+00:00", ["mlp-launch", "single"], "mlp.single", "local", "inprocess", points,
        objective=objective, direction=direction,
    )  # fmt: skip
    sweep.write(folder, [submission])
    return Sweep(folder)


def grid(count: int) -> list[Made]:
    """Runs whose eval_loss depends on the learning rate alone; the width is drawn at random and has no effect."""
    draw = random.Random(SEED)
    runs: list[Made] = []
    for i in range(count):
        rate = 10 ** -(1 + i % 4)
        losses = [2.0 / (1 + rate * step) for step in range(30)]
        values = {"learning_rate": rate, "width": draw.choice([32, 64, 128])}
        runs.append(Made(values, {"eval_loss": abs(rate - 0.01) + 0.1, "eval_accuracy": 0.9}, losses))
    return runs


def text_of(sweep: Sweep, tmp_path: Path) -> str:
    return Path(write(sweep, tmp_path / "report")["report"]).read_text(encoding="utf-8")


def test_the_best_run_is_that_of_the_objective_in_its_direction(tmp_path: Path) -> None:
    runs = [Made({"seed": i}, {"eval_loss": loss, "eval_accuracy": 1 - loss}) for i, loss in enumerate((0.3, 0.1, 0.2))]
    least = gather(make(tmp_path / "least", runs))
    most = gather(make(tmp_path / "most", runs, "eval_loss", "maximize"))
    assert [run.index for run in least.scored] == [1, 2, 0]
    assert [run.index for run in most.scored] == [0, 2, 1]


def test_only_what_differs_is_a_hyperparameter_and_has_its_whole_name_where_the_last_part_is_not_enough(
    tmp_path: Path,
) -> None:
    runs = [Made({"a.rate": i, "b.rate": 2 * i, "depth": 3, "width": i}, {"eval_loss": 1.0}) for i in range(2)]
    assert gather(make(tmp_path / "s", runs)).names == ["trainer.a.rate", "trainer.b.rate", "width"]


def test_the_importance_is_that_of_the_hyperparameter_that_matters(tmp_path: Path) -> None:
    facts = gather(make(tmp_path / "s", grid(24)))
    shares, sentence = importances(facts)
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.9
    assert sum(shares.values()) == pytest.approx(1.0)
    assert "over 24 completed runs" in sentence
    assert importances(facts)[0] == shares  # the forest has a seed


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        (grid(7), "it takes 8 completed runs with the objective to tell importances, and there are 7"),
        ([Made({"seed": i}, {"eval_loss": 1.0}) for i in range(9)], "eval_loss is the same in all completed runs"),
        ([Made({"seed": 1}, {"eval_loss": i}) for i in range(9)], "no hyperparameter differs"),
        ([Made({"seed": i}, {"accuracy": i}) for i in range(9)], "and there are 0"),
        (
            [Made({"seed": i}, {"eval_loss": i * 7 % 10}) for i in range(10)],
            "no more of the eval_loss of another run than their mean",
        ),
    ],
)
def test_no_importance_is_told_where_there_is_none_to_tell(tmp_path: Path, runs: list[Made], reason: str) -> None:
    shares, sentence = importances(gather(make(tmp_path / "s", runs)))
    assert shares == {}
    assert reason in sentence


def test_long_curves_are_thinned_and_the_report_says_so(tmp_path: Path) -> None:
    facts = gather(make(tmp_path / "s", [Made({"seed": 1}, {"eval_loss": 1.0}, [1 / (i + 1) for i in range(3000)])]))
    (curve,), (note,) = curves(facts)
    assert len(curve.points) == 500
    assert (curve.points[0][1], curve.points[-1][1]) == (1, 3000)
    assert note == "Long curves are thinned to 500 points each; metrics.jsonl of each run has all."


def test_curves_of_many_runs_stay_few_enough_for_a_browser(tmp_path: Path) -> None:
    runs = [Made({"seed": i}, {"eval_loss": 1.0}, [1.0] * 400) for i in range(400)]
    (curve,), _ = curves(gather(make(tmp_path / "s", runs)))
    assert len(curve.points) == 400 * 250


def test_values_of_many_runs_are_grouped_for_the_legend(tmp_path: Path) -> None:
    facts = gather(make(tmp_path / "s", [Made({"rate": i / 7}, {"eval_loss": 1.0}, [1.0, 0.5]) for i in range(60)]))
    chart = learning_curves(facts, curves(facts)[0], "rate")
    assert chart is not None
    rows = next(data for data in chart.to_dict()["datasets"].values() if "label" in data[0])
    assert len({row["c0"] for row in rows}) == 6
    assert [row["c0_order"] for row in rows] == sorted(row["c0_order"] for row in rows)


@pytest.mark.parametrize(
    ("runs", "sentences"),
    [
        pytest.param(
            [Made({"seed": i}, {"eval_loss": float(i)}) for i in range(2)],
            ["No run has logged a metric yet.", "Best is <b>run 0</b>"],
            id="no metrics",
        ),
        pytest.param(
            [Made({"seed": 1}, {"eval_loss": 0.5}, [1.0, 0.5])],
            ["Best is <b>run 0</b>", "it takes two completed runs", "no hyperparameter differs"],
            id="one run",
        ),
        pytest.param(
            [Made({"seed": i}, None, [1.0], "NonFiniteError: loss is nan") for i in range(2)],
            ["There is no best run: no completed run has the metric eval_loss.", "it has left no result"],
            id="failures only",
        ),
    ],
)
def test_a_sweep_that_lacks_something_gets_a_report_that_says_so(
    tmp_path: Path, runs: list[Made], sentences: list[str]
) -> None:
    text = text_of(make(tmp_path / "s", runs), tmp_path)
    for sentence in sentences:
        assert sentence in text


def test_a_report_replaces_the_pictures_of_the_one_before_and_touches_no_run(tmp_path: Path) -> None:
    made = make(tmp_path / "s", [Made({"seed": i}, {"eval_loss": float(i)}) for i in range(2)])
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    folder = tmp_path / "with space 'and' ünïcode"
    folder.mkdir()
    (folder / "curves.png").write_text("of an earlier report")
    written = write(made, folder)
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == before
    assert sorted(path.name for path in folder.iterdir()) == ["goodput.png", "parallel.png", "report.html"]
    assert written["best"] == {"run": 0, "values": {"seed": 0}, "metrics": {"eval_loss": 0.0}}
    assert Path(written["pictures"][0]).read_bytes().startswith(b"\x89PNG")


def vec_jobs(*words: str | Path, without: str = "") -> subprocess.CompletedProcess[str]:
    """The command; in an environment that lacks a library, if one is named."""
    program = f"import sys; sys.modules.update(dict.fromkeys({without.split()})); from vec_jobs.cli import app; app()"
    return subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)


def test_without_its_libraries_the_report_says_how_to_get_them_and_the_other_verbs_work(tmp_path: Path) -> None:
    make(tmp_path / "s", [Made({"seed": 1}, {"eval_loss": 1.0})])
    libraries = "altair itables jinja2 pandas sklearn vl_convert"
    refused = vec_jobs("report", tmp_path / "s", without=libraries)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "uv run --package common --extra report vec-jobs report" in refused.stderr
    assert vec_jobs("status", tmp_path / "s", without=libraries).returncode == 0


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"^The report cannot be written \(.*/file'\): say where with --out <folder>\.$"
    ):
        write(make(tmp_path / "s", [Made({"seed": 1}, {"eval_loss": 1.0})]), tmp_path / "file")


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    with chromium(1200, 2600) as driver:
        yield driver


def cells(browser: webdriver.Chrome, column: int) -> list[str]:
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, f"#runs tbody td:nth-child({column})")]


def test_a_browser_shows_the_report_sorts_its_table_and_asks_no_network(
    tmp_path: Path, browser: webdriver.Chrome
) -> None:
    runs = grid(12)
    for run in runs:
        run.values["note"] = "plain"
    runs[1].values["note"] = MARKUP  # the best one's
    runs.append(Made({"learning_rate": 9.0, "width": 64, "note": 'new\nline "quoted" ü'}, None, [1.0], MARKUP))
    report = write(make(tmp_path / "it's a sweep", runs), tmp_path / "it's a report")["report"]

    browser.get(Path(report).as_uri())
    drawn = "return [...document.querySelectorAll('.vega-embed canvas')].filter(one => one.height > 50).length"
    WebDriverWait(browser, 60).until(lambda page: page.execute_script(drawn) == 4 and len(cells(page, 1)) == 13)

    assert [head.text for head in browser.find_elements(By.CSS_SELECTOR, "#runs thead th")][:5] == [
        "run", "state", "eval_loss", "eval_accuracy", "learning_rate",
    ]  # fmt: skip
    losses = cells(browser, 3)
    assert losses[:12] == [f"{loss:.4g}" for loss in sorted(run.final["eval_loss"] for run in runs if run.final)]
    assert losses[12] == ""  # without the metric: last
    assert {row.text for row in browser.find_elements(By.CSS_SELECTOR, "#runs td.best:first-child")} == {"1"}

    head = browser.find_elements(By.CSS_SELECTOR, "#runs thead th")[4]
    assert head.text == "learning_rate"
    head.click()
    rates = sorted(run.values["learning_rate"] for run in runs)
    wait_for = WebDriverWait(browser, 30)
    wait_for.until(lambda page: [float(rate) for rate in cells(page, 5)] == rates)
    head.click()
    wait_for.until(lambda page: [float(rate) for rate in cells(page, 5)] == rates[::-1])

    assert MARKUP in cells(browser, 7)  # shown, not executed
    assert browser.title == "it's a sweep"
    pixels = "document.querySelector('#curves canvas').getContext('2d').getImageData(0, 0, 800, 300).data"
    assert browser.execute_script(f"return new Set({pixels}).size") > 20  # lines and axes, not a blank

    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert Path(report).as_uri() in asked
    assert [url for url in asked if url.startswith(("http", "ws"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []

    fetch = "addEventListener('securitypolicyviolation', event => arguments[0](event.blockedURI)); fetch('http://a.example/')"
    assert browser.execute_async_script(fetch) == "http://a.example/"  # nor could it

    picture = tmp_path / "report.png"
    assert browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 50_000
