"""What the contracts' methods have to return: looked at when a plugin is first called.

Each check says what is wrong in words that complete "samplers/x of package 0.1: select ...".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from opendllm.registries.benchmarks import GenerationRequest, LikelihoodRequest
from opendllm.registries.corpora import Document
from opendllm.registries.noise_schedules import NoiseMass
from opendllm.registries.objectives import Corruption, Masking
from opendllm.registries.plugin_calls import LOOK_AGAIN, Check, ItemCheck

_LEAVE = "leave positions alone where `rows.maskable` is False"


def described(value: Any) -> str:
    """Dtype and shape of a tensor, the type's name of anything else."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def _document(item: Any) -> str | None:
    if not isinstance(item, Document):
        return f"gave {described(item)}, and every one must be a Document"
    if not isinstance(item.name, str) or not isinstance(item.text, str):
        return (
            f"gave a Document with name {described(item.name)} and text {described(item.text)}: both must be "
            f"strings"
        )
    return None


def _requests(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Sequence):
        return f"gave {described(result)}, and a sequence of requests was expected"
    for request in result:
        if not isinstance(request, (GenerationRequest, LikelihoodRequest)):
            return f"gave {described(request)} as a request: make it a GenerationRequest or LikelihoodRequest"
    repeated = [
        key for key, count in Counter((each.task_id, each.setting) for each in result).items() if count > 1
    ]
    if repeated:
        task, setting = repeated[0]
        return (
            f"asks task {task!r} more than once in setting {setting!r}, so that answers can't be told apart: "
            f"give each its own `setting`"
        )
    return None


def _like_time(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _tensor(result, "float", list(given[0].shape), "the shape of t")


def _masking(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Masking):
        return f"gave {described(result)}, and a Masking was expected"
    rows = result.rows
    shape = list(rows.maskable.shape)
    for name, kind in (("masked", "bool"), ("mask_probability", "float"), ("time", "float")):
        issue = _tensor(getattr(result, name), kind, shape, f"{name} [B, L]")
        if issue is not None:
            return issue
    maskable = rows.maskable
    if list(given[0].maskable.shape) == shape:
        maskable = maskable & given[0].maskable
    wrong = int((result.masked & ~maskable).sum())
    if wrong:
        return f"masked {wrong} tokens of prompts or padding: {_LEAVE}"
    if result.noisy is not None:
        issue = _tensor(result.noisy, "int64", shape, "noisy [B, L]")
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
        _tensor(read, "int64", shape, "tokens to read")
        or _tensor(result.targets, "int64", shape, "targets as large as the inputs")
        or _tensor(scored, "bool", shape, "scored as large as the inputs")
    )
    if issue is None:
        count = [int(scored.sum())]
        issue = _tensor(result.weight, "float", count, "one weight a scored position") or _tensor(
            result.count, "float", [], "a scalar count"
        )
        if issue is None and result.time is not None:
            issue = _tensor(result.time, "float", count, "one time a scored position")
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


def _noise_mass(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, NoiseMass):
        return f"gave {described(result)}, and a NoiseMass was expected"
    shape = list(given[0].shape)
    return _tensor(result.mask, "float", shape, "mask in the shape of t") or _tensor(
        result.other, "float", shape, "other in the shape of t"
    )


def _losses(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _tensor(result, "float", [len(given[0])], "one loss a position")


def _sum(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _tensor(result, "float", [], "a sum")


def _answers(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, tuple) or len(result) != 2:
        return f"gave {described(result)}, and a loss and whether it counts were expected"
    losses, counted = result
    return _losses(plugin, given, losses) or _tensor(
        counted, "bool", [len(given[0])], "whether each one counts"
    )


def _logits(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    shape = [*given[0].shape[:-1], plugin.vocab_size]
    return _tensor(result, "float", shape, "one logit a token of `vocab_size`")


def _likelihoods(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _tensor(result, "float", [int(given[2].sum())], "one likelihood a scored position")


def _states(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    inputs = given[0]
    if not hasattr(result, "shape") or list(result.shape[:-1]) != list(inputs.tokens.shape):
        return f"gave {described(result)}, and [{', '.join(map(str, inputs.tokens.shape))}, D] was expected"
    return None


def _tensor(value: Any, kind: str, shape: list[int], what: str) -> str | None:
    """What is wrong with a tensor that should be of a shape, and of dtype `bool`, `int64` or any float."""
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if (
        hasattr(value, "shape")
        and list(value.shape) == shape
        and (kind in dtype if kind == "float" else kind == dtype)
    ):
        return None
    return f"gave {described(value)}, and {kind} {shape} was expected: {what}"


RESULT_CHECKS: Mapping[tuple[str, str], Check] = {
    ("Benchmark", "requests"): _requests,
    ("NoiseSchedule", "alpha"): _like_time,
    ("NoiseSchedule", "alpha_prime"): _like_time,
    ("NoiseSchedule", "elbo_weight"): _like_time,
    ("NoiseSchedule", "mask_probability"): _like_time,
    ("NoiseSchedule", "noise_mass"): _noise_mass,
    ("NoiseSchedule", "noise_mass_prime"): _noise_mass,
    ("Objective", "position_losses"): _losses,
    ("Objective", "answer_losses"): _answers,
    ("Objective", "loss_sum"): _sum,
    ("Objective", "mask"): _masking,
    ("Objective", "corrupt"): _corruption,
    ("DiffusionLM", "project"): _logits,
    ("DiffusionLM", "hidden_states"): _states,
    ("DiffusionLM", "negative_log_likelihood"): _likelihoods,
}
"""By contract and method; of the first call of each plugin."""
ITEM_CHECKS: Mapping[tuple[str, str], ItemCheck] = {("Corpus", "documents"): _document}
"""By contract and method; of everything that is yielded."""
