"""LLaDA2.0 and 2.1: a mixture of experts, block-causal, no shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Glm4MoeConfig

from opendllm.core.networks.config_checks import (
    require_activation,
    require_counts,
    require_divides,
    require_full_attention,
    require_head_size,
    require_positive,
    require_values,
)
from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.core.networks.weight_pieces import Piece, expert_pieces, stacked_pieces
from opendllm.plugins.backbones import LLADA2_BLOCK_KEY, Llada2Options
from opendllm.plugins.backbones.presets import LLADA2
from opendllm.registries.backbones import Backbone
from opendllm.registries.errors import UserError

BLOCK_LENGTH = 32
"""Of the published checkpoints, whose config.json doesn't say it."""
"""Of models made here, whose vocabulary may be any."""
_HONOURED: dict[str, tuple[Any, ...]] = {
    "score_function": ("sigmoid",),
    "moe_router_enable_expert_bias": (True,),
    "use_qkv_bias": (False,),
    "use_bias": (False,),
    "use_rmsnorm": (True,),
    "use_qk_norm": (True,),
    "norm_head": (False,),
    "norm_softmax": (False,),
    "using_split_qkv_in_self_attention": (False,),
    "router_dtype": ("fp32", "float32"),
    "rope_scaling": ({},),
}
"""The published values; others would be another arithmetic."""
_ROTATED = 0.5
"""The share of head_dim that RoPE turns where config.json is silent, as in the published LLaDA2MoeConfig."""
_PUBLISHED_TYPE = "llada2_moe"
"""Of checkpoints whose experts have tensors of their own. dFactory's llada2_moe_veomni has them stacked, and
its loader expects them so: what is saved here has them apart."""
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
    _check(config)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rotary = _rotary_dim(config, head_dim)
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
        block_length=config.get(LLADA2_BLOCK_KEY, BLOCK_LENGTH if published else None),
        block_key=LLADA2_BLOCK_KEY if LLADA2_BLOCK_KEY in config else None,
        model_type=_PUBLISHED_TYPE,
    )


def _check(config: Mapping[str, Any]) -> None:
    """Refuse what would be another arithmetic, and a router that can't choose as many experts as it is to."""
    require_values(config, _HONOURED)
    require_full_attention(config)
    require_activation(config)
    require_positive(config, "rms_norm_eps", "rope_theta", "routed_scaling_factor")
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers")
    heads = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    require_counts(config, *sizes, *heads, "num_experts", "num_shared_experts", "n_group")
    require_head_size(config)
    require_counts(config, "first_k_dense_replace", least=0, most=config["num_hidden_layers"])
    require_divides(config, "n_group", "num_experts")
    in_group = config["num_experts"] // config["n_group"]
    if in_group < 2:
        raise UserError(
            f"config.json: n_group is {config['n_group']}, of {config['num_experts']} experts: a group is "
            f"scored by its two best experts, so each is to have two"
        )
    require_counts(config, "topk_group", most=config["n_group"])
    require_counts(config, "num_experts_per_tok", most=config["topk_group"] * in_group)


def _rotary_dim(config: Mapping[str, Any], head_dim: int) -> int:
    """How many of a head's numbers are turned: the first ones, by `partial_rotary_factor`.

    Raises:
        UserError: that is none, or `rotary_dim`, which the published code never reads, says another number.
    """
    share = config.get("partial_rotary_factor")
    share = _ROTATED if share is None else share
    if type(share) not in (int, float) or not 0 < share <= 1 or int(head_dim * share) % 2:
        raise UserError(
            f"config.json: partial_rotary_factor is {share!r}: it is to make an even part of head_dim, "
            f"{head_dim}"
        )
    rotary = int(head_dim * share)
    if config.get("rotary_dim") not in (None, rotary):
        raise UserError(
            f"config.json: rotary_dim is {config['rotary_dim']!r}, and partial_rotary_factor ({share}) of "
            f"head_dim ({head_dim}) is {rotary}"
        )
    return rotary
