"""`data: {contamination: N}`: a run says how much of its benchmarks it trains on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.manifest.experiment_manifest import read_experiment
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
    assert "contamination: 2 of 2 tasks of perplexity share 6 words in a row with 3 of 3" in output
    found = json.loads((folder / "contamination.json").read_text())
    assert (found["words"], found["documents"]) == (6, 3)
    counts = found["benchmarks"]["perplexity"]
    assert (counts["tasks"], counts["tasks_found"], counts["documents_found"]) == (2, 2, 3)
    assert 0 < counts["worst"][0]["share"] < 1
    for name in ("report.md", "report.html"):
        assert "Overlap with the benchmarks" in (folder / name).read_text()
    report = json.loads((folder / "results.json").read_text())
    assert report["contamination"]["tiny"]["benchmarks"]["perplexity"] == counts
    before = (folder / "contamination.json").stat().st_mtime_ns
    code, output, _ = here("run", "tiny.yaml", *WORDS, "--limit", "2", "--progress", "none")
    assert code == 0
    assert (folder / "contamination.json").stat().st_mtime_ns == before  # of the same texts: looked at once


def test_it_decides_nothing_that_is_trained(untouched: Path) -> None:
    plain, looking = (
        read_experiment(untouched / "tiny.yaml", settings, installed_plugins()).variants[0]
        for settings in ((), ("data.contamination=6",))
    )
    assert plain.training_digest == looking.training_digest
    assert plain.shared_training == looking.shared_training


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"benchmarks": 3}', '{"benchmarks": {"b": 4}, "unread": {}}']
)
def test_a_damaged_file_is_said_in_its_place(workspace: Path, content: str) -> None:
    folder = workspace / "runs" / "tiny"
    (folder / "contamination.json").write_text(content)
    text = write_report(folder).text
    assert "Overlap with the benchmarks" in text
    assert "## Scores" in text


def test_what_it_names_is_shown_as_text(workspace: Path) -> None:
    folder = workspace / "runs" / "tiny"
    worst = {"task": "<script>x</script>\x1b[2J", "share": 0.5, "document": "</table>"}
    overlap = {"tasks": 1, "tasks_found": 1, "documents_found": 1, "too_short": 0, "worst": [worst]}
    content = {"words": 13, "documents": 1, "benchmarks": {"b": overlap}, "unread": {}}
    (folder / "contamination.json").write_text(json.dumps(content))
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
    assert "contamination: humaneval is not compared: " in output
    assert "gone.jsonl" in output


def test_too_few_words_are_refused(untouched: Path, here: Here) -> None:
    code, _, errors = here("validate", "tiny.yaml", "--set", "data.contamination=1")
    assert code == 2
    assert "data.contamination" in errors
