"""`data: {contamination: N}`: a run says how much of its benchmarks it trains on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.contamination import check_contamination
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.core.progress.progress import Progress
from opendllm.core.reporting.write import write_report
from opendllm.registries.discovery import installed_plugins

Here = Callable[..., tuple[Any, str, str]]
WORDS = ("--set", "data.contamination=6")


def test_a_run_counts_and_names_what_it_trains_on(
    workspace: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run that is trained already, too: nothing is trained or answered again."""
    monkeypatch.chdir(workspace)
    folder = workspace / "runs" / "tiny"
    code, output, errors = here("run", "tiny.yaml", *WORDS, "--limit", "2", "--progress", "none")
    assert code == 0, errors
    assert "contamination: trained, other: of 2 tasks of perplexity, " in output
    [found] = json.loads((folder / "contamination.json").read_text())["corpora"]
    assert found["variants"] == ["other", "trained"]  # which train on the same: looked at once
    assert (found["corpora"], found["words"], found["documents"]) == (["text-files"], 6, 3)
    assert found["whole"]
    counts = found["benchmarks"]["perplexity"]
    assert (counts["tasks"], counts["documents_found"]) == (2, 3)
    assert counts["tasks_over"]["0.1"] == 2
    assert 0.1 < counts["worst"][0]["share"] < 1
    for name in ("report.md", "report.html"):
        assert "Overlap with the benchmarks" in (folder / name).read_text()
    report = json.loads((folder / "results.json").read_text())
    assert report["contamination"]["tiny"]["corpora"] == [found]
    before = (folder / "contamination.json").stat().st_mtime_ns
    code, output, _ = here("run", "tiny.yaml", *WORDS, "--limit", "2", "--progress", "none")
    assert code == 0
    assert (folder / "contamination.json").stat().st_mtime_ns == before  # of the same texts: looked at once


def test_each_corpus_is_looked_at_once_and_as_far_as_is_said(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    text = (workspace / "tiny.yaml").read_text().split("variants:")[0]
    fewer = "{data: {corpus: {options: {train: corpus/train_1.py}}}}"
    (workspace / "two.yaml").write_text(f"{text}variants: {{all: {{}}, one: {fewer}, same: {{}}}}\n")
    experiment = read_experiment(workspace / "two.yaml", ["data.contamination=6"], installed_plugins())
    said: list[str] = []

    def look(*names: str) -> list[tuple[list[str], int, bool]]:
        chosen = [variant for variant in experiment.variants if variant.name in names]
        check_contamination(experiment, chosen, Progress(), said.append)
        found = json.loads((experiment.output / "contamination.json").read_text())["corpora"]
        return [(entry["variants"], entry["documents"], entry["whole"]) for entry in found]

    assert look("one") == [(["one"], 1, True)]
    assert look("all") == [(["one"], 1, True), (["all"], 3, True)]
    assert sorted(look("all", "one", "same")) == [(["all", "same"], 3, True), (["one"], 1, True)]
    assert [line.split(", documents")[0] for line in said] == [
        "contamination: one: of 2 tasks of perplexity", "contamination: all: of 2 tasks of perplexity"
    ]  # fmt: skip
    shown = write_report(experiment.output).text
    assert shown.count("Overlap with the benchmarks") == 2
    assert "all, same, trained on text-files: " in shown
    monkeypatch.setattr("opendllm.core.contamination.MOST_CHARACTERS", 10)
    (experiment.output / "contamination.json").write_text('{"corpora": [3, {"key": []}]}')  # is made anew
    assert look("all") == [(["all"], 1, False)]
    assert said[-1] == "contamination: the first 1 documents were read; there are more"


def test_it_decides_nothing_that_is_trained(untouched: Path) -> None:
    plain, looking = (
        read_experiment(untouched / "tiny.yaml", settings, installed_plugins()).variants[0]
        for settings in ((), ("data.contamination=6",))
    )
    assert plain.training_digest == looking.training_digest
    assert plain.shared_training == looking.shared_training


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"benchmarks": {}}',
        '{"corpora": 3}',
        '{"corpora": [3, {"benchmarks": 3}, {"benchmarks": {"b": 4, "c": {"worst": 3, "tasks_over": 3}}}]}',
    ],
)
def test_a_damaged_file_is_said_in_its_place(workspace: Path, content: str) -> None:
    folder = workspace / "runs" / "tiny"
    (folder / "contamination.json").write_text(content)
    text = write_report(folder).text
    assert "Overlap with the benchmarks" in text
    assert "## Scores" in text


def test_how_fast_it_was_read_has_its_unit(workspace: Path) -> None:
    folder = workspace / "runs" / "tiny"
    entry = {"benchmarks": {}, "documents": 3, "characters": 11_600_000, "seconds": 2.0}
    (folder / "contamination.json").write_text(json.dumps({"corpora": [entry]}))
    assert "(11.6 million characters, 5.8 million a second)" in write_report(folder).text


def test_what_it_names_is_shown_as_text(workspace: Path) -> None:
    folder = workspace / "runs" / "tiny"
    worst = {"task": "<script>x</script>\x1b[2J", "share": 0.5, "document": "</table>"}
    counts = {"tasks": 1, "tasks_over": {"0.1": 1}, "documents_found": 1, "too_short": 0, "worst": [worst]}
    entry = {"variants": ["<b>"], "corpora": ["c"], "words": 13, "benchmarks": {"b": counts}, "unread": {}}
    (folder / "contamination.json").write_text(json.dumps({"corpora": [entry]}))
    report = write_report(folder)
    assert "\x1b" not in report.text
    assert "<script>x" not in report.html.read_text()
    assert "50%" in report.text


def test_a_benchmark_that_cannot_be_had_is_named(
    workspace: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    more = "evaluate=[{benchmark: {name: humaneval, options: {problems: gone.jsonl}}}]"
    arguments = ("run", "tiny.yaml", *WORDS, "--set", more, "--only", "train", "--progress", "none")
    code, output, errors = here(*arguments)
    assert code == 0, errors
    assert "humaneval is not compared: " in output
    assert "gone.jsonl" in output


def test_too_few_words_are_refused(untouched: Path, here: Here) -> None:
    code, _, errors = here("validate", "tiny.yaml", "--set", "data.contamination=1")
    assert code == 2
    assert "data.contamination" in errors
