"""Tasks of lm-eval give the numbers that lm-eval gives, whatever they ask for."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from opendllm.plugins.benchmarks import LmEvalOptions
from opendllm.plugins.benchmarks.lm_eval_loading import index_for
from opendllm.plugins.benchmarks.lm_eval_task import LmEvalTask
from opendllm.registries.benchmarks import (
    Answer,
    BenchmarkContext,
    GeneratedText,
    GenerationRequest,
    LikelihoodRequest,
    Request,
    TextLikelihood,
)
from opendllm.registries.errors import UserError

COMMON = """
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl, train: docs.jsonl}}
test_split: test
"""
TASKS = {
    "choice": """
task: choice
output_type: multiple_choice
doc_to_text: "{{question}} "
doc_to_target: "{{label}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc}
  - {metric: acc_norm}
  - {metric: exact_match}
""",
    "last_word": """
task: last_word
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
metric_list:
  - {metric: acc}
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
""",
    "whole": """
task: whole
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "written": """
task: written
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
fewshot_split: train
num_fewshot: 2
generation_kwargs: {until: ["\\n", "Q:"], max_gen_toks: 7}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - name: digits
    filter: [{function: regex, regex_pattern: "([0-9]+)"}, {function: take_first}]
""",
    "f1": """
task: f1
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{label}}"
doc_to_choice: ["a", "b"]
metric_list: [{metric: f1}]
""",
}
GROUP = """
group: both
task: [choice, f1]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""


def chance(*texts: str) -> float:
    return int.from_bytes(hashlib.blake2b("\0".join(texts).encode(), digest_size=4).digest(), "big") / 2**32


def likelihood(context: str, text: str) -> tuple[float, bool]:
    return -10 * chance(context, text), chance(text, context) < 0.5


def continuation(context: str) -> str:
    return (
        f"it is {int(chance(context) * 4)}"
        if chance(context, "form") < 0.5
        else str(int(chance(context) * 4))
    )


class FakeLM(LM):
    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [likelihood(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [likelihood("", request.args[0])[0] for request in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [continuation(request.args[0]) for request in requests]


def answer(request: Request, sample: int = 0) -> Answer:
    if isinstance(request, GenerationRequest):
        text = continuation(request.gap.prefix)
        return GeneratedText(request.task_id, request.setting, sample, text, ended=True)
    value, greedy = likelihood(request.context or "", request.text)
    said = greedy if request.greedy else None
    return TextLikelihood(request.task_id, request.setting, value, 0.0, 1, 1, said)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "question": f"Q: what is {n} modulo 4?",
            "answer": str(n % 4),
            "label": n % 2,
            "choices": ["even", "certainly odd"],
        }
        for n in range(12)
    ]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, text in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(text + COMMON)
    (tmp_path / "both.yaml").write_text(GROUP)
    return tmp_path


def benchmark(task: str, limit: int | None = None, **options: Any) -> tuple[LmEvalTask, list[Request]]:
    built = LmEvalTask(LmEvalOptions(task=task, folder=".", **options))
    return built, list(built.requests(BenchmarkContext(limit, 0, 64, lambda: iter(()))))


def expected(task: str, **options: Any) -> dict[str, float]:
    manager = TaskManager(include_path=".", include_defaults=False)
    found = simple_evaluate(FakeLM(), tasks=[task], task_manager=manager, bootstrap_iters=0, **options)
    assert found is not None
    single = len(found["results"]) == 1
    return {
        ("" if single else f"{name}/") + key.removesuffix(",none"): value
        for name, values in found["results"].items()
        for key, value in values.items()
        if "," in key and "_stderr" not in key
    }


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("task", [*TASKS, "both"])
def test_the_metrics_are_those_of_lm_eval_itself(folder: Path, task: str, limit: int | None) -> None:
    built, requests = benchmark(task, limit)
    scores = built.score([answer(request) for request in requests])
    found = {
        name: metric.value for name, metric in scores.metrics.items() if name not in ("empty", "truncated")
    }
    wanted = expected(task, limit=limit)
    assert found == pytest.approx(wanted)
    assert wanted
    assert set(scores.per_task) == {request.task_id for request in requests}
    for name in wanted:
        metric = scores.metrics[name]
        assert metric.low <= metric.value <= metric.high


def test_few_shot_prompts_and_stop_strings_are_the_tasks(folder: Path) -> None:
    _, requests = benchmark("written")
    prompts: list[str] = []

    class Listening(FakeLM):
        def generate_until(self, requests: list[Any]) -> list[str]:
            prompts.extend(request.args[0] for request in requests)
            return super().generate_until(requests)

    manager = TaskManager(include_path=".", include_defaults=False)
    simple_evaluate(Listening(), tasks=["written"], task_manager=manager, bootstrap_iters=0)
    asked = [request for request in requests if isinstance(request, GenerationRequest)]
    assert [request.gap.prefix for request in asked] == prompts
    assert prompts[0].count("Q:") == 3
    assert asked[0].stop == ("\n", "Q:")
    assert asked[3].reference == "3"
    _, without = benchmark("written", num_fewshot=0)
    assert isinstance(without[0], GenerationRequest)
    assert without[0].gap.prefix == "Q: what is 0 modulo 4?"


def test_only_the_continuation_is_scored_and_greed_is_asked_where_it_counts(folder: Path) -> None:
    _, choices = benchmark("choice")
    first = choices[1]
    assert first == LikelihoodRequest(
        "choice/0", " certainly odd", "choice-1", "Q: what is 0 modulo 4? ", True
    )
    _, plain = benchmark("f1")
    assert isinstance(plain[0], LikelihoodRequest)
    assert not plain[0].greedy
    _, rolling = benchmark("whole")
    assert rolling[0] == LikelihoodRequest("whole/0", "Q: what is 0 modulo 4?", "default", "")


def test_the_directions_are_the_tasks(folder: Path) -> None:
    built, _ = benchmark("last_word")
    assert "perplexity" in built.lower_is_better
    assert "acc" not in built.lower_is_better


@pytest.mark.parametrize(("exact", "kind"), [(True, "exact"), (False, "upper bound"), (None, "estimate")])
def test_what_grows_as_likelihoods_fall_is_a_bound_where_they_are(
    folder: Path, exact: bool | None, kind: str
) -> None:
    for task, expected in (
        ("last_word", {"acc": "estimate", "perplexity": kind}),
        ("whole", dict.fromkeys(("word_perplexity", "byte_perplexity", "bits_per_byte"), kind)),
    ):
        built, requests = benchmark(task)
        given = [answer(request) for request in requests]
        scores = built.score(
            [replace(each, exact=exact) for each in given if isinstance(each, TextLikelihood)]
        )
        assert {name: metric.kind for name, metric in scores.metrics.items()} == expected


def test_only_a_mean_has_a_number_for_each_document(folder: Path) -> None:
    """A document's log-likelihood is no perplexity: of it more is better."""
    built, requests = benchmark("last_word")
    scores = built.score([answer(request) for request in requests])
    assert {name for values in scores.per_task.values() for name in values} == {"acc"}


