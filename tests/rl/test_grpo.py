"""rl.grpo with embedded assets: it learns, resumes exactly, and tells what is wrong with rewards, judge and request."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.errors import UnavailableError
from common.paths import read_lines
from rl.grpo import rewards
from rl.grpo.judge import Judge
from rl.grpo.schema import JudgeFields
from tests.conftest import Cli, Refused
from tests.events import shown
from tests.rl import server

TEMPLATE = "rl.grpo"
SHORT = ["trainer.num_epochs=1", "trainer.num_generations=8", "trainer.batch_size=32", "trainer.accumulation=2"]
OFTEN = ["trainer.logging_steps=3", "trainer.save_steps=50", "trainer.eval_steps=40"]
SERVER = f"rollout.command=[{sys.executable},{server.__file__},'{{model}}','{{port}}']"


@pytest.mark.learns
@pytest.mark.minutes(2)
def test_finds_the_largest_of_three_digits(run: Callable[..., Path]) -> None:
    # seed 42 of the template; 0.96 measured, of an untrained model
    out_dir = run(TEMPLATE, "assets=embedded", "trainer.eval_steps=10")
    lines = [line for line in read_lines(out_dir / "metrics.jsonl") if "eval_regex_match" in line]
    assert lines[0]["eval_regex_match"] < 0.4  # after ten steps
    assert json.loads((out_dir / "result.json").read_text())["metrics"]["eval_regex_match"] >= 0.9
    (sample, *_) = read_lines(out_dir / "samples" / f"step-{lines[-1]['step']}.jsonl")
    assert sample.keys() == {"prompt", "completion", "target", "regex_match", "format"}
    assert shown(out_dir).Tensors("samples/text_summary")[-1].step == lines[-1]["step"]


@pytest.mark.learns
@pytest.mark.minutes(3)
def test_stopped_at_random_steps_ends_as_the_uninterrupted_run(drill: Callable[..., None]) -> None:
    # each completion is learnt from twice: half of all steps begin with completions of the step before
    drill(TEMPLATE, "assets=embedded", *SHORT, *OFTEN, "trainer.num_iterations=2")


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_two_processes_share_the_completions(run: Callable[..., Path]) -> None:
    few = ["trainer.num_epochs=1", "trainer.batch_size=64", "trainer.num_generations=128", "trainer.eval_steps=100"]
    uneven = ["assets.eval_rows=5", "trainer.eval_batch_size=2"]  # two batches here, one there
    out_dir = run(TEMPLATE, "assets=embedded", "assets.train_rows=40", *few, *uneven, "compute.tasks_per_node=2")
    assert json.loads((out_dir / "result.json").read_text())["step"] == 40  # one prompt a step, over both processes


@pytest.mark.learns
@pytest.mark.minutes(1)
def test_a_server_that_goes_is_waited_for_and_the_run_saves_before_it_fails(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    # it ends by itself after 30 requests, and there is no other; its start, with torch, takes up to 20 s
    mortal = SERVER.replace("'{port}'", "'{port}',30")
    where = ["rollout=vllm_server", "rollout.compute=local", mortal, "rollout.wait_min=1"]
    done = launch(TEMPLATE, "assets=embedded", *where, *SHORT, "trainer.eval_steps=500", "trainer.save_steps=500")
    out_dir = tmp_path / "vec_jobs" / "test" / "0" / "outputs"
    assert done.returncode == 1
    assert "no rollout server for 1 min (rollout.wait_min)" in done.stdout
    steps = [line["step"] for line in read_lines(out_dir / "attempts.jsonl") if line["event"] == "save"]
    assert steps
    assert (out_dir / f"checkpoint-{steps[-1]}" / "manifest.json").exists()


# ----- rewards -----

BATCH = {
    "prompts": ["1,2=", "3,1="],
    "completions": ["so #### 2", "so #### 1"],
    "target": ["2", "3"],
    "completion_ids": [[1] * 10, [1] * 30],
}


def test_named_rewards() -> None:
    math = {"completions": ["It is $\\frac{1}{2}$", "It is 0.4"], "target": ["0.5", "0.5"]}
    assert rewards.math_verify(**math) == [1.0, 0.0]
    assert rewards.regex_match(r"####\s*(.+)", **BATCH) == [1.0, 0.0]
    assert rewards.has_format(r".*####\s*\S+", completions=["so #### 2", "2"]) == [1.0, 0.0]
    assert rewards.length_penalty(20, **BATCH) == [0.0, -0.5]
    talk = [[{"role": "assistant", "content": "#### 2"}]]
    assert rewards.regex_match(r"####\s*(.+)", talk, ["2"]) == [1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "reward mine gave 1 rewards for 2 completions"),
        ([1.0, float("nan")], "reward mine is nan for the prompt '3,1=' and the completion 'so #### 1'"),
        ([1.0, float("inf")], "reward mine is inf for"),
    ],
)
def test_what_is_no_reward_is_told_with_its_prompt(values: list[float], message: str) -> None:
    with pytest.raises(rewards.RewardError, match=message):
        rewards.checked("mine", lambda **_: list(values))(**BATCH)


def test_a_reward_that_raises_is_told_with_the_prompt_it_raises_for() -> None:
    def mine(completions: list[str], **_: Any) -> list[float | None]:
        return [1 / (text != "so #### 1") for text in completions]

    with pytest.raises(rewards.RewardError, match=r"reward mine raised ZeroDivisionError: .*, for the prompt '3,1='"):
        rewards.checked("mine", mine)(**BATCH)


def test_none_means_that_a_reward_does_not_apply() -> None:
    assert rewards.checked("mine", lambda **_: [None, 1.0])(**BATCH) == [None, 1.0]


# ----- the judge -----


class FakeJudge(BaseHTTPRequestHandler):
    """Speaks OpenAI's protocol; the answer is 8, or a fault as often as `faults` says."""

    faults = 0
    asked: list[float]

    def do_POST(self) -> None:
        kind = type(self)
        kind.asked.append(time.monotonic())
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        fault, kind.faults = kind.faults > 0, kind.faults - 1
        content = {"choices": [{"index": 0, "message": {"role": "assistant", "content": f"8 for {question}"}}]}
        data = json.dumps(content).encode()
        self.send_response(503 if fault else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def fake_judge() -> Iterator[str]:
    FakeJudge.faults, FakeJudge.asked = 0, []
    with ThreadingHTTPServer(("localhost", 0), FakeJudge) as judge:
        threading.Thread(target=judge.serve_forever, daemon=True).start()
        yield f"http://localhost:{judge.server_port}/v1"
        judge.shutdown()


def judge_at(url: str, **others: Any) -> Judge:
    values = {"model": "j", "prompt": "{prompt}{completion}{target}", "api_key_env": "KEY", "timeout_s": 5.0}
    return Judge(JudgeFields(base_url=url, **(values | {"retries": 2, "at_once": 2} | others)))


def test_the_judge_is_asked_again_after_a_fault(fake_judge: str) -> None:
    FakeJudge.faults = 2
    assert judge_at(fake_judge, at_once=1)(**BATCH) == [0.8, 0.8]
    assert len(FakeJudge.asked) == 4


def test_the_judge_is_not_asked_more_often_than_it_may_be(fake_judge: str) -> None:
    begun = time.monotonic()
    judge_at(fake_judge, requests_per_min=300)(**{name: values * 3 for name, values in BATCH.items()})
    assert len(FakeJudge.asked) == 6
    assert all(at >= begun + 0.2 * place for place, at in enumerate(sorted(FakeJudge.asked)))  # 300 a minute


def test_a_judge_that_is_down_is_named() -> None:
    with pytest.raises(UnavailableError, match="the judge j at http://localhost:9/v1 does not answer"):
        judge_at("http://localhost:9/v1", retries=0)(**BATCH)


@pytest.mark.learns
@pytest.mark.minutes(1)
@pytest.mark.parametrize(("requests", "step"), [(200, 3), (330, 5)], ids=["in a step", "in an evaluation"])
def test_a_run_whose_judge_goes_down_saves_before_it_fails(
    launch: Callable[..., Any], tmp_path: Path, fake_judge: str, requests: int, step: int
) -> None:
    FakeJudge.faults = -(10**9)

    def break_later() -> None:
        while len(FakeJudge.asked) < requests:  # 64 a step, and 100 for an evaluation
            time.sleep(0.002)
        FakeJudge.faults = 10**9

    threading.Thread(target=break_later, daemon=True).start()
    judged = [
        "trainer.rewards=[regex_match,judge]",
        f"trainer.judge.base_url={fake_judge}",
        "trainer.judge.retries=1",
        "trainer.logging_steps=1",
    ]
    done = launch(TEMPLATE, "assets=embedded", *SHORT, *judged, "trainer.eval_steps=5", "trainer.save_steps=500")
    assert done.returncode == 1
    assert f"the judge judge at {fake_judge} does not answer" in done.stdout
    out_dir = tmp_path / "vec_jobs" / "test" / "0" / "outputs"
    (saved,) = [line["step"] for line in read_lines(out_dir / "attempts.jsonl") if line["event"] == "save"]
    assert saved == step
    assert [line["step"] for line in read_lines(out_dir / "metrics.jsonl")] == list(range(1, step + 1))


# ----- mistakes -----


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.batch_size=10"], "a step has 10 completions (trainer.batch_size=10 x trainer.accumulation=1 x 1"),
        (["trainer.num_generations=1"], "trainer.num_generations=1: at least 2 completions are compared"),
        (["trainer.rewards=[nothing,format]"], "nothing is none of math_verify, regex_match, format, length_penalty,"),
        (["trainer.rewards=[nothing.at_all,format]"], "there is no module nothing: write my_module.my_reward"),
        (["trainer.rewards=[json.no_reward,format]"], "has no no_reward"),
        (["trainer.reward_weights=[1]"], "trainer.rewards has 2 entries, trainer.reward_weights 1"),
        (["trainer.answer_pattern='####'"], "trainer.answer_pattern=#### has no group ( ) that says what counts"),
        (["trainer.format_pattern='['"], "trainer.format_pattern=[ is no regular expression"),
        (["trainer.max_new_tokens=16"], "trainer.max_new_tokens=16 leaves no room for a prompt"),
        (["rollout=vllm_server"], "rollout=vllm_server runs in a job of its own: say where with rollout.compute="),
        (["rollout.compute=local"], "rollout=transformers has no job of its own: leave out rollout.compute"),
        (["rollout=vllm_server", "rollout.compute=locl"], "compute=locl: no such preset. Valid:"),
        (["rollout=vllm_server", "rollout.compute=local", "trainer.lora.rank=4"], "take trainer.lora.rank=0"),
        (["rollout=vllm_server", "rollout.compute=killarney/l40s_1x"], "the run is on local, its rollout on slurm"),
        (["rollout=vllm_colocate"], "needs vLLM in this environment: uv run --package rl --extra vllm rl-launch ..."),
        (["assets=hub"], "The model Qwen/Qwen2.5-1.5B-Instruct is not in the hub's cache. Fetch it with"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_queued(
    refused: Refused, overrides: list[str], message: str
) -> None:
    assert message in refused(TEMPLATE, "assets=embedded", *overrides)


def test_the_defaults_are_those_of_the_reference(cli: Cli) -> None:
    shown = cli("--cfg", "job", template=TEMPLATE).out
    for line in ("model: Qwen/Qwen2.5-1.5B-Instruct", "data: openai/gsm8k", "train_rows: 1000", "eval_rows: 100"):
        assert line in shown
    for line in ("learning_rate: 1.0e-05", "max_length: 2048", "kind: transformers"):
        assert line in shown
