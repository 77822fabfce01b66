"""Benchmarks with one mistake each."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from opendllm.registries import BenchmarkOptions
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    GeneratedText,
    GenerationRequest,
    LikelihoodRequest,
    Metric,
    Request,
    Scores,
    TextLikelihood,
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

    def reference(self, answer: GeneratedText) -> str:
        return str(int(answer.task_id.removeprefix("sum-")) + 1)

    def passed(self, answer: GeneratedText) -> bool:
        return answer.text.strip() == self.reference(answer)

    def score(self, answers: Sequence[Answer]) -> Scores:
        by_task: dict[str, list[bool]] = defaultdict(list)
        for answer in answers:
            if isinstance(answer, GeneratedText):
                by_task[answer.task_id].append(self.passed(answer))
        per_task: Mapping[str, Mapping[str, Any]] = {
            task: {"passed": sum(found) / len(found)} for task, found in by_task.items()
        }
        share = sum(task["passed"] for task in per_task.values()) / len(per_task)
        return Scores({"accuracy": Metric(share, 0.0, 1.0)}, per_task)


class Choices(Right):
    """Sums with three results to choose from, the likeliest of which is taken."""

    def requests(self, context: BenchmarkContext) -> Sequence[Request]:
        return [
            LikelihoodRequest(each.task_id, choice, f"choice-{number}", f"{each.task_id}=")
            for each in super().requests(context)
            for number, choice in enumerate(("no number", str(int(each.task_id[4:]) + 1), "a colour"))
        ]

    def chosen(self, answers: Sequence[TextLikelihood]) -> str:
        return max(answers, key=lambda each: each.log_likelihood).setting

    def score(self, answers: Sequence[Answer]) -> Scores:
        by_task: dict[str, list[TextLikelihood]] = defaultdict(list)
        for answer in answers:
            if isinstance(answer, TextLikelihood):
                by_task[answer.task_id].append(answer)
        per_task = {task: {"passed": self.chosen(some) == "choice-1"} for task, some in by_task.items()}
        share = sum(each["passed"] for each in per_task.values()) / len(per_task)
        return Scores({"accuracy": Metric(share, 0.0, 1.0)}, per_task)


class ChoicesByByte(Choices):
    def chosen(self, answers: Sequence[TextLikelihood]) -> str:
        return max(answers, key=lambda each: each.log_likelihood / each.bytes).setting


class AnyChoiceIsRight(Choices):
    def chosen(self, answers: Sequence[TextLikelihood]) -> str:
        return "choice-1"


class TakesTheFirstChoice(Choices):
    def chosen(self, answers: Sequence[TextLikelihood]) -> str:
        return answers[0].setting


class WithoutReferences(Right):
    """Judges the form alone."""

    def requests(self, context: BenchmarkContext) -> Sequence[Request]:
        return [
            replace(each, reference=None)
            for each in super().requests(context)
            if isinstance(each, GenerationRequest)
        ]

    def passed(self, answer: GeneratedText) -> bool:
        return len(answer.text) < 4


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


class AnyNumberIsRight(Right):
    def passed(self, answer: GeneratedText) -> bool:
        return answer.text.strip().isdigit()


class AnyTextIsRight(Right):
    """All but what the contract's first version called wrong."""

    def passed(self, answer: GeneratedText) -> bool:
        return answer.text != ")"


class BeginningIsRight(Right):
    """What the reference begins with is right, and so is nothing at all."""

    def passed(self, answer: GeneratedText) -> bool:
        return self.reference(answer).startswith(answer.text)


class AskedInWords(Right):
    """Of numbers in words, the first half of which is enough."""

    def requests(self, context: BenchmarkContext) -> Sequence[Request]:
        found = super().requests(context)
        return [
            replace(each, reference=f"number {each.reference}")
            for each in found
            if isinstance(each, GenerationRequest)
        ]

    def reference(self, answer: GeneratedText) -> str:
        return f"number {super().reference(answer)}"

    def passed(self, answer: GeneratedText) -> bool:
        return bool(answer.text) and self.reference(answer).startswith(answer.text)


class FailsMostOfItsOwn(Right):
    def passed(self, answer: GeneratedText) -> bool:
        return super().passed(answer) and answer.task_id == "sum-0"


class InPercent(Right):
    """A hundred is all of it, and nothing says so."""

    def score(self, answers: Sequence[Answer]) -> Scores:
        found = super().score(answers)
        return Scores({"accuracy": Metric(100 * found.metrics["accuracy"].value, 0.0, 100.0)}, found.per_task)


