"""SantaCoder-FIM: both matches, both protocols, and controls that must fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opendllm.plugins.benchmarks import SantacoderFimOptions
from opendllm.plugins.benchmarks.santacoder_fim import SantacoderFim
from opendllm.registries.benchmarks import BenchmarkContext, GeneratedText, Scores
from opendllm.registries.errors import UserError

PROBLEMS = [
    {
        "name": f"{language}_{number}.json-L2",
        "language": language,
        "prompt": f"def f{number}(a):",
        "suffix": "    return b\n",
        "canonical_solution": f"    b = a + {number}",
        "tests": "",
    }
    for language in ("py", "js")
    for number in range(4)
]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, PROBLEMS)))
    return path


def benchmark(problems: Path, limit: int | None = None, **options: Any) -> tuple[SantacoderFim, Any]:
    built = SantacoderFim(SantacoderFimOptions(problems=str(problems), **options))
    return built, built.requests(BenchmarkContext(limit, 0, 64, lambda: iter(())))


def score(built: SantacoderFim, texts: list[str], **fields: Any) -> Scores:
    answers = [
        GeneratedText(f"py/py_{number}.json-L2", "default", 0, text, **fields)
        for number, text in enumerate(texts)
    ]
    return built.score(answers)


def values(scores: Scores) -> dict[str, float]:
    return {name: metric.value for name, metric in scores.metrics.items()}


def test_gold_lines_match_however_they_are_given(problems: Path) -> None:
    built, _ = benchmark(problems)
    gold = [problem["canonical_solution"] for problem in PROBLEMS[:4]]
    whole = ["\n".join([p["prompt"], p["canonical_solution"], p["suffix"]]) for p in PROBLEMS[:4]]
    expected = {"exact_match": 1, "exact_match_first_line": 1, "empty": 0, "unparsable": 0}
    assert values(score(built, gold, form="completion")) == expected
    assert values(score(built, whole, form="solution")) == expected


def test_a_neighbours_line_nothing_and_a_foreign_program_match_nowhere(problems: Path) -> None:
    built, _ = benchmark(problems)
    gold = [problem["canonical_solution"] for problem in PROBLEMS[:4]]
    for texts, form in (
        (gold[1:] + gold[:1], "completion"),
        ([""] * 4, "completion"),
        (["b = a + 0"] * 4, "solution"),
    ):
        found = values(score(built, texts, form=form))
        wrong = 0.25 if form == "solution" else 0  # a bare line is taken for the line that it is
        assert (found["exact_match"], found["exact_match_first_line"]) == (wrong, wrong)


def test_the_metrics_differ_where_more_than_the_line_was_written(problems: Path) -> None:
    built, _ = benchmark(problems)
    texts = ["    b = a + 0\n    return b", "\n    b = a + 1\n\n", " \n b = a + 2\nmore", "x\n    b = a + 3"]
    scores = score(built, texts)
    assert [scores.per_task[f"py/py_{n}.json-L2"]["exact_match"] for n in range(4)] == [0, 1, 0, 0]
    assert [scores.per_task[f"py/py_{n}.json-L2"]["exact_match_first_line"] for n in range(4)] == [1, 1, 1, 0]


def test_each_length_is_asked_and_the_protocols_differ_in_one_newline(problems: Path) -> None:
    _, ours = benchmark(problems, lengths=("oracle", 8))
    assert [(r.gap.length, r.oracle_length, r.setting) for r in ours[:2]] == [
        (None, True, "oracle"),
        (8, False, "length-8"),
    ]
    assert {r.gap.prefix[-1] for r in ours} == {"\n"}
    _, original = benchmark(problems, protocol="santacoder", lengths=(25,))
    assert [r.gap.prefix for r in original] == [p["prompt"] for p in PROBLEMS[:4]]
    assert original[0].stop == ("<|endoftext|>", "<|filename|>")
    assert [r.gap.suffix for r in original] == [r.gap.suffix for r in ours[::2]]


def test_languages_are_chosen_and_scored_each(problems: Path) -> None:
    built, requests = benchmark(problems, languages=("py", "js"), lengths=("oracle",))
    assert len(requests) == 8
    answers = [
        GeneratedText(r.task_id, r.setting, 0, r.reference if r.task_id.startswith("js") else "")
        for r in requests
    ]
    found = values(built.score(answers))
    assert found["exact_match_oracle"] == 0.5
    assert (found["exact_match_py_oracle"], found["exact_match_js_oracle"]) == (0, 1)
    with pytest.raises(UserError, match="no problems in java, only in js, py"):
        benchmark(problems, languages=("java",))


def test_tasks_are_known_by_name_and_by_open_dllms_numbers(problems: Path) -> None:
    built, _ = benchmark(problems)
    for given in ("py/py_2.json-L2", "py_2.json-L2", "2"):
        assert built.task_of(given) == "py/py_2.json-L2"


def test_the_averaged_length_is_in_the_headline_and_the_result(problems: Path) -> None:
    built, requests = benchmark(problems)
    answers = [GeneratedText(r.task_id, r.setting, 0, r.reference, ended=False) for r in requests]
    scores = built.score(answers)
    shown = [name for name in built.headline if name in scores.metrics]
    assert shown == [
        f"{metric}_{setting}"
        for metric in ("exact_match", "exact_match_first_line")
        for setting in ("oracle", "averaged-4-8-16-32-64")
    ]
    assert scores.metrics["truncated_averaged-4-8-16-32-64"].value == 1
    assert {name for name in scores.metrics if not name.startswith("exact")} <= built.lower_is_better
