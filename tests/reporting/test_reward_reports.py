"""A run that learnt from rewards: its curves and its table, with no benchmark or with some."""

from __future__ import annotations

import json

from opendllm.core.reporting.collect import read_study
from opendllm.core.reporting.reward_reports import reward_charts, reward_table
from opendllm.core.reporting.write import write_report

from .conftest import FakeRun

PHASES = 10


def learn(run: FakeRun, name: str) -> None:
    """Two steps a phase; the reward rises from .1 to 1."""
    run.variant(name)
    lines = [{"step": 0, "held_out_pass_rate": 0.25}]
    for step in range(1, 2 * PHASES + 1):
        line = {"step": step, "loss": 0.1, "kl": 0.2, "clip_fraction": 0.5, "phase": (step + 1) // 2}
        if step % 2:
            line |= {
                "reward": (step + 1) / 2 / PHASES,
                "reward_deviation": 0.3,
                "groups_without_spread": 0.125,
            }
            line |= {"completion_length": 12.0, "ended": 0.75}
        lines.append(line)
    lines[-1]["held_out_pass_rate"] = 0.5
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / name / "train.jsonl").write_text(text)


def test_the_table_holds_the_first_and_the_last_fifth(empty_run: FakeRun) -> None:
    learn(empty_run, "rewarded")
    table = reward_table(read_study([empty_run.folder]))
    [row] = table.rows
    assert [cell.value for cell in row] == [
        "rewarded", "10", "0.150 → 0.950", "0.300", "0.125", "0.200", "0.500", "12.00", "0.750",
        "0.250 → 0.500",
    ]  # fmt: skip


def test_the_curves_are_of_phases_and_of_measurements(empty_run: FakeRun) -> None:
    learn(empty_run, "rewarded")
    rewards, passes = reward_charts(read_study([empty_run.folder]))
    assert rewards.figure["data"][0]["x"] == list(range(1, 2 * PHASES, 2))
    assert passes.figure["data"][0]["y"] == [0.25, 0.5]


def test_there_is_a_report_without_any_benchmark(empty_run: FakeRun) -> None:
    learn(empty_run, "rewarded")
    report = write_report(empty_run.folder)
    text, page = report.markdown.read_text(), report.html.read_text()
    assert "Mean reward of the answers" in page
    assert "Nothing was evaluated." in page
    assert text.index("## Learning from rewards") < text.index("## Training")
    assert page.index('<section id="rewards">') < page.index('<section id="training">')
    for empty in ("Scores", "Headline metrics", "Paired differences", "By benchmark", "## Speed", "★"):
        assert empty not in text + page.split("<main>")[1].split("<script")[0], empty
    found = json.loads(report.results.read_text())["variants"]["rewarded"]["training"]["rewards"]
    assert found["reward"] == {"first": 0.1, "last": 1.0}


def test_runs_that_learn_documents_say_nothing_of_it(run: FakeRun) -> None:
    study = read_study([run.folder])
    assert reward_table(study).rows == ()
    assert reward_charts(study) == []
    assert "Learning from rewards" not in write_report(run.folder).markdown.read_text()
