"""Rewards with one mistake each."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Sequence
from typing import Any, ClassVar

from opendllm.registries import RewardOptions
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import Reward, RewardContext

from .wrong import Wrong

OPTIONS = RewardOptions


class RunsOptions(RewardOptions):
    """Of a reward that runs code, and says so."""

    executes_code: ClassVar[bool] = True


class Right(Reward):
    """The share of an answer's characters that are digits."""

    def __init__(self, options: RewardOptions) -> None:
        pass

    def values(self, completions: Sequence[Completion], context: RewardContext) -> Sequence[float]:
        return [self.value(each) for each in completions]

    def value(self, completion: Completion) -> float:
        text = completion.text
        return sum(character in "0123456789" for character in text) / max(1, len(text))


class Compares(Right):
    """With the answer, where there is one."""

    def value(self, completion: Completion) -> float:
        return float(completion.text.strip() == completion.problem.answer)

    def issue_with(self, problem: Problem) -> str | None:
        return None if problem.answer else "it has no answer"


class Punishes(Right):
    """Each of an answer's digits."""

    bounds = (-1.0, 0.0)

    def value(self, completion: Completion) -> float:
        return -super().value(completion)


class DividesByLength(Right):
    def value(self, completion: Completion) -> float:
        return 1 / len(completion.text)


class NoNumber(Right):
    def value(self, completion: Completion) -> float:
        return super().value(completion) if completion.text else float("nan")


class Endless(Right):
    def value(self, completion: Completion) -> float:
        return super().value(completion) if completion.text else float("-inf")


class Percent(Right):
    def value(self, completion: Completion) -> float:
        return 100 * super().value(completion)


class BoundsTurned(Right):
    bounds = (1.0, 0.0)


class LeavesSomeOut(Right):
    def values(self, completions: Sequence[Completion], context: RewardContext) -> Sequence[float]:
        return [self.value(each) for each in completions if each.text]


class Yields(Right):
    def values(self, completions: Sequence[Completion], context: RewardContext) -> Any:
        return (self.value(each) for each in completions)


class OneForAll(Right):
    def value(self, completion: Completion) -> float:
        return 1.0


class AboveTheMean(Right):
    def values(self, completions: Sequence[Completion], context: RewardContext) -> Sequence[float]:
        found = [self.value(each) for each in completions]
        mean = sum(found) / max(1, len(found))
        return [float(value >= mean) for value in found]


class BestOfTheBatch(Right):
    def values(self, completions: Sequence[Completion], context: RewardContext) -> Sequence[float]:
        found = [self.value(each) for each in completions]
        return [value / (max(found) or 1.0) for value in found]


class Sorts(Right):
    def values(self, completions: Sequence[Completion], context: RewardContext) -> Sequence[float]:
        return sorted(super().values(completions, context))


class Mean(Right):
    def values(self, completions: Sequence[Completion], context: RewardContext) -> Sequence[float]:
        found = list(super().values(completions, context))
        mean = sum(found) / len(found)
        return [mean for _ in found]


class Draws(Right):
    def value(self, completion: Completion) -> float:
        return super().value(completion) * random.Random().random()


class Novelty(Right):
    """A text is worth less once it was there."""

    def __init__(self, options: RewardOptions) -> None:
        self._seen: set[str] = set()

    def values(self, completions: Sequence[Completion], context: RewardContext) -> Sequence[float]:
        found = [self.value(each) * (each.text not in self._seen) for each in completions]
        self._seen.update(each.text for each in completions)
        return found


class FirstIsBest(Right):
    def value(self, completion: Completion) -> float:
        return super().value(completion) / (1 + completion.sample)


class Hashes(Right):
    def value(self, completion: Completion) -> float:
        return hash(completion.text) % 100 / 100


class Encodes(Right):
    def value(self, completion: Completion) -> float:
        return super().value(completion) if completion.text.encode() else 0.0


class ReadsNumbers(Right):
    def value(self, completion: Completion) -> float:
        text = completion.text.strip()
        return float(int(text) == 2) if text.isdigit() else 0.0


