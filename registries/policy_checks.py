"""What a policy objective's methods have to return, see `result_checks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opendllm.registries.plugin_calls import Check
from opendllm.registries.policies import PolicyLosses, PolicyReading
from opendllm.registries.tensor_checks import described, wrong_tensor


def _readings(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Sequence) or not result:
        return f"gave {described(result)}, and one or more PolicyReadings were expected"
    for reading in result:
        if not isinstance(reading, PolicyReading):
            return f"gave {described(reading)} as a reading: make it a PolicyReading"
        issue = _reading(reading) or _terms(given[0].rows.maskable, reading)
        if issue is not None:
            return issue
    return None


def _reading(reading: PolicyReading) -> str | None:
    read = list(reading.inputs.tokens.shape)
    positions, terms = int(reading.scored.sum()), [len(reading.row)]
    if reading.guidance_scale:
        positions //= 2
    parts: tuple[tuple[str, Any, str, list[int], str], ...] = (
        ("inputs.tokens", reading.inputs.tokens, "int64", read, "tokens to read"),
        ("targets", reading.targets, "int64", read, "as large as the inputs"),
        ("scored", reading.scored, "bool", read, "as large as the inputs"),
        ("token", reading.token, "int64", [positions], "one term a scored position"),
        ("weight", reading.weight, "float", [positions], "one a scored position"),
        ("row", reading.row, "int64", terms, "one a term"),
        ("column", reading.column, "int64", terms, "one a term"),
        ("share", reading.share, "float", terms, "one a term"),
        ("kl_share", reading.kl_share, "float", terms, "one a term"),
        ("count", reading.count, "float", [], "a scalar"),
    )
    for name, value, kind, shape, what in parts:
        issue = wrong_tensor(value, kind, shape, f"{name}, {what}")
        if issue is not None:
            return issue
    return None


def _terms(maskable: Any, reading: PolicyReading) -> str | None:
    """Of tokens that there are, each put together from scored positions."""
    rows, columns = maskable.shape
    inside = (reading.row >= 0) & (reading.row < rows) & (reading.column >= 0) & (reading.column < columns)
    if not bool(inside.all()):
        return (
            f"gave a term of a token that isn't there: `row` and `column` are of the rollouts' "
            f"[{rows}, {columns}]"
        )
    wrong = int((~maskable[reading.row, reading.column]).sum())
    if wrong:
        return f"gave {wrong} terms of prompts or padding: an answer's tokens are where `rows.maskable`"
    terms = len(reading.row)
    wrong = int(((reading.token < 0) | (reading.token >= terms)).sum())
    if wrong:
        return f"gave {wrong} scored positions a term that isn't there: `token` numbers the {terms} from 0"
    return None


def _advantages(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "float", list(given[0].shape), "one advantage a reward")


def _kept(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "bool", list(given[0].shape[:1]), "one answer a prompt")


def _losses(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, PolicyLosses):
        return f"gave {described(result)}, and PolicyLosses were expected"
    terms = [len(given[0])]
    parts = [("loss", result.loss, "float"), ("clipped_low", result.clipped_low, "bool")]
    parts += [("clipped_high", result.clipped_high, "bool")]
    parts += [] if result.kl is None else [("kl", result.kl, "float")]
    for name, value, kind in parts:
        issue = wrong_tensor(value, kind, terms, f"{name}, one a term")
        if issue is not None:
            return issue
    return None


POLICY_CHECKS: Mapping[tuple[str, str], Check] = {
    ("PolicyObjective", "readings"): _readings,
    ("PolicyObjective", "advantages"): _advantages,
    ("PolicyObjective", "losses"): _losses,
    ("PolicyObjective", "kept"): _kept,
}
