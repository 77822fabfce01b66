"""Mixtures of experts that transformers' Qwen3-MoE computes: a softmax router, no shared expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen3MoeConfig

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.core.networks.weight_pieces import Piece, expert_pieces
from opendllm.plugins.backbones import LladaMoeOptions, SdarMoeOptions
from opendllm.plugins.backbones.presets import LLADA_MOE, SDAR_MOE
from opendllm.registries.backbones import Backbone
from opendllm.registries.errors import UserError

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts",
    "num_experts_per_tok",
    "max_position_embeddings",
    "rms_norm_eps",
)
_OPTIONAL = ("tie_word_embeddings", "hidden_act", "attention_dropout", "norm_topk_prob")
_ROTARY = ("rope_theta", "rope_scaling", "rope_parameters")
_UNKNOWN = ("attention_bias", "clip_qkv", "shared_expert_intermediate_size", "router_num_group")
"""What these stock classes would silently compute otherwise."""


def sdar_moe(options: SdarMoeOptions) -> Backbone:
    """JetLM/SDAR-30B-A3B: Qwen3-MoE, block-causal, no shift."""
    return TransformersBackbone(options, SDAR_MOE[options.preset], _sdar_moe)


def llada_moe(options: LladaMoeOptions) -> Backbone:
    """inclusionAI/LLaDA-MoE-7B-A1B-Base and -Instruct: bidirectional, no shift.

    OLMoE's router and Qwen3's normalisation of each head, so Qwen3-MoE without renormalised weights.
    """
    return TransformersBackbone(options, LLADA_MOE[options.preset], _llada_moe)


def _sdar_moe(config: Mapping[str, Any]) -> CheckpointFormat:
    dense = config.get("mlp_only_layers") or []
    step = config.get("decoder_sparse_step", 1)
    sparse = [
        layer
        for layer in range(config["num_hidden_layers"])
        if layer not in dense and (layer + 1) % step == 0
    ]
    network = Qwen3MoeConfig(
        **_stock_sizes(config),
        moe_intermediate_size=config["moe_intermediate_size"],
        intermediate_size=config["intermediate_size"],
        mlp_only_layers=list(dense),
        decoder_sparse_step=step,
    )
    return CheckpointFormat(
        "sdar-moe",
        network,
        {},
        False,
        config["max_position_embeddings"],
        pieces=_expert_keys(sparse, config["num_experts"], config["moe_intermediate_size"]),
        block_length=config.get("block_size"),
        block_key="block_size",
    )


def _llada_moe(config: Mapping[str, Any]) -> CheckpointFormat:
    if config.get("moe_router_score_function", "softmax") != "softmax" or not config.get(
        "qk_layernorm", True
    ):
        raise UserError("config.json describes another router or attention than LLaDA-MoE's")
    width = config["expert_intermediate_size"]
    network = Qwen3MoeConfig(
        **{"norm_topk_prob": False, **_stock_sizes(config)},
        moe_intermediate_size=width,
        intermediate_size=config.get("dense_intermediate_size") or width,
    )
    layers = range(config["num_hidden_layers"])
    return CheckpointFormat(
        "llada-moe",
        network,
        {},
        False,
        config["max_position_embeddings"],
        pieces=_expert_keys(layers, config["num_experts"], width),
    )


def _stock_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    for key in _UNKNOWN:
        if config.get(key):
            raise UserError(f"config.json sets {key}, which is not supported")
    if config.get("use_sliding_window"):
        raise UserError("config.json asks for sliding-window attention, which is not supported")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    given = {key: config[key] for key in (*_OPTIONAL, *_ROTARY) if config.get(key) is not None}
    return {**{key: config[key] for key in _SIZES}, **given, "head_dim": head_dim}


def _expert_keys(layers: Any, experts: int, width: int) -> dict[str, tuple[Piece, ...]]:
    return {
        key: tuple(parts)
        for layer in layers
        for key, parts in expert_pieces(
            f"model.layers.{layer}.mlp.experts", f"model.layers.{layer}.mlp.experts", experts, width
        )
    }
