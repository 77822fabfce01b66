"""The contract of rewards, as tests."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path

from opendllm.core.testing.contract import PluginContract, passed_over
from opendllm.core.testing.other_process import asked_elsewhere
from opendllm.core.testing.reward_answers import (
    BARE,
    ODD,
    answers_to,
    context,
    few_answers,
    judged,
    plain_answers,
    renumbered,
    said_by,
    writing_programs,
)
from opendllm.registries.errors import UserError
from opendllm.registries.options import RewardOptions
from opendllm.registries.problems import Completion
from opendllm.registries.rewards import Reward

_SAYS = "opendllm.core.testing.reward_answers:said_by"


class RewardContract(PluginContract):
    """Gives every answer a number of its own, whatever stands in it or beside it."""

    kind = "rewards"

    def reward(self) -> Reward:
        """The plugin."""
        return self.built(Reward)  # type: ignore[type-abstract]

    def values(self, completions: Sequence[Completion], reward: Reward | None = None) -> list[float]:
        """What a fresh plugin, or that one, says of answers."""
        reward = reward or self.reward()
        found = reward.values(completions, context(self._executes_code()))
        assert isinstance(found, Sequence), (
            f"values gave {type(found).__name__}, and a list of numbers was expected: give one a completion"
        )
        assert len(found) == len(completions), (
            f"values gave {len(found)} numbers for {len(completions)} answers: give one for each, in order"
        )
        return [float(value) for value in found]

    def test_it_judges_some_problem(self) -> None:
        """`issue_with` refuses what it can't judge, not everything."""
        assert judged(self.reward()), (
            "issue_with has something against every problem, whether with tests, with an answer or a chat: "
            "return None for those that it can judge"
        )

    def test_every_value_is_a_number_within_its_bounds(self) -> None:
        """The weighted sum would carry anything else into the weights of the model."""
        reward = self.reward()
        low, high = reward.bounds
        assert low < high, f"its bounds are {low:g} and {high:g}: say the least and the greatest value"
        completions = plain_answers(reward)
        for value, each in zip(self.values(completions, reward), completions, strict=True):
            assert math.isfinite(value), (
                f"it gave {value} for {each.text!r:.40}, and a finite number was expected: give 0 to what "
                f"can't be judged"
            )
            assert low - 1e-9 <= value <= high + 1e-9, (
                f"it gave {value:g} for {each.text!r:.40}, outside its bounds {low:g} and {high:g}: say in "
                f"`bounds` what it may give"
            )

    def test_it_tells_answers_apart(self) -> None:
        """Where every answer is worth the same, nothing is learnt."""
        found = set(self.values(plain_answers(self.reward())))
        assert len(found) > 1, (
            f"right answers, wrong ones and none at all are all worth {found}: give what is better more"
        )

    def test_any_text_has_a_value(self) -> None:
        """A model that is trained writes anything; one answer must not end the run."""
        reward = self.reward()
        for problem in judged(reward):
            for answer in answers_to(problem, ODD):
                try:
                    [value] = self.values([answer], reward)
                except Exception as error:
                    raise AssertionError(
                        f"it raises {type(error).__name__} at {answer.text!r:.30} ({error}): give 0 to what "
                        f"can't be read"
                    ) from error
                assert math.isfinite(value), (
                    f"it gave {value} for {answer.text!r:.30}, and a finite number was expected: give 0"
                )

    def test_no_answers_have_no_values(self) -> None:
        """A process of several may have none to judge."""
        try:
            found = self.values([])
        except Exception as error:
            raise AssertionError(
                f"given no answers it raises {type(error).__name__} ({error}): give an empty list"
            ) from error
        assert found == [], f"given no answers it gave {found}, and an empty list was expected"

    def test_an_answer_is_worth_the_same_alone(self) -> None:
        """Not what it is in its batch: other processes and other batches have others beside it."""
        reward = self.reward()
        completions = few_answers(reward)
        together = self.values(completions, reward)
        for each, wanted in zip(completions, together, strict=True):
            [alone] = self.values([each], self.reward())
            assert alone == wanted, (
                f"{each.text!r:.40} is worth {wanted:g} among others and {alone:g} alone: look at the answer "
                f"and its problem only"
            )

    def test_the_order_of_answers_does_not_matter(self) -> None:
        """A value belongs to the answer at its place."""
        reward = self.reward()
        completions = few_answers(reward)
        wanted = self.values(completions, reward)[::-1]
        found = self.values(completions[::-1], self.reward())
        assert found == wanted, (
            f"turned around, the answers are worth {found}, and {wanted} was expected: give the values in "
            f"the order of the answers"
        )

    def test_it_says_the_same_again(self) -> None:
        """Later in the run, and in one that goes on after it was stopped."""
        reward = self.reward()
        completions = few_answers(reward)
        first, again = self.values(completions, reward), self.values(completions, reward)
        assert first == again, (
            f"asked twice, it gave {first} and {again}: keep nothing between calls, and draw by the "
            f"context's seed only"
        )
        fresh = self.values(completions, self.reward())
        assert first == fresh, (
            f"built anew, it gave {fresh}, and {first} before: draw by the context's seed only"
        )

    def test_the_number_of_a_sample_does_not_matter(self) -> None:
        """It tells answers apart, no more."""
        reward = self.reward()
        completions = few_answers(reward)
        wanted = self.values(completions, reward)
        found = self.values(renumbered(completions), reward)
        assert found == wanted, (
            f"with other values of `sample` the answers are worth {found}, and {wanted} was expected: don't "
            f"look at it"
        )

    def test_another_process_says_the_same(self) -> None:
        """It is built in one of its own, where strings are hashed otherwise."""
        here = said_by(self.reward())["values"]
        there = asked_elsewhere(self.registration(), self.plugin_options(), _SAYS)["values"]
        assert here == there, (
            f"in another process it gave {there}, and {here} here: let nothing hang on hash(), as the order "
            f"of a set does"
        )

    def test_what_it_cannot_judge_it_says(self) -> None:
        """A problem without tests or answer is refused before training, by `issue_with`."""
        reward = self.reward()
        issue = reward.issue_with(BARE)
        if issue is not None:
            assert isinstance(issue, str), (
                f"issue_with gave {issue!r}: say in words what the problem lacks, or give None"
            )
            assert issue.strip(), "issue_with gave an empty string: say what the problem lacks, or give None"
            return
        try:
            self.values(answers_to(BARE, ("1", "2")), reward)
        except Exception as error:
            raise AssertionError(
                f"at a problem without answer and tests it raises {type(error).__name__} ({error}): say in "
                f"issue_with what a problem needs"
            ) from error

    def test_it_asks_for_leave_to_run_code(self) -> None:
        """Where its options declare `executes_code`, and the context gives none."""
        if not self._executes_code():
            passed_over("its options don't declare `executes_code`")
        reward = self.reward()
        try:
            found = reward.values(plain_answers(reward), context(False))
        except UserError:
            return
        raise AssertionError(
            f"without leave to run code it gave {set(found)}: raise a UserError where context.code_execution "
            f"is None"
        )

    def test_answers_run_in_the_sandbox_only(self, tmp_path: Path) -> None:
        """What a model writes must not reach the machine."""
        file = tmp_path / "written"
        reward = self.reward()
        for problem in judged(reward):
            self.values(answers_to(problem, tuple(writing_programs(file))), reward)
        assert not file.exists(), (
            "an answer's code wrote a file on this machine: run it in opendllm.core.sandbox, and declare "
            "`executes_code` in its options"
        )

    def test_it_leaves_the_process_as_it_was(self) -> None:
        """Random numbers, the folder and the environment belong to others too."""
        reward = self.reward()
        completions = few_answers(reward)
        before = _process()
        self.values(completions, reward)
        after = _process()
        changed = [name for name, value in before.items() if after[name] != value]
        assert not changed, (
            f"it changed {', '.join(changed)} of the process: draw with random.Random(context.seed), and "
            f"leave the rest alone"
        )

    def _executes_code(self) -> bool:
        options = self.plugin_options()
        return isinstance(options, RewardOptions) and options.executes_code


def _process() -> dict[str, str]:
    return {
        "the random numbers": json.dumps(random.getstate()),
        "the folder": str(Path.cwd()),
        "the environment": json.dumps(dict(os.environ), sort_keys=True),
    }
