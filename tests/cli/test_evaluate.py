"""`evaluate`: a checkpoint on benchmarks without a manifest; and a grid in one, which trains once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.checkpoints.files import steps
from opendllm.registries.errors import UserError

Accepted = Callable[..., str]
Refused = Callable[..., str]


def result(folder: Path, benchmark: str = "perplexity") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results" / f"{benchmark}.json").read_text())
    return content


def test_results_equal_those_of_the_checkpoints_run(
    finished: Path, tmp_path: Path, accepted: Accepted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    variant = finished / "runs" / "tiny" / "other"
    shown = accepted(
        "evaluate", variant, "--benchmark", "perplexity", "-o", "likelihood_draws=1", "--limit", 2
    )
    assert "perplexity" in shown
    here = result(tmp_path / "runs" / "evaluation-of-tiny-other" / "checkpoint")
    there = result(variant)
    assert here.keys() == there.keys()
    for key in ("metrics", "per_task", "headline", "notes", "limit", "seed"):
        assert here[key] == there[key], key


def test_a_corpus_that_stayed_behind_is_missed_by_those_who_read_it(
    workspace: Path, accepted: Accepted, refused: Refused, here: Callable[..., tuple[Any, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(workspace)
    checkpoint = workspace / "runs" / "tiny" / "trained" / "checkpoints" / "step-2"
    provenance = checkpoint / "provenance.json"
    content = json.loads(provenance.read_text())
    options = content["manifest"]["data"]["corpus"]["options"]
    options.update(train="gone/train*.py", held_out="gone/held_out*.py")
    provenance.write_text(json.dumps(content))
    asked = ("--progress", "none", "--limit", "1", "-o", "fixed_lengths=[2]", "--output")
    accepted("evaluate", checkpoint, "--benchmark", "stdlib-infilling", *asked, "here")
    assert result(workspace / "here" / "checkpoint", "stdlib-infilling")["metrics"]
    said = refused("evaluate", checkpoint, "--benchmark", "perplexity", *asked[:4], "--output", "there")
    assert "no held-out file matches" in said
    content["manifest"]["data"]["corpus"] = {"name": "stranger\x1b", "options": {}}
    provenance.write_text(json.dumps(content))
    code, _, errors = here("evaluate", checkpoint, "--benchmark", "stdlib-infilling", *asked, "other")
    assert code == 0
    assert errors.splitlines() == [
        "note: the checkpoint was trained on corpus stranger\\x1b, whose plugin isn't installed here: no "
        "benchmark can read its held-out texts"
    ]


def test_a_corpus_that_cannot_be_read_is_said_and_not_needed(
    workspace: Path, here: Callable[..., tuple[Any, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*_: object) -> str:
        raise UserError("the hub can't be reached")

    monkeypatch.chdir(workspace)
    monkeypatch.setattr("opendllm.plugins.corpora.text_files.content_digest", unread)
    variant = workspace / "runs" / "tiny" / "trained"
    asked = ("--progress", "none", "--limit", "1", "-o", "fixed_lengths=[2]", "--output", "here")
    code, output, errors = here("evaluate", variant, "--benchmark", "stdlib-infilling", *asked)
    assert code == 0, errors
    assert "data.corpus (text-files) cannot be read, so no benchmark may ask for it: " in output
    assert result(workspace / "here" / "checkpoint", "stdlib-infilling")["settings"]["corpora"] == {}


def test_options_reach_what_they_belong_to(
    finished: Path, tmp_path: Path, accepted: Accepted, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    variant = finished / "runs" / "tiny" / "trained"
    chosen = ("--sampler", "remdm", "-o", "eta=0.1", "-o", "steps=2", "-o", "fixed_lengths=[3]")
    entry = ("-o", "samples_per_task=2", "--limit", "1", "--seed", "7", "--output", "here")
    accepted("evaluate", variant, "--benchmark", "stdlib-infilling", *chosen, *entry, "--progress", "none")
    found = result(tmp_path / "here" / "checkpoint", "stdlib-infilling")
    settings = found["settings"]
    assert settings["benchmark"]["options"] == {"fixed_lengths": [3]}
    assert settings["sampler"] == {"name": "remdm", "options": {"eta": 0.1}}
    assert settings["decoder"]["steps"] == 2
    assert found["seed"] == 7
    lines = (tmp_path / "here" / "checkpoint" / "samples" / "stdlib-infilling.jsonl").read_text().splitlines()
    assert len(lines) == 4  # two lengths, two samples
    with_others = ("--sampler", "remdm", "-o", "eta=0.2", "--output", "here", "--progress", "none")
    assert "other settings" in refused("evaluate", variant, "--benchmark", "stdlib-infilling", *with_others)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--benchmark", "perplexty"), "did you mean 'perplexity'"),
        (("--benchmark", "perplexity", "--chat"), "chat has no effect on the likelihood of a text"),
        (("--benchmark", "perplexity", "-o", "docs=3"), "did you mean 'documents'"),
        (("--benchmark", "perplexity", "--sampler", "p3"), "did you mean 'p2'"),
        (("--benchmark", "perplexity", "-o", "documents=0"), "evaluate.0.benchmark.options.documents"),
        (("--benchmark", "perplexity", "--benchmark", "perplexity"), "'perplexity' is there twice"),
        (("--benchmark", "humaneval", "--output", "x", "-o", "problems=missing.jsonl"), "missing.jsonl"),
    ],
)
def test_mistakes_are_named(
    finished: Path, refused: Refused, arguments: tuple[str, ...], said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert said in refused(
        "evaluate", finished / "runs" / "tiny" / "trained", *arguments, "--progress", "none"
    )


def test_no_checkpoint_is_no_result(tmp_path: Path, refused: Refused) -> None:
    assert "does not exist" in refused("evaluate", tmp_path / "missing", "--benchmark", "perplexity")


def test_a_grid_trains_once_and_computes_a_perplexity_once(
    untouched: Path, here: Callable[..., tuple[Any, str, str]]
) -> None:
    manifest = untouched / "tiny.yaml"
    text = manifest.read_text().split("variants:")[0]
    manifest.write_text(text.replace("generate: {steps: 2", "generate: {steps: {grid: [1, 2, 3]}"))
    code, _, errors = here("run", "tiny.yaml", "--limit", "2", "--progress", "plain")
    assert code == 0, errors
    assert errors.count("saving step 2") == 1
    runs = [untouched / "runs" / "tiny" / f"steps-{steps}" for steps in (1, 2, 3)]
    assert [len(steps(run)) for run in runs] == [2, 0, 0]
    samples = [(run / "samples" / "perplexity.jsonl").read_text().splitlines() for run in runs]
    answers = [[json.loads(line) for line in lines] for lines in samples]
    assert all(len(lines) == 2 for lines in answers)
    for first, other in zip(answers[0], answers[2], strict=True):
        assert first.pop("digest") != other.pop("digest")
        assert first.pop("seconds") > 0
        assert other.pop("seconds") == 0  # taken over, not computed again
        assert first == other
    found = [result(run) for run in runs]
    assert found[0]["metrics"] == found[1]["metrics"] == found[2]["metrics"]
    assert [each["settings"]["decoder"]["steps"] for each in found] == [1, 2, 3]
    assert [each["speed"]["seconds"] > 0 for each in found] == [True, False, False]
    assert here("run", "tiny.yaml", "--limit", "2", "--progress", "none")[0] == 0
    again = [(run / "samples" / "perplexity.jsonl").read_text().splitlines() for run in runs]
    assert again == samples
