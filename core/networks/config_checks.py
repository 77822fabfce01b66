"""What a family's config.json may say: values that the network honours, sizes that are sizes.

For the functions that read one (`TransformersBackbone`'s `describe`): a key that would change the arithmetic
and isn't honoured, or a number that no network can have, is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers.activations import ACT2FN

from opendllm.registries.errors import UserError


def require_values(config: Mapping[str, Any], honoured: Mapping[str, tuple[Any, ...]]) -> None:
    """Keys that may be missing or null, or have one of some values.

    Args:
        config: the family's config.json.
        honoured: by key, the values that mean what is computed.

    Raises:
        UserError: one has another value, which would be another arithmetic.
    """
    for key, values in honoured.items():
        found = config.get(key)
        if found is not None and found not in values:
            raise UserError(
                f"config.json sets {key} to {found!r}, which is not supported: it is to be "
                f"{' or '.join(map(repr, values))}, or left out"
            )


def require_counts(config: Mapping[str, Any], *keys: str, least: int = 1, most: int | None = None) -> None:
    """Keys that are whole numbers; a missing one is told by whoever reads it.

    Args:
        config: the family's config.json.
        keys: which.
        least: the smallest that is one.
        most: the largest; None for any.

    Raises:
        UserError: one is none.
    """
    for key in keys:
        found = config.get(key)
        if key not in config:
            continue
        if type(found) is not int or found < least or (most is not None and found > most):
            allowed = f"of {least} or more" if most is None else f"from {least} to {most}"
            raise UserError(f"config.json: {key} is {found!r}: it is to be a whole number {allowed}")


def require_positive(config: Mapping[str, Any], *keys: str) -> None:
    """Keys that are numbers above 0; one that is missing or null is told by whoever reads it.

    Raises:
        UserError: one is none.
    """
    for key in keys:
        found: Any = config.get(key)
        if found is not None and (type(found) not in (int, float) or not 0 < found < math.inf):
            raise UserError(f"config.json: {key} is {found!r}: it is to be a number above 0")


def require_activation(config: Mapping[str, Any]) -> None:
    """`hidden_act` may be missing, or one that transformers knows.

    Raises:
        UserError: it is another.
    """
    found = config.get("hidden_act")
    if found is not None and found not in ACT2FN:
        raise UserError(f"config.json sets hidden_act to {found!r}, which is no activation of transformers")


def require_divides(config: Mapping[str, Any], part: str, whole: str) -> None:
    """A size that another one is a multiple of; either may be missing.

    Raises:
        UserError: it isn't.
    """
    divisor, number = config.get(part), config.get(whole)
    if divisor is not None and number is not None and number % divisor:
        raise UserError(f"config.json: {part} is {divisor}, which {whole}, {number}, is no multiple of")


def require_head_size(config: Mapping[str, Any]) -> None:
    """Heads that share keys evenly, of a size that is given or that the width divides into.

    Raises:
        UserError: they don't.
    """
    require_divides(config, "num_key_value_heads", "num_attention_heads")
    if config.get("head_dim") is None:
        require_divides(config, "num_attention_heads", "hidden_size")
    else:
        require_counts(config, "head_dim")


def require_full_attention(config: Mapping[str, Any]) -> None:
    """No layer may look through a window.

    Raises:
        UserError: config.json asks for one.
    """
    layers = config.get("layer_types")
    windows = isinstance(layers, list) and any(kind != "full_attention" for kind in layers)
    key = "layer_types" if windows else "use_sliding_window"
    if windows or config.get("use_sliding_window"):
        raise UserError(f"config.json asks for sliding-window attention ({key}), which is not supported")
