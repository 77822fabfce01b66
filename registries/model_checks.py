"""What a backbone's and its model's methods have to return, see `result_checks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opendllm.registries.attribute_checks import wrong_attribute
from opendllm.registries.backbones import CanvasReader, DiffusionLM
from opendllm.registries.plugin_calls import Check
from opendllm.registries.tensor_checks import described, wrong_tensor, wrong_type


def _model(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if not isinstance(result, DiffusionLM):
        return (
            f"gave {described(result)}, and a DiffusionLM was expected: derive its class from "
            f"opendllm.registries.backbones.DiffusionLM"
        )
    issue = wrong_attribute(result, DiffusionLM)
    return None if issue is None else f"gave a model whose {issue}"


def _predictors(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "int64", list(given[0].shape), "a column for each position")


def _reader(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_type(result, CanvasReader, "a CanvasReader")


def _read(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    count = len(given[1].rows)
    if len(getattr(result, "shape", ())) != 2 or "float" not in str(result.dtype) or len(result) != count:
        return f"gave {described(result)}, and float [{count}, D] was expected: one state a position"
    return None


def _replaced(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_type(result, bool, "whether it does")


def _fixed(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if result is None or (isinstance(result, int) and not isinstance(result, bool)):
        return None
    return f"gave {described(result)}, and a number of bytes, or None, was expected"


def _network(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return None if hasattr(result, "state_dict") else f"gave {described(result)}, and a module was expected"


def _stops(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    if isinstance(result, tuple) and all(isinstance(each, int) for each in result):
        return None
    return f"gave {result!r:.60}, and a tuple of token ids was expected"


def _logits(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    shape = [*given[0].shape[:-1], plugin.vocab_size]
    return wrong_tensor(result, "float", shape, "one logit a token of `vocab_size`")


def _likelihoods(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    return wrong_tensor(result, "float", [int(given[2].sum())], "one likelihood a scored position")


def _states(plugin: Any, given: Sequence[Any], result: Any) -> str | None:
    shape = list(given[0].tokens.shape)
    found = getattr(result, "shape", ())
    if len(found) != len(shape) + 1 or list(found[:-1]) != shape or "float" not in str(result.dtype):
        return f"gave {described(result)}, and float [{', '.join(map(str, shape))}, D] was expected"
    return None


MODEL_CHECKS: Mapping[tuple[str, str], Check] = {
    ("Backbone", "build"): _model,
    ("Backbone", "load"): _model,
    ("DiffusionLM", "project"): _logits,
    ("DiffusionLM", "hidden_states"): _states,
    ("DiffusionLM", "network"): _network,
    ("DiffusionLM", "predictors"): _predictors,
    ("DiffusionLM", "reader"): _reader,
    ("DiffusionLM", "stops"): _stops,
    ("CanvasReader", "states"): _read,
    ("CanvasReader", "replace_rows"): _replaced,
    ("CanvasReader", "fix_memory"): _fixed,
    ("DiffusionLM", "negative_log_likelihood"): _likelihoods,
}
"""By contract and method."""
