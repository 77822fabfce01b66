"""What an objective's methods have to return, see `result_checks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opendllm.registries.backbones import DistributionLoss
from opendllm.registries.objectives import Corruption, Masking
from opendllm.registries.plugin_calls import LOOK_AGAIN, Check
from opendllm.registries.tensor_checks import described, wrong_tensor, wrong_type

_LEAVE = "leave positions alone where `rows.maskable` is False"


def _masking(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Masking):
        return f"gave {described(result)}, and a Masking was expected"
    rows = result.rows
    shape = list(rows.maskable.shape)
    for name, kind in (("masked", "bool"), ("mask_probability", "float"), ("time", "float")):
        issue = wrong_tensor(getattr(result, name), kind, shape, f"{name} [B, L]")
        if issue is not None:
            return issue
    maskable = rows.maskable
    if list(given[0].maskable.shape) == shape:
        maskable = maskable & given[0].maskable
    wrong = int((result.masked & ~maskable).sum())
    if wrong:
        return f"masked {wrong} tokens of prompts or padding: {_LEAVE}"
    if result.noisy is not None:
        issue = wrong_tensor(result.noisy, "int64", shape, "noisy [B, L]")
        if issue is not None:
            return issue
        wrong = int(((result.noisy != rows.tokens) & ~maskable).sum())
        if wrong:
            return f"replaced {wrong} tokens of prompts or padding: {_LEAVE}"
    return _unless_all(maskable)


def _corruption(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Corruption):
        return f"gave {described(result)}, and a Corruption was expected"
    read, scored = result.inputs.tokens, result.scored
    shape = list(read.shape)
    issue = (
        wrong_tensor(read, "int64", shape, "tokens to read")
        or wrong_tensor(result.targets, "int64", shape, "targets as large as the inputs")
        or wrong_tensor(scored, "bool", shape, "scored as large as the inputs")
    )
    if issue is None:
        count = [int(scored.sum())]
        issue = wrong_tensor(result.weight, "float", count, "one weight a scored position") or wrong_tensor(
            result.count, "float", [], "a scalar count"
        )
        if issue is None and result.time is not None:
            issue = wrong_tensor(result.time, "float", count, "one time a scored position")
    if issue is None and plugin.reads_distributions and (result.time is None or result.ids is None):
        issue = "gave no `time` or no `ids`, which an objective that reads distributions needs"
    return issue or _prompts_kept(given[0].rows, result)


def _prompts_kept(rows: Any, result: Corruption) -> str | None:
    """Whether prompts and padding are read as they are, and not scored; in each copy and half of a row."""
    read = result.inputs.tokens
    (count, length), (rows_read, columns) = rows.tokens.shape, read.shape
    if rows_read % count or columns % length:
        return None
    copies, halves = rows_read // count, columns // length
    clean, maskable = (
        each.repeat_interleave(copies, 0).repeat(1, halves) for each in (rows.tokens, rows.maskable)
    )
    wrong = int(((read != clean) & ~maskable).sum())
    if wrong:
        return f"changed {wrong} tokens of prompts or padding: {_LEAVE}"
    wrong = int((result.scored & ~maskable).sum())
    if wrong:
        return f"scored {wrong} tokens of prompts or padding: {_LEAVE}"
    return _unless_all(maskable)


def _unless_all(maskable: Any) -> str | None:
    """A batch without prompts and padding shows nothing of what becomes of them."""
    return LOOK_AGAIN if bool(maskable.all()) else None


def _losses(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "float", [len(given[0])], "one loss a position")


def _sum(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "float", [], "a sum")


def _answers(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, tuple) or len(result) != 2:
        return f"gave {described(result)}, and a loss and whether it counts were expected"
    losses, counted = result
    return _losses(plugin, given, losses) or wrong_tensor(
        counted, "bool", [len(given[0])], "whether each one counts"
    )


def _loss_part(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if callable(result) or isinstance(result, DistributionLoss):
        return None
    return f"gave {described(result)}, and a LossPart was expected: a function, or a DistributionLoss"


def _answer_count(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_type(result, DistributionLoss, "a DistributionLoss")


OBJECTIVE_CHECKS: Mapping[tuple[str, str], Check] = {
    ("Objective", "position_losses"): _losses,
    ("Objective", "answer_losses"): _answers,
    ("Objective", "loss_sum"): _sum,
    ("Objective", "loss_part"): _loss_part,
    ("Objective", "answer_count"): _answer_count,
    ("Objective", "mask"): _masking,
    ("Objective", "corrupt"): _corruption,
}
"""By contract and method."""
