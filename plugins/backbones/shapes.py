"""Sizes read from a family's config.json, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from opendllm.registries.architecture import Architecture, ExpertSizes
from opendllm.registries.errors import UserError

CONFIG_FILE = "config.json"

OUR_SIZES = ("nano", "small", "60m")
"""Presets that no published checkpoint has."""


def qwen_architecture(config: Mapping[str, Any]) -> Architecture:
    """Of a Qwen2- or Qwen3-shaped config.json."""
    third = str(config["model_type"]).endswith("qwen3")
    return _decoder(config, attention_bias=not third, query_key_norm=third)


def causal_lm_architecture(config: Mapping[str, Any]) -> Architecture | None:
    """Of a transformers config.json; None where the model_type is not one whose formula is known here."""
    if config["model_type"] in ("qwen2", "qwen3"):
        return qwen_architecture(config)
    biases = config.get("attention_bias") or config.get("mlp_bias")
    return _decoder(config) if config["model_type"] in ("llama", "mistral") and not biases else None


def _decoder(
    config: Mapping[str, Any], attention_bias: bool = False, query_key_norm: bool = False
) -> Architecture:
    heads = config["num_attention_heads"]
    return Architecture(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
        tied=config.get("tie_word_embeddings", False),
        attention_bias=attention_bias,
        query_key_norm=query_key_norm,
    )


def sdar_architecture(config: Mapping[str, Any]) -> Architecture:
    """Of an SDAR config.json."""
    return _decoder(config, query_key_norm=True)


def sdar_moe_architecture(config: Mapping[str, Any]) -> Architecture:
    """Of a sparse SDAR config.json."""
    layers = range(config["num_hidden_layers"])
    dense, step = config.get("mlp_only_layers") or [], config.get("decoder_sparse_step", 1)
    sparse = sum(layer not in dense and (layer + 1) % step == 0 for layer in layers)
    experts = ExpertSizes(
        sparse, config["num_experts"], config["num_experts_per_tok"], config["moe_intermediate_size"]
    )
    return replace(_decoder(config, query_key_norm=True), experts=experts)


def llada_moe_architecture(config: Mapping[str, Any]) -> Architecture:
    """Of a LLaDA-MoE config.json."""
    width = config["expert_intermediate_size"]
    layers = config["num_hidden_layers"]
    sparse = sum(map(bool, config.get("moe_layer_freq") or [1] * layers))
    experts = ExpertSizes(sparse, config["num_experts"], config["num_experts_per_tok"], width)
    sizes = {**config, "intermediate_size": config.get("dense_intermediate_size") or width}
    return replace(_decoder(sizes, query_key_norm=True), experts=experts)


def llada2_architecture(config: Mapping[str, Any]) -> Architecture:
    """Of an LLaDA2 config.json."""
    experts = ExpertSizes(
        layers=config["num_hidden_layers"] - config["first_k_dense_replace"],
        experts=config["num_experts"],
        active=config["num_experts_per_tok"],
        intermediate_size=config["moe_intermediate_size"],
        shared=config["num_shared_experts"],
    )
    return replace(_decoder(config, query_key_norm=True), experts=experts)


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
    )


def planned_architecture(
    read: Callable[[Mapping[str, Any]], Architecture | None],
    pretrained: str | None,
    presets: Mapping[str, Mapping[str, Any]],
    preset: str,
    vocab_size: int | None,
) -> Architecture | None:
    """The sizes to plan with.

    Args:
        read: finds them in the family's config.json.
        pretrained: a folder's config.json is read; a hub id is taken to have the preset's sizes, so
            that nothing is downloaded to plan with. They are unknown for one of `OUR_SIZES`.
        presets: config.json of each named size.
        preset: the named size.
        vocab_size: of a tokenizer that is trained for a model from scratch.

    Raises:
        UserError: config.json cannot be read, or lacks a size.
    """
    if pretrained is None:
        sizes = {} if vocab_size is None else {"vocab_size": vocab_size, "embedding_size": vocab_size}
        return read({**presets[preset], **sizes})
    path = Path(pretrained).expanduser() / CONFIG_FILE
    if not path.is_file():
        return None if preset in OUR_SIZES else read(presets[preset])
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except KeyError as error:
        raise UserError(f"{path} lacks the key {error}") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
