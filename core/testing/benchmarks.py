"""The contract of benchmarks, as tests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any
from weakref import WeakKeyDictionary

from opendllm.core.testing.benchmark_answers import (
    WRONG_ANSWERS,
    Answering,
    answer_to,
    given_to,
    needs_references,
    right,
)
from opendllm.core.testing.contract import PluginContract, passed_over
from opendllm.core.testing.likely_texts import Likelihoods, LikelyTexts, likely_texts
from opendllm.registries.benchmarks import (
    Benchmark,
    BenchmarkContext,
    CodeExecution,
    GenerationRequest,
    LikelihoodRequest,
    Request,
    Scores,
)
from opendllm.registries.corpora import Document

PROBLEMS, FEW, PAIR = 6, 3, 2
"""How many problems are asked: all of right answers, and fewer where they are scored again and again."""
_LIKELY_TEXTS: WeakKeyDictionary[type, dict[str, LikelyTexts]] = WeakKeyDictionary()
_OF_RIGHT_ONES: WeakKeyDictionary[type, dict[str, tuple[Scores, Scores]]] = WeakKeyDictionary()
"""By test class and options; programs take long to run."""


def context(limit: int | None = PROBLEMS) -> BenchmarkContext:
    """A run with a small held-out corpus, in which the references may be executed."""
    documents = [Document(f"file{n}.py", f"def f{n}(x):\n    y = x + {n}\n    return y\n") for n in range(8)]
    return BenchmarkContext(limit, 0, 128, lambda: iter(documents), CodeExecution())


class BenchmarkContract(PluginContract):
    """Asks the same every time, and tells right answers from wrong ones."""

    kind = "benchmarks"

    def benchmark(self) -> Benchmark:
        """The plugin."""
        return self.built(Benchmark)  # type: ignore[type-abstract]

    def test_it_asks_the_same_every_time(self) -> None:
        """And no two requests share task and setting."""
        first = self.benchmark().requests(context())
        again = self.benchmark().requests(context())
        assert list(first) == list(again), (
            f"asked twice, it begins with {first[:1]} and {again[:1]}: draw with `context.seed` only"
        )
        keys = [(request.task_id, request.setting) for request in first]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        assert not repeated, f"asked more than once: {repeated[:3]}: give each request its own `setting`"

    def test_it_keeps_to_the_limit(self) -> None:
        """`--limit N` means N problems, each in all its settings."""
        tasks = {request.task_id for request in self.benchmark().requests(context(2))}
        assert len(tasks) == 2, f"with a limit of 2 it asks {len(tasks)} problems: keep to `context.limit`"

    def test_a_task_is_called_by_its_own_name(self) -> None:
        """`task_of` leaves the benchmark's own ids as they are."""
        benchmark = self.benchmark()
        for request in benchmark.requests(context()):
            found = benchmark.task_of(request.task_id)
            assert found == request.task_id, (
                f"task_of({request.task_id!r}) gave {found!r}, and the id itself was expected: change only "
                f"ids that other harnesses have"
            )

    def test_the_published_answers_score_best(self) -> None:
        """They reach the best value in every headline metric: a harness that fails some of them is none."""
        asked, scores = self.scored(right)
        needs_references(asked)
        for name, (value, lower) in self.shown(scores).items():
            if not all(isinstance(request, GenerationRequest) for request in asked):
                assert math.isfinite(value), f"{name} of likely texts is {value}, and a number was expected"
                continue
            best = self.benchmark().gold_scores.get(name, 0.0 if lower else 1.0)
            assert abs(value - best) <= 1e-9, (
                f"{name} is {value} of the published answers, and {best} was expected: score what is right "
                f"as right, or say in `gold_scores` what they reach"
            )

    def test_wrong_answers_score_worse(self) -> None:
        """Those of other problems, cut ones, unlikely texts: a harness that passes all is none.

        Of several texts a problem, that which scores best as the only likely one counts as published.
        In the first headline metric; others may be of the form alone, and must not be better.
        """
        best = self.shown(self.of_right_ones()[0])
        for what, wrong in WRONG_ANSWERS.items():
            asked, scores = self.scored(wrong, PAIR)
            needs_references(asked)
            if all(wrong(request, asked) == right(request, asked) for request in asked):
                continue  # there is one right answer to all problems
            found = {name: shown for name, shown in self.shown(scores).items() if name in best}
            for number, (name, (value, lower)) in enumerate(found.items()):
                gold, sign = best[name][0], -1 if lower else 1
                told = (
                    f"{name} is {gold} of the published answers, and {value} of {what}, where a worse one "
                    f"was expected: score what is right, all of it, or say lower_is_better"
                )
                assert sign * value <= sign * gold, told
                assert value != gold or number > 0, told

    def test_failed_answers_count_as_wrong(self) -> None:
        """As a bracket does, in every headline metric; those that are left out shift no other."""
        benchmark = self.benchmark()
        requests = benchmark.requests(context(FEW))
        asked = [request for request in requests if isinstance(request, GenerationRequest)]
        if len(asked) < len(requests):
            passed_over("it asks for likelihoods, of which failed ones may be left out")
        needs_references(asked)
        tasks = list(dict.fromkeys(request.task_id for request in asked))
        if len(tasks) < FEW:
            passed_over(f"it asks {len(tasks)} problems only")
        best = self.shown(self.of_right_ones()[0])
        for what, text, failure in (("wrong", ")", None), ("failed", "", "it failed")):
            answers = [
                answer_to(each, text, failure=failure) if each.task_id == tasks[1] else answer_to(each, None)
                for each in asked
                if each.task_id != tasks[0]
            ]
            for name, (value, lower) in self.shown(benchmark.score(answers)).items():
                gold, sign = best.get(name, (value, lower))[0], -1 if lower else 1
                assert sign * value < sign * gold, (
                    f"with one problem left out, one {what} and one right, {name} is {value}, and less good "
                    f"than {gold}, of right answers alone, was expected: count every answer that comes, a "
                    f"failed one as wrong"
                )
                assert lower or value > 0, (
                    f"with one problem left out, one {what} and one right, {name} is {value}, and more was "
                    f"expected: find an answer's problem by its `task_id`, not by its place"
                )

    def test_every_sample_counts(self) -> None:
        """Of a right and a wrong answer to each request, the scores are the same whichever comes first."""
        benchmark = self.benchmark()
        requests = benchmark.requests(context(1))
        asked = [request for request in requests if isinstance(request, GenerationRequest)]
        if len(asked) < len(requests):
            passed_over("it asks for likelihoods, of which there is one sample")
        needs_references(asked)
        first, second = (
            _shown(
                benchmark,
                benchmark.score(
                    [answer_to(each, text, sample) for each in asked for sample, text in enumerate(texts)]
                ),
            )
            for texts in ((None, ")"), (")", None))
        )
        for name, (value, _) in first.items():
            other = second[name][0] if name in second else math.nan
            assert abs(value - other) <= 1e-9 or math.isnan(value), (
                f"of a right sample and a wrong one, {name} is {value} with the right one first, and {other} "
                f"with the wrong one first, and the same was expected: count every sample of a request"
            )

    def test_answers_are_scored_alike_every_time(self) -> None:
        """The same object scores several times: what was scored before doesn't matter."""
        first, second = (json.dumps(_plain(scores.metrics), default=str) for scores in self.of_right_ones())
        assert first == second, (
            f"the same answers were expected to score {first} again, and scored {second}: keep nothing of "
            f"them in the object"
        )

    def test_scores_can_be_written_as_json(self) -> None:
        """They travel in results/BENCHMARK.json: strings, numbers, lists and mappings with string keys."""
        scores = self.of_right_ones()[0]
        for name, value in (("metrics", _plain(scores.metrics)), ("per_task", _plain(scores.per_task))):
            try:
                text = json.dumps(value)
            except (TypeError, ValueError) as error:
                raise AssertionError(
                    f"`{name}` was expected to be plain JSON, and isn't: {error}: give Python's own numbers, "
                    f"`.item()` of a tensor's"
                ) from error
            assert json.loads(text) == value or "NaN" in text, (
                f"`{name}` comes back from JSON as something else: use strings as keys, and lists, no tuples"
            )

    def test_intervals_contain_their_values(self) -> None:
        """And every task is accounted for."""
        scores = self.of_right_ones()[0]
        for name, metric in scores.metrics.items():
            inside = metric.low <= metric.value <= metric.high or math.isnan(metric.value)
            assert inside, (
                f"{name} {metric.value} lies outside its interval {metric.low} to {metric.high}: give the "
                f"value between the two"
            )
        tasks = {request.task_id for request in self.benchmark().requests(context(PAIR))}
        missing = sorted(tasks ^ set(scores.per_task))
        assert not missing, (
            f"per_task lacks, or makes up, {missing[:5]}: give every task that was asked a line"
        )

    def test_a_quick_score_is_of_what_is_right(self) -> None:
        """Where there is one: right answers are worth more than empty ones."""
        benchmark = self.benchmark()
        asked = [each for each in benchmark.requests(context()) if isinstance(each, GenerationRequest)]
        needs_references(asked)
        found = [
            [benchmark.quick_score(answer_to(request, text)) for request in asked] for text in (None, "")
        ]
        values = [[each for each in some if each is not None] for some in found]
        if not all(values):
            passed_over("its quick_score gives None")
        best, worst = (sum(some) / len(some) for some in values)
        assert best > worst, (
            f"right answers have a quick_score of {best} on average, and empty ones {worst}; more was "
            f"expected of the right ones: give None where it can't be had cheaply"
        )

    def scored(self, answer: Answering, limit: int = PROBLEMS) -> tuple[Sequence[Request], Scores]:
        """The requests, and what the answers to them score."""
        benchmark = self.benchmark()
        asked = benchmark.requests(context(limit))
        texts = self.texts()
        return asked, benchmark.score([given_to(request, answer(request, asked), texts) for request in asked])

    def texts(self) -> LikelyTexts:
        """Which of a pair of problems' texts have to be likely, found out once for all tests."""
        known, given = _LIKELY_TEXTS.setdefault(type(self), {}), repr(self.given())
        if given not in known:
            benchmark = self.benchmark()
            asked = benchmark.requests(context(PAIR))
            texts = [request for request in asked if isinstance(request, LikelihoodRequest)]

            def goodness(likelihoods: Likelihoods) -> float:
                found = [
                    likelihoods[request.task_id, request.setting]
                    if isinstance(request, LikelihoodRequest)
                    else answer_to(request, None)
                    for request in asked
                ]
                value, lower = next(iter(_shown(benchmark, benchmark.score(found)).values()))
                return -value if lower else value

            known[given] = likely_texts(texts, goodness)
        return known[given]

    def of_right_ones(self) -> tuple[Scores, Scores]:
        """What two right answers score, and again from the same object; run once for all tests of it."""
        known, given = _OF_RIGHT_ONES.setdefault(type(self), {}), repr(self.given())
        if given not in known:
            benchmark = self.benchmark()
            texts = self.texts()
            answers = [given_to(request, None, texts) for request in benchmark.requests(context(PAIR))]
            known[given] = benchmark.score(answers), benchmark.score(answers)
        return known[given]

    def shown(self, scores: Scores) -> dict[str, tuple[float, bool]]:
        """Of each headline metric its value, and whether less is better."""
        benchmark = self.benchmark()
        benchmark.requests(context())  # some know only then what they measure
        return _shown(benchmark, scores)


def _shown(benchmark: Benchmark, scores: Scores) -> dict[str, tuple[float, bool]]:
    assert not isinstance(benchmark.headline, str), (
        f"headline is {benchmark.headline!r}, and a tuple of names was expected: write "
        f"({benchmark.headline!r},)"
    )
    shown = [name for name in benchmark.headline if name in scores.metrics]
    assert shown, (
        f"none of the headline {benchmark.headline} is among {sorted(scores.metrics)}: name metrics that "
        f"`score` gives"
    )
    return {name: (scores.metrics[name].value, name in benchmark.lower_is_better) for name in shown}


def _plain(value: Any) -> Any:
    """Mappings and dataclasses as dictionaries; everything else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value
