"""common.sweep: sweep.json, and no secrets in it."""

import json
from pathlib import Path

import pytest

from common import sweep
from common.errors import UserError
from common.sweep import Point, Submission, redact, redact_values


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN=SECRET",
        "wandb.api_key=SECRET",
        "++env.WANDB_API_KEY=SECRET",
        "tracking.password='SECRET with blanks'",
        'export HF_TOKEN="SECRET"',
        '{"hf_token": "SECRET", "other": 1}',
        "token: SECRET",
        "client_secret: SECRET",
        "aws_secret_access_key = SECRET",
        "hf_token=SECRET,other=1",
        "-HF_TOKEN=SECRET\n+HF_TOKEN=SECRET",  # as in a diff
    ],
)
def test_secrets_are_blanked(text: str) -> None:
    shown = redact(text)
    assert "SECRET" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        "tokenizer=gpt2",
        "trainer.max_tokens=5",
        "num_tokens: 7",
        "trainer.monkey=1",
        "data.keyword=x",
        "trainer.learning_rate=1e-3",
        "secretary=bob",
    ],
)
def test_ordinary_names_are_kept(text: str) -> None:
    assert redact(text) == text


def test_the_neighbours_of_a_secret_are_kept() -> None:
    assert redact("a=1 HF_TOKEN=SECRET b=2") == "a=1 HF_TOKEN=*** b=2"


def test_secret_values_of_a_flat_config_are_blanked() -> None:
    config = {"wandb.api_key": "SECRET", "hub.token": None, "trainer.max_tokens": 5, "trainer.tokenizer": "gpt2"}
    assert redact_values(config) == config | {"wandb.api_key": "***"}


def submission(seed: int = 1, index: int = 0) -> Submission:
    point = Point(index, [f"trainer.seed={seed}"], {"trainer.seed": seed, "trainer.tags": ["a"]}, f"12_{index}")
    return Submission("2026-01-01T00:00:00+00:00", ["mlp-launch"], "mlp.single", "local", "local", [point])


def test_sweep_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = [submission(), submission(2, index=1)]
    assert sweep.read(tmp_path) == []
    sweep.write(tmp_path, written)
    assert sweep.read(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"submissions": [{}]}', '{"submissions": [{"points": [{"no": 1}]}]}', '{"submissions": 5}'],
)
def test_a_damaged_sweep_json_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        sweep.read(tmp_path)
    assert path.read_text() == text


def test_a_torn_sweep_json_is_refused(tmp_path: Path) -> None:
    sweep.write(tmp_path, [submission()])
    path = tmp_path / "sweep.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match="is damaged"):
        sweep.read(tmp_path)


def test_a_used_folder_takes_the_same_runs_and_refuses_others_by_key(tmp_path: Path) -> None:
    earlier = [submission(seed=1)]
    sweep.check_same_runs(tmp_path, earlier, submission(seed=1).points, [])
    sweep.check_same_runs(tmp_path, earlier, submission(seed=9, index=1).points, [])  # a further run
    with pytest.raises(UserError, match=r"another run 0: trainer\.seed: 1 -> 2"):
        sweep.check_same_runs(tmp_path, earlier, submission(seed=2).points, [])


def test_a_change_that_is_allowed_is_taken_and_told(tmp_path: Path) -> None:
    earlier = [submission(seed=1)]
    allowed = sweep.check_same_runs(tmp_path, earlier, submission(seed=2).points, ["trainer.seed"])
    assert allowed == {0: ["trainer.seed: 1 -> 2"]}
    with pytest.raises(UserError, match=r"another run 0: trainer\.seed: 1 -> 2"):
        sweep.check_same_runs(tmp_path, earlier, submission(seed=2).points, ["trainer.batch_size"])


def test_a_run_with_a_secret_may_be_resubmitted(tmp_path: Path) -> None:
    # what is on disk is blanked; what is submitted again is not yet
    earlier = submission()
    earlier.points[0].config = redact_values({"hub.token": "SECRET", "trainer.seed": 1})
    sweep.check_same_runs(tmp_path, [earlier], [Point(0, [], {"hub.token": "SECRET", "trainer.seed": 1})], [])


def test_provenance_names_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no git repository
    git, versions = sweep.provenance()
    assert git == {}
    assert versions["hydra-core"].startswith("1.3")
    json.dumps(versions)


def test_changes_of_the_code_are_told_by_commit_file_and_package() -> None:
    old, new = submission(), submission()
    diff = "diff --git a/{0} b/{0}\nindex 1..2 100644\n--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-a\n+{1}\n"
    old.git = {"commit": "1111", "diff": diff.format("kept.py", "b") + diff.format("train.py", "b")}
    new.git = {"commit": "2222", "diff": diff.format("kept.py", "b") + diff.format("train.py", "c")}
    old.versions, new.versions = {"torch": "2.14", "numpy": "2.0"}, {"torch": "2.15", "numpy": "2.0"}
    told = ["commit: 1111 -> 2222", "uncommitted changes in train.py", "torch: 2.14 -> 2.15"]
    assert sweep.code_changes(old, new) == told
    assert sweep.code_changes(new, new) == []
