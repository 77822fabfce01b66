"""Sizes read from a family's config.json, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opendllm.registries.architecture import Architecture


def qwen_architecture(config: Mapping[str, Any], query_key_norm: bool = False) -> Architecture:
    """Of a Qwen2- or Qwen3-shaped config.json."""
    heads = config["num_attention_heads"]
    return Architecture(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config["num_key_value_heads"],
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
        tied=config["tie_word_embeddings"],
        attention_bias=not query_key_norm,
        query_key_norm=query_key_norm,
    )


def llada_architecture(config: Mapping[str, Any]) -> Architecture:
    """Of a LLaDA config.json."""
    heads = config["n_heads"]
    return Architecture(
        vocab_size=config.get("embedding_size") or config["vocab_size"],
        hidden_size=config["d_model"],
        intermediate_size=config["mlp_hidden_size"],
        layers=config["n_layers"],
        heads=heads,
        key_value_heads=config.get("n_kv_heads") or heads,
        head_size=config["d_model"] // heads,
        tied=config["weight_tying"],
        attention_bias=config["include_qkv_bias"],
    )


def stated_config(
    pretrained: str | None, preset: Mapping[str, Any], vocab_size: int | None
) -> dict[str, Any]:
    """The config.json to plan with.

    Args:
        pretrained: a folder is read; a hub id is taken to have the preset's sizes, so that nothing is
            downloaded to plan with.
        preset: config.json of the named size.
        vocab_size: of a tokenizer that is trained for a model from scratch.
    """
    if pretrained is not None:
        path = Path(pretrained).expanduser() / "config.json"
        if path.is_file():
            config: dict[str, Any] = json.loads(path.read_text())
            return config
    elif vocab_size is not None:
        return {**preset, "vocab_size": vocab_size, "embedding_size": vocab_size}
    return dict(preset)