def test_several_samples_are_averaged_and_missing_ones_left_out(folder: Path) -> None:
    built, requests = benchmark("written")
    right = [
        GeneratedText(request.task_id, request.setting, sample, request.reference or "" if sample else "no")
        for request in requests
        if isinstance(request, GenerationRequest)
        for sample in (0, 1)
    ]
    scores = built.score(right[:8])
    assert scores.metrics["exact_match,strict"].value == 0.5
    assert scores.per_task["written/3"] == {
        "exact_match,strict": 0.5,
        "exact_match,digits": 0.5,
        "empty": 0.0,
    }
    assert "written/4" not in scores.per_task
    assert built.task_of("3") == "written/3"


def test_the_global_generators_are_left_as_they_were(folder: Path) -> None:
    random.seed(7)
    np.random.seed(7)
    before = (random.random(), np.random.rand())
    random.seed(7)
    np.random.seed(7)
    benchmark("choice")
    assert (random.random(), np.random.rand()) == before


def test_mistakes_are_one_line(folder: Path) -> None:
    (folder / "broken.yaml").write_text(
        "task: broken\noutput_type: generate_until\n" + COMMON.replace("docs", "no")
    )
    (folder / "unsafe.yaml").write_text(
        TASKS["written"].replace("written", "unsafe") + COMMON + "unsafe_code: true"
    )
    for task, options, message in (
        ("choise", {}, "no task 'choise'; did you mean 'choice'?"),
        ("broken", {}, r"task 'broken' cannot be loaded \("),
        ("unsafe", {}, "would run generated code outside the sandbox: take benchmark humaneval"),
        ("choice", {"folder": "nowhere"}, "nowhere is no folder of task files"),
    ):
        built = LmEvalTask(LmEvalOptions(**{"task": task, "folder": ".", **options}))
        with pytest.raises(UserError, match=message) as caught:
            built.requests(BenchmarkContext(None, 0, 64, lambda: iter(())))
        assert "\n" not in str(caught.value)


def test_without_a_network_a_task_of_the_hub_is_one_line(folder: Path) -> None:
    task = TASKS["choice"].replace("task: choice", "task: remote")
    (folder / "remote.yaml").write_text(task + "dataset_path: nobody/nothing\ntest_split: test\n")
    with pytest.raises(UserError, match=r"task 'remote' cannot be loaded \(.*give a `folder`") as caught:
        benchmark("remote")
    assert "\n" not in str(caught.value)


HURRIED = """
import sys, time
from opendllm.plugins.benchmarks import LmEvalOptions
from opendllm.plugins.benchmarks.lm_eval_task import LmEvalTask
from opendllm.registries.benchmarks import BenchmarkContext

def slept(seconds):
    sys.exit("tried again")

time.sleep = slept
try:
    benchmark = LmEvalTask(LmEvalOptions(task="remote", folder="."))
    benchmark.requests(BenchmarkContext(None, 0, 64, lambda: iter(())))
except Exception as error:
    print(error)
"""


def test_a_hub_that_cannot_be_reached_is_not_tried_again_and_again(folder: Path) -> None:
    task = TASKS["choice"].replace("task: choice", "task: remote")
    (folder / "remote.yaml").write_text(task + "dataset_path: nobody/nothing\ntest_split: test\n")
    cache = str(folder / "cache")
    hub = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_DATASETS_CACHE": cache}
    found = subprocess.run(
        [sys.executable, "-c", HURRIED],
        env={**os.environ, **hub},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    [line] = found.stdout.splitlines()
    assert "task 'remote' cannot be loaded (" in line
    assert "'nobody/nothing'" in line
    assert "the hub cannot be reached ([Errno 111] Connection refused): load its data set" in line
    assert f"copy the cache to {cache}" in line


def test_one_of_lm_evals_own_tasks_is_found_without_reading_them_all() -> None:
    manager = index_for(LmEvalOptions(task="mmlu_anatomy"))
    assert "mmlu_anatomy" in manager.all_tasks
    assert len(manager.all_tasks) < 200
