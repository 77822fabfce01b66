"""The repeated part of a network: what is compiled once for all of them, and fetched at once under ZeRO 3."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, wraps
from types import MethodType
from typing import Any

import torch
from torch import nn


def decoder_layers(module: nn.Module) -> list[nn.Module]:
    """Its modules that transformers says are never split over devices (`_no_split_modules`), outermost only.

    Empty where no part of it is a transformers model.
    """
    names: set[str] = set()
    for part in module.modules():
        names |= set(getattr(part, "_no_split_modules", None) or ())
    found: dict[str, nn.Module] = {}
    for path, part in module.named_modules():  # an outer one comes before what it holds
        if type(part).__name__ in names and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = part
    return list(found.values())


def compile_layers(layers: list[nn.Module]) -> None:
    """Compile the forward of each, while gradients are wanted: layers of one form share what is compiled.

    What is only measured, in batches of other shapes, stays as it is: it isn't worth a compilation.
    Hooks, such as DeepSpeed's, and the computing again of activations stay outside.
    """
    from torch._functorch import config

    if hasattr(config, "guess_tangent_strides_as_outputs"):
        # Attention is outside: gradients come back in the strides that its inputs had. Else torch 2.11 copies
        # them all, 3 ms of a step of 24 layers.
        config.guess_tangent_strides_as_outputs = True
    for layer in layers:
        again = getattr(layer, "_gradient_checkpointing_func", None)
        if again is not None and getattr(layer, "gradient_checkpointing", False):
            layer._gradient_checkpointing_func = _of_compiled(again)  # type: ignore[assignment]
        else:
            layer.forward = _compiled_for_training(layer.forward)


def _compiled_for_training(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward)

    @wraps(forward)
    def chosen(*arguments: Any, **named: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else forward)(*arguments, **named)

    return chosen


def _of_compiled(checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """torch's checkpoint function, as transformers' layers call it, with a forward bound to arguments."""

    def computed(bound: partial[Any], *arguments: Any) -> Any:
        forward: Any = bound.func
        given = bound.args
        if isinstance(forward, MethodType):  # what is kept by its function keeps no layer alive
            forward, given = forward.__func__, (forward.__self__, *given)
        return checkpoint(partial(_compiled_function(forward), *given, **bound.keywords), *arguments)

    return computed


@cache
def _compiled_function(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(forward)
    return compiled
