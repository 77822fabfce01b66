"""A document of lm-eval that can't be prepared or answered fails alone, and counts as wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from opendllm.plugins.benchmarks import LmEvalOptions
from opendllm.plugins.benchmarks.lm_eval_task import FAILED_NOTE, LmEvalTask
from opendllm.registries.benchmarks import (
    Answer,
    BenchmarkContext,
    GeneratedText,
    GenerationRequest,
    Request,
    TextLikelihood,
)
from opendllm.registries.errors import UserError

BROKEN = (2, 5)
WHOLE = [0, 1, 3, 4, 6, 7]
COMMON = """
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl, train: train.jsonl}}
test_split: test
fewshot_split: train
num_fewshot: 2
"""
TASKS = {
    "choice": "output_type: multiple_choice\ndoc_to_text: !function helpers.text\ndoc_to_target: '{{label}}'"
    "\ndoc_to_choice: ['even', 'odd']\nmetric_list: [{metric: acc}]\n",
    "written": "output_type: generate_until\ndoc_to_text: !function helpers.text\n"
    "doc_to_target: '{{answer}}'\ngeneration_kwargs: {until: ['\\n']}\n"
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
    "whole": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: !function helpers.text\n"
    "metric_list: [{metric: word_perplexity}]\n",
}
GROUP = "group: both\ntask: [choice, small]\naggregate_metric_list: [{metric: acc, weight_by_size: %s}]\n"
HELPERS = """
def text(doc):
    if doc["label"] > 1:
        raise KeyError("no such label")
    return f"what is {doc['answer']}?"
"""


class Recording(LM):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, ...]] = []

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        self.asked += [request.args for request in requests]
        return [(-1.0, False) for _ in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        self.asked += [request.args for request in requests]
        return [-1.0 for _ in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.asked += [(request.args[0],) for request in requests]
        return ["" for _ in requests]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failing")
    for split, broken in (("docs", BROKEN), ("train", ()), ("small", ())):
        rows = [
            {"answer": str(n), "label": 9 if n in broken else n % 2}
            for n in range(2 if split == "small" else 8)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "helpers.py").write_text(HELPERS)
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\n{text}{COMMON}".replace("num_fewshot: 2", "")
            if name == "whole"
            else f"task: {name}\n{text}{COMMON}"
        )
    small = f"task: small\n{TASKS['choice']}{COMMON}".replace("docs.jsonl", "small.jsonl")
    (folder / "small.yaml").write_text(small)
    for weighed in ("true", "false"):
        (folder / f"both_{weighed}.yaml").write_text((GROUP % weighed).replace("both", f"both_{weighed}"))
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # asks pip, for a second


def asked(task: str, limit: int | None = None) -> tuple[LmEvalTask, list[Request]]:
    benchmark = LmEvalTask(LmEvalOptions(task=task, folder="."))
    return benchmark, list(benchmark.requests(BenchmarkContext(limit, 0, 64, lambda: iter(()))))


def answers(requests: Sequence[Request], right: bool = True) -> list[Answer]:
    """Right ones or wrong ones; of what failed, what the evaluator makes of it."""
    found: list[Answer] = []
    for request in requests:
        if isinstance(request, GenerationRequest):
            text = request.reference or "" if right else "no"
            answer = GeneratedText(request.task_id, request.setting, 0, text)
            found.append(replace(answer, text="" if request.failure else text, failure=request.failure))
        elif request.failure is not None:
            nothing = TextLikelihood(request.task_id, request.setting, float("nan"), 0, 0, 0)
            found.append(replace(nothing, failure=request.failure))
        else:
            odd = int(request.task_id.split("/")[1]) % 2
            likely = (request.setting == f"choice-{odd}") == right
            found.append(TextLikelihood(request.task_id, request.setting, -1.0 if likely else -9.0, 0, 1, 1))
    return found


@pytest.mark.parametrize("task", TASKS)
def test_the_others_are_asked_what_lm_eval_asks_them(task: str) -> None:
    lm = Recording()
    manager = TaskManager(include_path=".", include_defaults=False)
    simple_evaluate(lm, tasks=[task], task_manager=manager, bootstrap_iters=0, samples={task: WHOLE})
    _, requests = asked(task)
    strings = [
        (request.gap.prefix,)
        if isinstance(request, GenerationRequest)
        else (request.text,)
        if task == "whole"
        else (request.context, request.text)
        for request in requests
        if request.failure is None
    ]
    assert strings == lm.asked
    failed = {request.task_id: request.failure for request in requests if request.failure is not None}
    assert failed == {
        f"{task}/{number}": "its preparation fails (KeyError: 'no such label')" for number in BROKEN
    }
    assert list(dict.fromkeys(request.task_id for request in requests)) == [f"{task}/{n}" for n in range(8)]


def test_the_limit_counts_them(folder: Path) -> None:
    _, requests = asked("written", limit=3)
    assert [request.task_id for request in requests] == ["written/0", "written/1", "written/2"]
    assert requests[2].failure is not None


@pytest.mark.parametrize(("task", "metric"), [("choice", "acc"), ("written", "exact_match")])
def test_they_count_as_wrong(task: str, metric: str) -> None:
    benchmark, requests = asked(task)
    scores = benchmark.score(answers(requests))
    assert scores.metrics[metric].value == pytest.approx(6 / 8)
    assert scores.metrics[metric].low < 6 / 8 < scores.metrics[metric].high
    assert scores.per_task[f"{task}/2"][metric] == 0
    assert set(scores.per_task) == {f"{task}/{number}" for number in range(8)}
    assert FAILED_NOTE in scores.notes
    wrong = benchmark.score(answers(requests, right=False))
    assert wrong.metrics[metric].value == 0


def test_an_empty_answer_that_failed_is_wrong_even_where_the_empty_text_is_right() -> None:
    benchmark, requests = asked("written")
    given = [
        replace(answer, text=reference, failure="too long")
        for answer, reference in zip(answers(requests), (str(n) for n in range(8)), strict=True)
        if isinstance(answer, GeneratedText)
    ]
    right = answers(requests)[0]
    assert benchmark.score([right, *given[1:]]).metrics["exact_match"].value == pytest.approx(1 / 8)


def test_what_is_no_mean_is_of_the_others_and_says_so() -> None:
    benchmark, requests = asked("whole")
    given = [
        answer if answer.failure else replace(answer, log_likelihood=-6.0)
        for answer in answers(requests)
        if isinstance(answer, TextLikelihood)
    ]
    scores = benchmark.score(given)
    assert scores.metrics["word_perplexity"].value == pytest.approx(2.718281828**2)  # 6 nats, 3 words
    assert scores.per_task["whole/2"] == {}
    assert FAILED_NOTE in scores.notes


@pytest.mark.parametrize(("weighed", "expected"), [("true", 8 / 10), ("false", (6 / 8 + 1) / 2)])
def test_groups_weigh_them_too(weighed: str, expected: float) -> None:
    benchmark, requests = asked(f"both_{weighed}")
    scores = benchmark.score(answers(requests))
    assert scores.metrics["choice/acc"].value == pytest.approx(6 / 8)
    assert scores.metrics["small/acc"].value == 1
    assert scores.metrics[f"both_{weighed}/acc"].value == pytest.approx(expected)


def test_a_task_that_cannot_be_asked_at_all_is_one_line(folder: Path) -> None:
    text = f"task: odd\n{TASKS['written']}{COMMON}".replace("test_split: test", "test_split: none")
    (folder / "odd.yaml").write_text(text)
    with pytest.raises(UserError, match="task 'odd' cannot be") as caught:
        asked("odd")
    assert "\n" not in str(caught.value)
