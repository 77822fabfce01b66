"""A run is continued, never overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.checkpoints.files import PROVENANCE_FILE

pytestmark = pytest.mark.slow

LIMIT = ("--limit", "2")


def contents(folder: Path) -> dict[str, bytes]:
    """All but what says how far the last attempt came."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "progress.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def written(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def without_time(line: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(line).items() if key != "seconds"}


@pytest.fixture
def tiny(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run folder of a copy of the finished run, in the working folder."""
    monkeypatch.chdir(workspace)
    return Path("runs/tiny")


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    tiny = finished / "runs" / "tiny"
    for name in ("manifest.resolved.yaml", "report.html", "report.md", "results.json"):
        assert (tiny / name).stat().st_size, name
    for variant in ("trained", "other"):
        assert (tiny / variant / "samples" / "perplexity.jsonl").read_text()
        result = json.loads((tiny / variant / "results" / "perplexity.json").read_text())
        assert {"benchmark", "metrics", "per_task", "settings", "provenance"} <= set(result)
    lines = [json.loads(line) for line in (tiny / "trained" / "train.jsonl").read_text().splitlines()]
    assert {"step", "loss", "learning_rate", "tokens", "tokens_per_second"} <= set(lines[-1])


def test_variants_that_share_their_training_train_once(finished: Path) -> None:
    tiny = finished / "runs" / "tiny"
    assert sorted(path.name for path in (tiny / "trained" / "checkpoints").iterdir()) == ["step-1", "step-2"]
    assert not (tiny / "other" / "checkpoints").exists()
    about = json.loads((tiny / "other" / "variant.json").read_text())
    assert (about["trained_in"], about["sampler"]) == ("trained", "entropy")


def test_running_again_trains_and_asks_nothing_twice(
    accepted: Any, finished: Path, workspace: Path, tiny: Path
) -> None:
    """What is said of the answers changes in one thing alone: the folder that the run was moved to."""
    samples = {
        name: content.replace(str(finished).encode(), str(workspace).encode())
        for name, content in contents(tiny / "trained" / "samples").items()
    }
    before = written(tiny / "trained" / "checkpoints"), samples
    log, data = (tiny / "trained" / "train.jsonl").read_bytes(), written(tiny / "data")
    accepted("run", "tiny.yaml", *LIMIT)
    assert (written(tiny / "trained" / "checkpoints"), contents(tiny / "trained" / "samples")) == before
    assert ((tiny / "trained" / "train.jsonl").read_bytes(), written(tiny / "data")) == (log, data)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["device=cuda"], "torch sees no GPU here"),
        (["train.steps=3"], "go on from step 2 with --extend, set it to 2 again, or choose another folder"),
        (["train.learning_rate=1"], "was trained with another model, data, seed or train section"),
        (["seed=1"], "keep it and choose another folder with --set output=DIR"),
        (["variants.trained=1"], "no key 'variants' that can be set"),
        (["generate.steps=3"], "was made with other settings"),
        (["generate.sampler.name=ancestral"], "was made with other settings"),
        (["evaluate.0.likelihood_draws=2", "generate.temperature=1"], "was made with other settings"),
    ],
)
def test_a_run_that_fails_changes_nothing_of_the_one_before(
    refused: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], expected: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = contents(tiny)
    overrides = [part for setting in settings for part in ("--set", setting)]
    assert expected in refused("run", "tiny.yaml", *LIMIT, *overrides)
    assert contents(tiny) == before


def test_a_variant_that_shares_a_training_run_cannot_be_moved_before_it(refused: Any, tiny: Path) -> None:
    text = Path("tiny.yaml").read_text()
    Path("tiny.yaml").write_text(text.replace("  trained: {}\n", ""))
    before = contents(tiny)
    assert "shares the training run of 'trained'" in refused("run", "tiny.yaml", *LIMIT)
    assert contents(tiny) == before


def test_a_run_that_failed_before_it_trained_can_be_mended(refused: Any, accepted: Any, tiny: Path) -> None:
    wrong = ("--set", "output=mended", "--set", "data.corpus.options.train=nowhere/*.py")
    assert "no train file matches" in refused("run", "tiny.yaml", *wrong)
    accepted("run", "tiny.yaml", "--only", "train", "--set", "output=mended")
    resolved = Path("mended/manifest.resolved.yaml").read_text()
    assert "nowhere" not in resolved


def test_only_report_writes_the_report_again_from_the_files(accepted: Any, tiny: Path) -> None:
    before = contents(tiny / "trained"), contents(tiny / "other")
    (tiny / "report.html").unlink()
    (tiny / "results.json").unlink()
    accepted("run", "tiny.yaml", "--only", "report")
    assert (tiny / "report.html").stat().st_size
    assert (tiny / "results.json").stat().st_size
    assert (contents(tiny / "trained"), contents(tiny / "other")) == before


def test_answers_cut_short_by_a_kill_are_made_again(accepted: Any, tiny: Path) -> None:
    trained = tiny / "trained"
    answers, result = trained / "samples" / "perplexity.jsonl", trained / "results" / "perplexity.json"
    whole, scores = answers.read_text(), json.loads(result.read_text())["metrics"]
    assert len(whole.splitlines()) == 2
    answers.write_text(whole[: len(whole) - 40])
    result.unlink()
    accepted("run", "tiny.yaml", *LIMIT, "--only", "evaluate", "--variant", "trained")
    assert [without_time(line) for line in answers.read_text().splitlines()] == [
        without_time(line) for line in whole.splitlines()
    ]
    assert json.loads(result.read_text())["metrics"] == scores


def test_answers_of_a_plugin_that_is_other_source_now_are_made_anew(accepted: Any, tiny: Path) -> None:
    """As if it had been edited since: it is said in one line each, and what it answered before is kept."""
    trained = tiny / "trained"
    answers = trained / "samples" / "perplexity.jsonl"
    about, made = trained / "samples" / "perplexity.about.json", answers.read_text()
    checkpoint = trained / "checkpoints" / "step-2" / PROVENANCE_FILE
    for path in (about, checkpoint):
        content = json.loads(path.read_text())
        [backbone] = [name for name in content["sources"] if name.startswith("backbones/")]
        content["sources"][backbone] = "0" * 12
        path.write_text(json.dumps(content))
    output = accepted("run", "tiny.yaml", *LIMIT, "--variant", "trained")
    lines = [line for line in output.splitlines() if "source 000000000000 then" in line]
    assert len(lines) == 2
    assert "trained: its checkpoint was trained with another" in lines[0]
    assert f"made anew, since {backbone} (source " in lines[1]
    kept = trained / "before-other-source-1" / "samples" / "perplexity.jsonl"
    assert kept.read_text() == made
    assert answers.stat().st_ino != kept.stat().st_ino
    assert json.loads(about.read_text())["sources"][backbone] != "0" * 12


def test_only_the_named_variant_is_run(accepted: Any, tiny: Path) -> None:
    other = tiny / "other" / "results" / "perplexity.json"
    trained = tiny / "trained" / "results" / "perplexity.json"
    other.unlink()
    before = trained.stat().st_mtime_ns
    only = ("--only", "evaluate", "--variant", "other")
    accepted("run", "tiny.yaml", *LIMIT, *only)
    assert other.exists()
    assert trained.stat().st_mtime_ns == before


def test_a_killed_training_goes_on_from_its_last_checkpoint(accepted: Any, tiny: Path) -> None:
    trained = tiny / "trained"
    shutil.rmtree(trained / "checkpoints" / "step-2")
    first = written(trained / "checkpoints" / "step-1")
    accepted("run", "tiny.yaml", "--only", "train")
    assert written(trained / "checkpoints" / "step-1") == first
    steps = [json.loads(line)["step"] for line in (trained / "train.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 2
