"""The weighted sum of several rewards, and which of them fails on what."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opendllm.registries.errors import UserError
from opendllm.registries.options import RewardOptions
from opendllm.registries.plugin_calls import PluginFailureError
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.rewards import Reward, RewardContext

NAMED = 3
"""Problems that a message names."""


@dataclass(frozen=True)
class WeightedReward:
    """A reward as a manifest chooses it.

    Attributes:
        plugin: with its options.
        label: what it is called where all are told apart.
        weight: what its values are multiplied by; below 0, a penalty.
    """

    plugin: ChosenPlugin[Reward, RewardOptions]
    label: str
    weight: float = 1.0


@dataclass(frozen=True)
class RewardedCompletion:
    """What an answer is worth.

    Attributes:
        total: the weighted sum.
        values: reward's label -> its value, not weighted.
    """

    total: float
    values: Mapping[str, float]


def check_problems(problems: Sequence[Problem], rewards: Sequence[WeightedReward]) -> None:
    """Every reward must be able to judge answers to every problem.

    Raises:
        UserError: one can't; the first such problems are named.
    """
    for each in rewards:
        reward = each.plugin.build()
        issues = {
            problem.task_id: issue
            for problem in problems
            if (issue := reward.issue_with(problem)) is not None
        }
        if issues:
            named = ", ".join(map(repr, list(issues)[:NAMED]))
            more = f" and {len(issues) - NAMED} more" if len(issues) > NAMED else ""
            raise UserError(
                f"{each.plugin.registration.owner} can't judge answers to problem {named}{more}: "
                f"{next(iter(issues.values()))}"
            )


def values_of(reward: Reward, completions: Sequence[Completion], context: RewardContext) -> list[float]:
    """What one reward says.

    Raises:
        UserError: it raised that, or gave what is no such value.
        PluginFailureError: it raised anything else; the first problem is named that does so by itself.
    """
    try:
        return [float(value) for value in reward.values(completions, context)]
    except PluginFailureError as error:
        for problem, answers in by_problem(completions).items():
            try:
                reward.values(answers, context)
            except PluginFailureError as alone:
                named = PluginFailureError(f"{alone} (on answers to problem {problem!r})")
                named.plugin = alone.plugin
                raise named from error
        raise


def by_problem(completions: Iterable[Completion]) -> dict[str, list[Completion]]:
    """The answers to each problem, by its id."""
    found: dict[str, list[Completion]] = {}
    for each in completions:
        found.setdefault(each.problem.task_id, []).append(each)
    return found


def weighed(values: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> list[RewardedCompletion]:
    """Each answer's sum; a rest of rounding, where values cancel each other, is 0.

    Args:
        values: reward's label -> a value for each answer.
        weights: the same labels -> its weight.
    """
    rows = zip(*values.values(), strict=True)
    return [
        RewardedCompletion(
            _sum([weights[label] * value for label, value in zip(values, row, strict=True)]),
            dict(zip(values, row, strict=True)),
        )
        for row in rows
    ]


def _sum(terms: Sequence[float]) -> float:
    found = math.fsum(terms)
    return 0.0 if abs(found) <= len(terms) * sys.float_info.epsilon * max(map(abs, terms)) else found
