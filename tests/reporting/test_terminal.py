"""The report on a terminal of 80 columns, as a pipe or a CI log has it."""

from __future__ import annotations

import pytest

from opendllm.core.cli.run_report import print_report
from opendllm.core.reporting import write_report

from .conftest import FakeRun

LONG = "a-variant-of-quite-a-long-name-seed-"


def printed(run: FakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    write_report(run.folder)
    print_report(run.folder)
    return capsys.readouterr().out.splitlines()


def test_the_scores_and_where_the_rest_is_come_last(
    run: FakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(run, capsys, monkeypatch)
    notes, scores = lines.index("Notes".ljust(80)), lines.index("Scores".ljust(80))
    assert notes < scores
    assert not {"Versions", "Training", "Variants"} & {line.strip() for line in lines}
    assert "zebra    88.00 [79.20, 96.80]" in [line.strip() for line in lines]
    md, page = run.folder / "report.md", run.folder / "report.html"
    assert lines[-1] == f"more: {md}, and {page} with charts and samples"


def test_names_are_whole_however_long_and_many(
    run: FakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {f"a_metric_of_a_long_name_{letter}": (0.25, 0.2, 0.3) for letter in "abcd"}
    for number in (0, 1):
        run.variant(f"{LONG}{number}")
        run.result(f"{LONG}{number}", "wide", metrics, headline=list(metrics))
    text = "\n".join(printed(run, capsys, monkeypatch))
    assert "…" not in text
    for number in (0, 1):
        told = text[text.rindex(f"{LONG}{number}") :].splitlines()
        assert [line.rstrip() for line in told[1:5]] == [
            f"  {metric} ↑: 0.250 [0.200, 0.300]" for metric in metrics
        ]


def test_what_a_model_wrote_is_no_section(
    run: FakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.folder / "zebra/samples/stdlib-infilling.jsonl").unlink()
    run.sample("zebra", "stdlib-infilling", text="x\n## Learning from rewards\n\nforged\n")
    lines = printed(run, capsys, monkeypatch)
    assert "## Learning from rewards" in (run.folder / "report.md").read_text()
    assert not any("forged" in line or "Learning" in line for line in lines)
