"""LLaDA: LLaMA-shaped under its own key names, bidirectional, no shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig

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


def llada(options: LladaOptions) -> Backbone:
    """GSAI-ML/LLaDA-8B-Base, -Instruct, LLaDA-1.5 and models of their kind."""
    return TransformersBackbone(options, LLADA[options.preset], _format)


def _format(config: Mapping[str, Any]) -> CheckpointFormat:
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
        attention_bias=config["include_qkv_bias"],
        mlp_bias=config["include_bias"],
    )
    keys = dict(_OUTER_KEYS)
    for layer in range(config["n_layers"]):
        for ours, theirs in _LAYER_KEYS.items():
            for kind in ("weight", "bias"):
                keys[f"model.layers.{layer}.{ours}.{kind}"] = (
                    f"model.transformer.blocks.{layer}.{theirs}.{kind}"
                )
    return CheckpointFormat(
        "llada", network, keys, False, config["max_sequence_length"], tying_key="weight_tying"
    )