class NeedsAnAnswer(Compares):
    def value(self, completion: Completion) -> float:
        answer: Any = completion.problem.answer
        return float(completion.text.strip() == answer.strip())

    def issue_with(self, problem: Problem) -> str | None:
        return None


class SaysNothing(Compares):
    def issue_with(self, problem: Problem) -> str | None:
        return None if problem.answer else ""


class RefusesAll(Right):
    def issue_with(self, problem: Problem) -> str | None:
        return "it is too hard"


class Executes(Right):
    def value(self, completion: Completion) -> float:
        names: dict[str, Any] = {}
        with contextlib.suppress(BaseException):
            exec(completion.text.removeprefix("```python\n").removesuffix("```\n"), names)
        return float("f" in names)


class RunsUnasked(Right):
    """It would run them anyway."""


class SeedsAll(Right):
    def value(self, completion: Completion) -> float:
        random.seed(completion.text)
        return random.random()


class SetsTheEnvironment(Right):
    def __init__(self, options: RewardOptions) -> None:
        self._calls = 0

    def values(self, completions: Sequence[Completion], context: RewardContext) -> Sequence[float]:
        self._calls += 1
        os.environ["JUDGED"] = f"{os.environ.get('JUDGED', '')}."
        return super().values(completions, context)


ALSO_RIGHT = [Compares, Punishes]
VALUES = "test_every_value_is_a_number_within_its_bounds"
ANY = "test_any_text_has_a_value"
ALONE = "test_an_answer_is_worth_the_same_alone"
AGAIN = "test_it_says_the_same_again"
LEAVES = "test_it_leaves_the_process_as_it_was"
SAYS = "test_what_it_cannot_judge_it_says"
WRONG = [
    Wrong(NoNumber, VALUES, "gave nan, and a finite number was expected, for answer 0 to problem"),
    Wrong(NoNumber, VALUES, "give 0 to what can't be judged", watched=False),
    Wrong(Endless, VALUES, "gave -inf, and a finite number was expected"),
    Wrong(Percent, VALUES, "where its `bounds` are 0 and 1"),
    Wrong(Percent, VALUES, "say in `bounds` what it may give", watched=False),
    Wrong(BoundsTurned, VALUES, "say the least and the greatest value"),
    Wrong(LeavesSomeOut, VALUES, "give a list of one number each, in their order"),
    Wrong(LeavesSomeOut, VALUES, "give one for each, in order", watched=False),
    Wrong(Yields, VALUES, "gave generator for"),
    Wrong(Yields, VALUES, "give one a completion", watched=False),
    Wrong(DividesByLength, VALUES, "ZeroDivisionError"),
    Wrong(OneForAll, "test_it_tells_answers_apart", "give what is better more"),
    Wrong(AboveTheMean, ALONE, "look at the answer and its problem only"),
    Wrong(BestOfTheBatch, ALONE, "look at the answer and its problem only"),
    Wrong(Sorts, "test_the_order_of_answers_does_not_matter", "in the order of the answers"),
    Wrong(Mean, "test_no_answers_have_no_values", "give an empty list"),
    Wrong(Draws, AGAIN, "draw by the context's seed only"),
    Wrong(Novelty, AGAIN, "keep nothing between calls"),
    Wrong(FirstIsBest, "test_the_number_of_a_sample_does_not_matter", "don't look at it"),
    Wrong(Hashes, "test_another_process_says_the_same", "let nothing hang on hash()"),
    Wrong(Encodes, ANY, "give 0 to what can't be read"),
    Wrong(ReadsNumbers, ANY, "give 0 to what can't be read"),
    Wrong(NeedsAnAnswer, SAYS, "say in issue_with what a problem needs"),
    Wrong(SaysNothing, SAYS, "gave an empty string"),
    Wrong(RefusesAll, "test_it_judges_some_problem", "return None for those that it can judge"),
    Wrong(Executes, "test_answers_run_in_the_sandbox_only", "run it in opendllm.core.sandbox"),
    Wrong(RunsUnasked, "test_it_asks_for_leave_to_run_code", "raise a UserError where", options=RunsOptions),
    Wrong(SeedsAll, LEAVES, "it changed the random numbers of the process"),
    Wrong(SetsTheEnvironment, LEAVES, "it changed the environment of the process"),
]
