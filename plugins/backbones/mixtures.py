"""Mixtures of experts that transformers' Qwen3-MoE computes: a softmax router, no shared expert.

Routers are computed in float32 whatever the weights are in, where the stock class and LLaDA-MoE's own code
take the weights' dtype: a DeepSpeed engine casts them all. SDAR-MoE is not checked against published code,
which was not to be had, but against the stock class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel, Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from opendllm.core.networks.config_checks import (
    require_activation,
    require_counts,
    require_full_attention,
    require_head_size,
    require_positive,
    require_values,
)
from opendllm.core.networks.config_keys import ROTARY, decoder_keys
from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.core.networks.weight_pieces import Piece, expert_pieces
from opendllm.plugins.backbones import SDAR_BLOCK_KEY, LladaMoeOptions, SdarMoeOptions
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
_OPTIONAL = ("tie_word_embeddings", "hidden_act", "attention_dropout", "norm_topk_prob", *ROTARY)
_HONOURED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "clip_qkv": (False,),
    "shared_expert_intermediate_size": (0,),
    "num_shared_experts": (0,),
    "moe_router_enable_expert_bias": (False,),
    "moe_router_score_function": ("softmax",),
    "routed_scaling_factor": (1,),
    "qk_layernorm": (True,),
    "use_qk_norm": (True,),
    "partial_rotary_factor": (1,),
    "router_num_group": (-2, -1, 0, 1),
    "router_topk_group": (-2, -1, 0, 1),
    "n_group": (1,),
    "topk_group": (1,),
}
"""What the stock class computes, whatever a config.json says; LLaDA-MoE's -2 is no group."""


class Float32Router(Qwen3MoeTopKRouter):
    """The stock router, in float32 throughout: logits, probabilities and the weights of what is chosen."""

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """([N, E], [N, k], [N, k] int64): logits, the chosen experts' weights, and which these are."""
        tokens = hidden_states.reshape(-1, self.hidden_dim).float()
        logits = linear(tokens, self.weight.float())
        weights, chosen = logits.softmax(-1).topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights, chosen


def route_in_float32(network: PreTrainedModel) -> None:
    """Turn every router into a `Float32Router` where it stands."""
    for module in network.modules():
        if type(module) is Qwen3MoeTopKRouter:
            module.__class__ = Float32Router


def sdar_moe(options: SdarMoeOptions) -> Backbone:
    """JetLM/SDAR-30B-A3B: Qwen3-MoE, block-causal, no shift."""
    return TransformersBackbone(options, SDAR_MOE[options.preset], _sdar_moe)


def llada_moe(options: LladaMoeOptions) -> Backbone:
    """inclusionAI/LLaDA-MoE-7B-A1B-Base and -Instruct: bidirectional, no shift.

    OLMoE's router and Qwen3's normalisation of each head, so Qwen3-MoE without renormalised weights, as in
    inclusionAI/dInfer @fce4e328, tools/modeling_fused_lladamoe.py.
    """
    return TransformersBackbone(options, LLADA_MOE[options.preset], _llada_moe)


def _sdar_moe(config: Mapping[str, Any]) -> CheckpointFormat:
    _check(config, "intermediate_size", "moe_intermediate_size", "decoder_sparse_step")
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
        block_length=config.get(SDAR_BLOCK_KEY),
        block_key=SDAR_BLOCK_KEY,
        softmax_router=True,
        adapt=route_in_float32,
    )


def _llada_moe(config: Mapping[str, Any]) -> CheckpointFormat:
    _check(config, "expert_intermediate_size")
    width = config["expert_intermediate_size"]
    layers = range(config["num_hidden_layers"])
    frequency = config.get("moe_layer_freq") or [1 for _ in layers]
    if not isinstance(frequency, list) or len(frequency) != len(layers):
        raise UserError(
            f"config.json: moe_layer_freq is {frequency!r}: it is to be a list with an entry for each of the "
            f"{len(layers)} layers"
        )
    sparse = [layer for layer in layers if frequency[layer]]
    network = Qwen3MoeConfig(
        **{**_stock_sizes(config), "norm_topk_prob": False},  # always, whatever config.json says
        moe_intermediate_size=width,
        intermediate_size=config.get("dense_intermediate_size") or width,
        mlp_only_layers=[layer for layer in layers if not frequency[layer]],
    )
    return CheckpointFormat(
        "llada-moe",
        network,
        {},
        False,
        config["max_position_embeddings"],
        pieces=_expert_keys(sparse, config["num_experts"], width),
        softmax_router=True,
        adapt=route_in_float32,
    )


def _check(config: Mapping[str, Any], *counts: str) -> None:
    """Refuse another router or attention than the stock class computes, and sizes that are none."""
    require_values(config, _HONOURED)
    require_full_attention(config)
    sizes = [key for key in _SIZES if key != "rms_norm_eps"]
    require_counts(config, *sizes, *counts)
    require_counts(config, "num_experts_per_tok", most=config["num_experts"])
    require_head_size(config)
    require_activation(config)
    require_positive(config, "rms_norm_eps", "rope_theta")


def _stock_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return {**decoder_keys(config, _SIZES, _OPTIONAL), "head_dim": head_dim}


def _expert_keys(layers: Any, experts: int, width: int) -> dict[str, tuple[Piece, ...]]:
    return {
        key: tuple(parts)
        for layer in layers
        for key, parts in expert_pieces(
            f"model.layers.{layer}.mlp.experts", f"model.layers.{layer}.mlp.experts", experts, width
        )
    }
