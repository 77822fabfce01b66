"""LLaDA2.0 and 2.1: a mixture of experts, block-causal, no shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Glm4MoeConfig

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.core.networks.weight_pieces import Piece, expert_pieces, stacked_pieces
from opendllm.plugins.backbones import Llada2Options
from opendllm.plugins.backbones.presets import LLADA2
from opendllm.registries.backbones import Backbone
from opendllm.registries.errors import UserError

BLOCK_LENGTH = 32
"""Of the published checkpoints, whose config.json doesn't say it."""
BLOCK_KEY = "block_length"
"""Of models made here, whose vocabulary may be any."""
_ONLY: dict[str, Any] = {
    "score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "use_qkv_bias": False,
    "use_bias": False,
    "use_rmsnorm": True,
    "norm_head": False,
    "using_split_qkv_in_self_attention": False,
}
"""The published values; others would be another arithmetic."""
_LAYER_KEYS = {
    "self_attn.q_norm.weight": "attention.query_layernorm.weight",
    "self_attn.k_norm.weight": "attention.key_layernorm.weight",
    "self_attn.o_proj.weight": "attention.dense.weight",
    "mlp.gate.e_score_correction_bias": "mlp.gate.expert_bias",
}


def llada2(options: Llada2Options) -> Backbone:
    """inclusionAI/LLaDA2.0-mini, -flash, their -CAP, LLaDA2.1-mini and -flash."""
    return TransformersBackbone(options, LLADA2[options.preset], _format)


def _format(config: Mapping[str, Any]) -> CheckpointFormat:
    """transformers' Glm4Moe, whose router leaves out unselected groups as LLaDA2's does."""
    for key, value in _ONLY.items():
        if config.get(key, value) != value:
            raise UserError(f"config.json sets {key} to {config[key]!r}, which is not supported")
    if config.get("rope_scaling"):
        raise UserError("config.json sets rope_scaling, which is not supported")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rotary = config.get("rotary_dim") or int(head_dim * config.get("partial_rotary_factor", 1.0))
    network = Glm4MoeConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        moe_intermediate_size=config["moe_intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config["num_key_value_heads"],
        head_dim=head_dim,
        hidden_act=config.get("hidden_act", "silu"),
        max_position_embeddings=config["max_position_embeddings"],
        rms_norm_eps=config["rms_norm_eps"],
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": config["rope_theta"],
            "partial_rotary_factor": rotary / head_dim,
        },
        num_experts_per_tok=config["num_experts_per_tok"],
        n_routed_experts=config["num_experts"],
        n_shared_experts=config["num_shared_experts"],
        routed_scaling_factor=config["routed_scaling_factor"],
        n_group=config["n_group"],
        topk_group=config["topk_group"],
        first_k_dense_replace=config["first_k_dense_replace"],
        norm_topk_prob=True,  # always, whatever config.json says
        use_qk_norm=True,
    )
    keys = {"model.embed_tokens.weight": "model.word_embeddings.weight"}
    pieces: dict[str, Any] = {}
    stacked: dict[str, Any] = {}
    width = config["moe_intermediate_size"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        keys |= {f"{prefix}.{ours}": f"{prefix}.{theirs}" for ours, theirs in _LAYER_KEYS.items()}
        pieces[f"{prefix}.attention.query_key_value.weight"] = tuple(
            Piece(f"{prefix}.self_attn.{name}_proj.weight") for name in ("q", "k", "v")
        )
        if layer >= config["first_k_dense_replace"]:
            experts = f"{prefix}.mlp.experts"
            pieces |= expert_pieces(experts, experts, config["num_experts"], width)
            stacked |= stacked_pieces(experts, experts, width)
    published = config["vocab_size"] > max(Llada2Options.known_ids.values())
    return CheckpointFormat(
        "llada2",
        network,
        keys,
        False,
        config["max_position_embeddings"],
        pieces=pieces,
        other_pieces=stacked,
        block_length=config.get(BLOCK_KEY, BLOCK_LENGTH if published else None),
        block_key=BLOCK_KEY if BLOCK_KEY in config else None,
    )
