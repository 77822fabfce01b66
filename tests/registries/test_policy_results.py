"""What a policy objective gives that its contract has no use for is told with package and method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from opendllm.core.testing.policy_case import MASK_TOKEN_ID, answers
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import PluginError
from opendllm.registries.objectives import Noise, Objective
from opendllm.registries.options import ObjectiveOptions, PolicyObjectiveOptions
from opendllm.registries.plugin_calls import watched
from opendllm.registries.policies import FixedTerms, PolicyObjective, PolicyReading, Rollouts
from opendllm.registries.registry import Provenance, Registration
from opendllm.registries.sequences import TokenIds

OWNER = "objectives/x of stranger 0.1"


def built_in() -> PolicyObjective:
    found: object = installed_plugins().objectives.get("diffu-grpo").build({"beta": 0})
    assert isinstance(found, PolicyObjective)
    return found


class Mine(PolicyObjective):
    """The built-in one, with one method's answer changed."""

    def __init__(self, method: str, change: Callable[[Any], Any]) -> None:
        self._method = method
        self._change = change
        self._other = built_in()

    def _answer(self, method: str, *given: Any) -> Any:
        found = getattr(self._other, method)(*given)
        return self._change(found) if method == self._method else found

    def readings(self, rollouts: Rollouts, noise: Noise) -> Any:
        return self._answer("readings", rollouts, noise)

    def advantages(self, rewards: Tensor) -> Any:
        return self._answer("advantages", rewards)

    def kept(self, rewards: Tensor) -> Any:
        return self._answer("kept", rewards)

    def losses(self, new: Tensor, fixed: FixedTerms) -> Any:
        return self._answer("losses", new, fixed)


def use(objective: PolicyObjective) -> None:
    rollouts = answers()
    rollouts = replace(rollouts, rows=replace(rollouts.rows, ids=TokenIds(12, MASK_TOKEN_ID)))
    objective.readings(rollouts, AddressedNoise(0, rollouts.rows, 6))
    rewards = torch.rand(2, 3, dtype=torch.float64)
    objective.advantages(rewards), objective.kept(rewards)
    terms = torch.zeros(4, dtype=torch.float64)
    objective.losses(terms, FixedTerms(terms, terms + 1))


def changed(**parts: Callable[[Tensor], Any]) -> Callable[[list[PolicyReading]], list[PolicyReading]]:
    """Some attributes of the first reading."""

    def change(found: list[PolicyReading]) -> list[PolicyReading]:
        first = found[0]
        return [replace(first, **{name: of(getattr(first, name)) for name, of in parts.items()}), *found[1:]]

    return change


def test_what_the_contract_asks_for_is_taken() -> None:
    use(watched(Mine("", lambda found: found), OWNER))


@pytest.mark.parametrize(
    ("method", "change", "says"),
    [
        ("readings", lambda found: iter(found), "one or more PolicyReadings were expected"),
        ("readings", lambda found: [], "one or more PolicyReadings were expected"),
        ("readings", lambda found: [1], "gave int as a reading: make it a PolicyReading"),
        ("readings", changed(targets=lambda each: each.float()), "targets, as large as the inputs"),
        ("readings", changed(scored=lambda each: each[:, 1:]), "scored, as large as the inputs"),
        ("readings", changed(token=lambda each: each[1:]), "token, one term a scored position"),
        ("readings", changed(weight=lambda each: each.long()), "weight, one a scored position"),
        ("readings", changed(column=lambda each: each[1:]), "column, one a term"),
        ("readings", changed(share=lambda each: each.sum()), "share, one a term"),
        ("readings", changed(kl_share=lambda each: None), "gave NoneType, and float"),
        ("readings", changed(count=lambda each: float(each)), "count, a scalar"),
        ("readings", changed(token=lambda each: each + 1), "gave 1 scored positions a term that isn't there"),
        ("readings", changed(row=lambda each: each + 100), "gave a term of a token that isn't there"),
        ("readings", changed(column=lambda each: each * 0), "terms of prompts or padding"),
        (
            "advantages",
            lambda found: found.flatten(),
            "and float [2, 3] was expected: one advantage a reward",
        ),
        ("kept", lambda found: found.double(), "and bool [2] was expected: one answer a prompt"),
        ("losses", lambda found: found.loss, "and PolicyLosses were expected"),
        ("losses", lambda found: replace(found, loss=found.loss.sum()), "loss, one a term"),
        ("losses", lambda found: replace(found, kl=found.loss[1:]), "kl, one a term"),
        (
            "losses",
            lambda found: replace(found, clipped_low=found.clipped_low.double()),
            "clipped_low, one a term",
        ),
    ],
)
def test_anything_else_is_named_with_its_package(
    method: str, change: Callable[[Any], Any], says: str
) -> None:
    with pytest.raises(PluginError) as caught:
        use(watched(Mine(method, change), OWNER))
    message = str(caught.value)
    assert message.startswith(f"{OWNER}: {method} gave ")
    assert says in message
    assert "\n" not in message


def test_options_say_which_of_the_two_an_objective_is() -> None:
    """A class of the other kind is refused, with the class to derive from."""
    provenance = Provenance("stranger", "0.1")
    target = "opendllm.plugins.objectives.mdlm:Mdlm"
    wrong = Registration[Objective]("objectives", "x", PolicyObjectiveOptions, target, "", provenance)
    with pytest.raises(PluginError, match=r"is no PolicyObjective: .*registries\.policies\.PolicyObjective"):
        wrong.check()
    target = "opendllm.plugins.objectives.trace_rl:TraceRl"
    other = Registration[Objective]("objectives", "x", ObjectiveOptions, target, "", provenance)
    with pytest.raises(PluginError, match=r"is no Objective: .*registries\.objectives\.Objective"):
        other.check()
