"""The keys of a decoder's config.json that transformers' stock classes take as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DECODER_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
"""What a decoder of LLaMA's shape has to say."""
ROTARY = ("rope_theta", "rope_scaling", "rope_parameters")
"""transformers 4 writes the first two, transformers 5 the third."""
DECODER_DETAILS = ("tie_word_embeddings", "hidden_act", "head_dim", *ROTARY)
"""What it may say."""


def decoder_keys(
    config: Mapping[str, Any],
    required: Sequence[str] = DECODER_SIZES,
    optional: Sequence[str] = DECODER_DETAILS,
) -> dict[str, Any]:
    """What a stock class is built with: all that is required, and of the rest what the file gives.

    Args:
        config: the family's config.json, with the stock class's own names.
        required: keys that it must have.
        optional: keys that the stock class has a default for; null counts as not given.

    Raises:
        KeyError: config.json lacks one; `TransformersBackbone` names the file.
    """
    given = {key: config[key] for key in optional if config.get(key) is not None}
    return {**{key: config[key] for key in required}, **given}
