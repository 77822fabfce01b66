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
from opendllm.registries.plugin_calls import Check, ItemCheck

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
    return _shape(result, list(given[0].shape), "the shape of t") or _floating(result)


def _masking(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Masking):
        return f"gave {described(result)}, and a Masking was expected"
    maskable = result.rows.maskable
    for name in ("masked", "mask_probability", "time"):
        issue = _shape(getattr(result, name), list(maskable.shape), f"{name} [B, L]")
        if issue is not None:
            return issue
    if not str(result.masked.dtype).endswith("bool"):
        return f"gave masked as {described(result.masked)}, and bool was expected"
    wrong = int((result.masked & ~maskable).sum())
    if wrong:
        return f"masked {wrong} tokens of prompts or padding: {_LEAVE}"
    return None


def _corruption(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, Corruption):
        return f"gave {described(result)}, and a Corruption was expected"
    shape = list(result.inputs.tokens.shape)
    for name in ("targets", "scored"):
        issue = _shape(getattr(result, name), shape, f"{name} as large as the inputs")
        if issue is not None:
            return issue
    if not str(result.scored.dtype).endswith("bool"):
        return f"gave scored as {described(result.scored)}, and bool was expected"
    weights = [int(result.scored.sum())]
    issue = _shape(result.weight, weights, "one weight a scored position") or _floating(result.weight)
    if issue is None:
        issue = _shape(result.count, [], "a scalar count")
    rows = given[0].rows
    if issue is None and list(rows.tokens.shape) == shape:
        wrong = int(((result.inputs.tokens != rows.tokens) & ~rows.maskable).sum())
        if wrong:
            issue = f"changed {wrong} tokens of prompts or padding: {_LEAVE}"
    return issue


def _noise_mass(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, NoiseMass):
        return f"gave {described(result)}, and a NoiseMass was expected"
    shape = list(given[0].shape)
    return _shape(result.mask, shape, "mask in the shape of t") or _shape(
        result.other, shape, "other in the shape of t"
    )


def _losses(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return _shape(result, [len(given[0])], "one loss a position") or _floating(result)


def _logits(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    shape = [*given[0].shape[:-1], plugin.vocab_size]
    return _shape(result, shape, "one logit a token of `vocab_size`") or _floating(result)


def _states(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    inputs = given[0]
    if not hasattr(result, "shape") or list(result.shape[:-1]) != list(inputs.tokens.shape):
        return f"gave {described(result)}, and [{', '.join(map(str, inputs.tokens.shape))}, D] was expected"
    return _floating(result)


def _floating(value: Any) -> str | None:
    if "float" in str(value.dtype):
        return None
    return f"gave {described(value)}, and floating-point numbers were expected"


def _shape(value: Any, shape: list[int], what: str) -> str | None:
    if hasattr(value, "shape") and list(value.shape) == shape:
        return None
    return f"gave {described(value)}, and {shape} was expected: {what}"


RESULT_CHECKS: Mapping[tuple[str, str], Check] = {
    ("Benchmark", "requests"): _requests,
    ("NoiseSchedule", "alpha"): _like_time,
    ("NoiseSchedule", "alpha_prime"): _like_time,
    ("NoiseSchedule", "elbo_weight"): _like_time,
    ("NoiseSchedule", "mask_probability"): _like_time,
    ("NoiseSchedule", "noise_mass"): _noise_mass,
    ("NoiseSchedule", "noise_mass_prime"): _noise_mass,
    ("Objective", "position_losses"): _losses,
    ("Objective", "mask"): _masking,
    ("Objective", "corrupt"): _corruption,
    ("DiffusionLM", "project"): _logits,
    ("DiffusionLM", "hidden_states"): _states,
}
"""By contract and method; of the first call of each plugin."""
ITEM_CHECKS: Mapping[tuple[str, str], ItemCheck] = {("Corpus", "documents"): _document}
"""By contract and method; of everything that is yielded."""
