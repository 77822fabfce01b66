"""LLaDA: LLaMA-shaped under its own key names, bidirectional, no shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig

from opendllm.core.networks.config_checks import (
    require_counts,
    require_divides,
    require_positive,
    require_values,
)
from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.plugins.backbones import LladaOptions
from opendllm.plugins.backbones.presets import LLADA
from opendllm.registries.backbones import Backbone

_LAYER_KEYS = {
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
}
_OUTER_KEYS = {
    "model.embed_tokens.weight": "model.transformer.wte.weight",
    "model.norm.weight": "model.transformer.ln_f.weight",
    "lm_head.weight": "model.transformer.ff_out.weight",
}


_HONOURED: dict[str, tuple[Any, ...]] = {
    "alibi": (False,),
    "rope": (True,),
    "attention_layer_norm": (False,),
    "multi_query_attention": (False,),
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "bias_for_layer_norm": (False,),
    "include_bias": (False,),
    "include_qkv_bias": (False,),
    "input_emb_norm": (False,),
    "scale_logits": (False,),
    "clip_qkv": (False,),
    "rope_scaling": ({},),
}
"""The published values; others would be another arithmetic."""


def llada(options: LladaOptions) -> Backbone:
    """GSAI-ML/LLaDA-8B-Base, -Instruct, LLaDA-1.5 and models of their kind."""
    return TransformersBackbone(options, LLADA[options.preset], _format)


def _format(config: Mapping[str, Any]) -> CheckpointFormat:
    require_values(config, _HONOURED)
    require_counts(config, "d_model", "mlp_hidden_size", "n_layers", "n_heads", "max_sequence_length")
    if config.get("n_kv_heads") is not None:
        require_counts(config, "n_kv_heads", most=config["n_heads"])
        require_divides(config, "n_kv_heads", "n_heads")
    require_divides(config, "n_heads", "d_model")
    require_positive(config, "rms_norm_eps", "rope_theta")
    network = LlamaConfig(
        vocab_size=config.get("embedding_size") or config["vocab_size"],
        hidden_size=config["d_model"],
        intermediate_size=config["mlp_hidden_size"],
        num_hidden_layers=config["n_layers"],
        num_attention_heads=config["n_heads"],
        num_key_value_heads=config.get("n_kv_heads") or config["n_heads"],
        max_position_embeddings=config["max_sequence_length"],
        rope_theta=config["rope_theta"],
        rms_norm_eps=config["rms_norm_eps"],
        tie_word_embeddings=config["weight_tying"],
    )
    keys = dict(_OUTER_KEYS)
    for layer in range(config["n_layers"]):
        for ours, theirs in _LAYER_KEYS.items():
            keys[f"model.layers.{layer}.{ours}.weight"] = f"model.transformer.blocks.{layer}.{theirs}.weight"
    return CheckpointFormat(
        "llada", network, keys, False, config["max_sequence_length"], tying_key="weight_tying"
    )