class LeavesFailuresOut(Right):
    """A mean of the answers that there are."""

    def score(self, answers: Sequence[Answer]) -> Scores:
        there = [each for each in answers if isinstance(each, GeneratedText) and each.failure is None]
        return super().score(there or answers)


class LeavesWrongOnesOut(Right):
    def score(self, answers: Sequence[Answer]) -> Scores:
        return super().score(
            [each for each in answers if isinstance(each, GeneratedText) and each.text != ")"] or answers
        )


class ByPlace(Right):
    """The first answer is the first problem's, whoever left some out."""

    def score(self, answers: Sequence[Answer]) -> Scores:
        texts = [each for each in answers if isinstance(each, GeneratedText)]
        renamed = [replace(each, task_id=f"sum-{n}") for n, each in enumerate(texts)]
        found = super().score(renamed)
        names = [each.task_id for each in texts]
        return Scores(found.metrics, dict(zip(names, found.per_task.values(), strict=False)))


class AddsUp(Right):
    """Keeps what it has scored, and counts it again."""

    def __init__(self, options: BenchmarkOptions) -> None:
        super().__init__(options)
        self._number = 0

    def score(self, answers: Sequence[Answer]) -> Scores:
        self._number += len(answers)
        found = super().score(answers)
        return Scores({**found.metrics, "answers": Metric(self._number, 0.0, 1e9)}, found.per_task)


class KeepsTheLastSample(Right):
    """Finds a problem's answer by its id, and the next one takes its place."""

    def score(self, answers: Sequence[Answer]) -> Scores:
        return super().score(list({answer.task_id: answer for answer in answers}.values()))


class RenamesItsOwn(Right):
    def task_of(self, given: str) -> str:
        return f"sum-{given}"


class QuickOfLength(Right):
    """Short answers look best in the progress bar."""

    def quick_score(self, answer: Answer) -> float | None:
        return -float(len(answer.text)) if isinstance(answer, GeneratedText) else None


class HeadlineOfLetters(Right):
    headline = "accuracy"  # type: ignore[assignment]


PUBLISHED = "test_the_published_answers_score_best"
WORSE = "test_wrong_answers_score_worse"
FAILED = "test_failed_answers_count_as_wrong"
INTERVALS = "test_intervals_contain_their_values"
ALSO_RIGHT = [Choices, ChoicesByByte, WithoutReferences]
WRONG = [
    Wrong(AsksAtRandom, "test_it_asks_the_same_every_time", "draw with `context.seed` only"),
    Wrong(KnowsNoLimit, "test_it_keeps_to_the_limit", "keep to `context.limit`"),
    Wrong(
        RenamesItsOwn, "test_a_task_is_called_by_its_own_name", "change only ids that other harnesses have"
    ),
    Wrong(PassesAll, WORSE, "score what is right"),
    Wrong(AnyNumberIsRight, WORSE, "of other problems' answers"),
    Wrong(AnyTextIsRight, WORSE, "of other problems' answers"),
    Wrong(BeginningIsRight, FAILED, "one failed and one right"),
    Wrong(AnyChoiceIsRight, WORSE, "where a worse one was expected"),
    Wrong(TakesTheFirstChoice, WORSE, "where a worse one was expected"),
    Wrong(AskedInWords, WORSE, "of answers cut in half"),
    Wrong(FailsItsOwnAnswers, PUBLISHED, "of the published answers"),
    Wrong(FailsMostOfItsOwn, PUBLISHED, "and 1.0 was expected"),
    Wrong(InPercent, PUBLISHED, "say in `gold_scores` what they reach"),
    Wrong(HeadlineOfLetters, PUBLISHED, "write ('accuracy',)"),
    Wrong(LeavesFailuresOut, FAILED, "a failed one as wrong"),
    Wrong(LeavesWrongOnesOut, FAILED, "count every answer that comes"),
    Wrong(ByPlace, FAILED, "by its `task_id`, not by its place"),
    Wrong(KeepsTheLastSample, "test_every_sample_counts", "count every sample of a request"),
    Wrong(AddsUp, "test_answers_are_scored_alike_every_time", "keep nothing of them in the object"),
    Wrong(QuickOfLength, "test_a_quick_score_is_of_what_is_right", "more was expected of the right ones"),
    Wrong(Tensors, "test_scores_can_be_written_as_json", "`.item()` of a tensor's"),
    Wrong(IntervalBeside, INTERVALS, "lies outside its interval"),
    Wrong(LosesTasks, INTERVALS, "give every task that was asked a line"),
]
