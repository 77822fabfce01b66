"""Benchmarks with one mistake each."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from opendllm.registries import BenchmarkOptions
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    GeneratedText,
    GenerationRequest,
    Metric,
    Request,
    Scores,
)
from opendllm.registries.gaps import Gap

from .wrong import Wrong

OPTIONS = BenchmarkOptions


class Right(Benchmark):
    """Sums of two numbers."""

    headline = ("accuracy",)

    def __init__(self, options: BenchmarkOptions) -> None:
        pass

    def requests(self, context: BenchmarkContext) -> Sequence[Request]:
        numbers = range(10 if context.limit is None else context.limit)
        return [GenerationRequest(f"sum-{n}", Gap(f"{n}+1=", length=4), str(n + 1)) for n in numbers]

    def passed(self, answer: GeneratedText) -> bool:
        number = int(answer.task_id.removeprefix("sum-"))
        return answer.text.strip() == str(number + 1)

    def score(self, answers: Sequence[Answer]) -> Scores:
        per_task: Mapping[str, Mapping[str, Any]] = {
            answer.task_id: {"passed": self.passed(answer)}
            for answer in answers
            if isinstance(answer, GeneratedText)
        }
        share = sum(task["passed"] for task in per_task.values()) / len(per_task)
        return Scores({"accuracy": Metric(share, 0.0, 1.0)}, per_task)


class AsksAtRandom(Right):
    def requests(self, context: BenchmarkContext) -> Sequence[Request]:
        found = list(super().requests(context))
        random.shuffle(found)
        return [*found[1:], found[0]] if found == list(super().requests(context)) else found


class KnowsNoLimit(Right):
    def requests(self, context: BenchmarkContext) -> Sequence[Request]:
        return [GenerationRequest(f"sum-{n}", Gap(f"{n}+1=", length=4), str(n + 1)) for n in range(10)]


class PassesAll(Right):
    def passed(self, answer: GeneratedText) -> bool:
        return bool(answer.text)


class FailsItsOwnAnswers(Right):
    def passed(self, answer: GeneratedText) -> bool:
        return answer.text == f"= {super().passed(answer)}"


class Tensors(Right):
    def score(self, answers: Sequence[Answer]) -> Scores:
        found = super().score(answers)
        per_task = {task: {"passed": torch.tensor(each["passed"])} for task, each in found.per_task.items()}
        return Scores(found.metrics, per_task)


class IntervalBeside(Right):
    def score(self, answers: Sequence[Answer]) -> Scores:
        found = super().score(answers)
        value = found.metrics["accuracy"].value
        return Scores({"accuracy": Metric(value, value + 0.1, value + 0.2)}, found.per_task)


class LosesTasks(Right):
    def score(self, answers: Sequence[Answer]) -> Scores:
        found = super().score(answers)
        return Scores(found.metrics, dict(list(found.per_task.items())[1:]))


WRONG = [
    Wrong(AsksAtRandom, "test_it_asks_the_same_every_time", "draw with `context.seed` only"),
    Wrong(KnowsNoLimit, "test_it_keeps_to_the_limit", "keep to `context.limit`"),
    Wrong(PassesAll, "test_the_published_answers_score_best", "score what is right"),
    Wrong(FailsItsOwnAnswers, "test_the_published_answers_score_best", "of the published answers"),
    Wrong(Tensors, "test_scores_can_be_written_as_json", "`.item()` of a tensor's"),
    Wrong(IntervalBeside, "test_intervals_contain_their_values", "lies outside its interval"),
    Wrong(LosesTasks, "test_intervals_contain_their_values", "give every task that was asked a line"),
]
