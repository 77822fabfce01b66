"""Any transformers causal LM, made bidirectional."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PretrainedConfig

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.plugins.backbones import CausalLmOptions
from opendllm.plugins.backbones.presets import CAUSAL_LM
from opendllm.registries.backbones import Backbone
from opendllm.registries.errors import UserError

_NOT_SIZES = frozenset(
    {"model_type", "architectures", "auto_map", "open_dllm", "torch_dtype", "dtype", "transformers_version"}
)
_NEUTRAL: dict[str, float | None] = {
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}
"""What some families do beside attention and a plain LM head, switched off."""


def causal_lm(options: CausalLmOptions) -> Backbone:
    """The starting point of continued pretraining from an autoregressive model."""
    return TransformersBackbone(
        options,
        CAUSAL_LM[options.preset],
        partial(_format, options.logit_shift),
        vocabulary_multiple=options.pad_vocabulary_to,
    )


def _format(logit_shift: bool, config: Mapping[str, Any]) -> CheckpointFormat:
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        raise UserError("config.json asks for sliding-window attention, which is not supported")
    sizes = {key: value for key, value in config.items() if key not in _NOT_SIZES}
    if config["model_type"] not in CONFIG_MAPPING:
        raise UserError(f"transformers has no model_type {config['model_type']!r}")
    network = AutoConfig.for_model(config["model_type"], **sizes)
    _check_arithmetic(network)
    return CheckpointFormat("causal-lm", network, {}, logit_shift, network.max_position_embeddings)


def _check_arithmetic(network: PretrainedConfig) -> None:
    """Refuse what a plain LM head after attention of our own would silently compute differently."""
    name = network.model_type
    if type(network) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"model_type {name!r} is no causal language model of transformers")
    # Without it a class ignores the attention function that it is given (ALiBi, state spaces).
    if not MODEL_FOR_CAUSAL_LM_MAPPING[type(network)]._supports_attention_backend:
        raise UserError(f"model_type {name!r} cannot be made bidirectional: transformers fixes its attention")
    others = sorted({*(getattr(network, "layer_types", None) or ())} - {"full_attention", "attention"})
    if others:  # what slides, folds or recurs reads padding, and other documents of its row
        raise UserError(
            f"config.json asks for {others[0]} layers, which are not supported (model_type {name!r}): each "
            f"is to attend to its whole text"
        )
    if (getattr(network, "rope_parameters", None) or {}).get("rope_type") == "longrope":
        raise UserError(
            f"config.json asks for longrope positions, which are not supported (model_type {name!r}): they "
            f"hang on the longest row of a batch"
        )
    for key, neutral in _NEUTRAL.items():
        if getattr(network, key, None) not in (None, neutral):
            raise UserError(f"config.json sets {key}, which is not supported (model_type {name!r})")
