"""The published files themselves: set OPENDLLM_BENCHMARKS to the folder that holds them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from opendllm.registries.benchmarks import BenchmarkContext, CodeExecution, GeneratedText, GenerationRequest
from opendllm.registries.discovery import installed_plugins

FOLDER = os.environ.get("OPENDLLM_BENCHMARKS")
FILES = {
    "humaneval": "HumanEval.jsonl.gz",
    "humaneval-plus": "HumanEvalPlus-v0.1.10.jsonl.gz",
    "humaneval-infilling": "HumanEval-SingleLineInfilling.jsonl.gz",
    "mbpp": "mbpp.jsonl.gz",
    "mbpp-sanitized": "sanitized-mbpp.jsonl.gz",
    "mbpp-plus": "MbppPlus-v0.2.0.jsonl.gz",
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOLDER is None, reason="OPENDLLM_BENCHMARKS names no folder with the published files"),
]
Texts = Callable[[Sequence[GenerationRequest]], list[str]]


def gold(requests: Sequence[GenerationRequest]) -> list[str]:
    return [str(request.reference) for request in requests]


def nothing(requests: Sequence[GenerationRequest]) -> list[str]:
    return [""] * len(requests)


def neighbours(requests: Sequence[GenerationRequest]) -> list[str]:
    """The first solution of the next function."""
    functions = [request.task_id.rsplit("/L", 1)[0] for request in requests]
    first = {function: functions.index(function) for function in functions}
    following = dict(zip(first, [*list(first.values())[1:], 0], strict=True))
    return [str(requests[following[function]].reference) for function in functions]


def passed(name: str, texts: Texts, **options: Any) -> tuple[int, int]:
    """Programs that pass, and, of EvalPlus's benchmarks, those that pass the base tests."""
    problems = str(Path(str(FOLDER)) / FILES[name])
    benchmark = installed_plugins().benchmarks.get(name).build({"problems": problems, **options})
    context = BenchmarkContext(None, 0, 4096, lambda: iter(()), CodeExecution())
    requests = [r for r in benchmark.requests(context) if isinstance(r, GenerationRequest)]
    asked = list({request.task_id: request for request in requests}.values())
    answers = [
        GeneratedText(request.task_id, "default", 0, text, form="completion")
        for request, text in zip(asked, texts(asked), strict=True)
    ]
    per_task = benchmark.score(answers).per_task.values()
    return sum(task["passed"] for task in per_task), sum(task.get("base_passed", False) for task in per_task)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("humaneval", (164, 0)),
        ("humaneval-plus", (164, 164)),
        ("humaneval-infilling", (1033, 0)),
        ("mbpp", (500, 0)),
        ("mbpp-sanitized", (257, 0)),
        ("mbpp-plus", (377, 378)),  # Mbpp/255's own solution needs more memory than EvalPlus gives it
    ],
)
def test_the_published_solutions(name: str, expected: tuple[int, int]) -> None:
    assert passed(name, gold) == expected


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "mbpp-sanitized"])
@pytest.mark.parametrize("texts", [nothing, neighbours])
def test_known_wrong_programs(name: str, texts: Texts) -> None:
    assert passed(name, texts) == (0, 0)


def test_known_wrong_lines() -> None:
    assert passed("humaneval-infilling", nothing)[0] == 27
    assert passed("humaneval-infilling", neighbours)[0] <= 10
