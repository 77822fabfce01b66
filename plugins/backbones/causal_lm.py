"""Any transformers causal LM, made bidirectional."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from transformers import AutoConfig

from opendllm.core.toolkit.transformers_backbone import TransformersBackbone
from opendllm.core.toolkit.transformers_lm import CheckpointFormat
from opendllm.plugins.backbones import CausalLmOptions
from opendllm.plugins.backbones.presets import CAUSAL_LM
from opendllm.registries.backbones import Backbone
from opendllm.registries.errors import UserError

_NOT_SIZES = frozenset(
    {"model_type", "architectures", "auto_map", "open_dllm", "torch_dtype", "dtype", "transformers_version"}
)


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
    try:
        network = AutoConfig.for_model(config["model_type"], **sizes)
    except ValueError as error:
        raise UserError(f"transformers has no model_type {config['model_type']!r}") from error
    return CheckpointFormat("causal-lm", network, {}, logit_shift, network.max_position_embeddings)
