"""Weights that others quantized: read by transformers' own quantizers, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from opendllm.core.networks.attention import ATTENTION_NAME
from opendllm.registries.errors import UserError, first_line

SECTIONS = ("quantization_config", "compression_config")
"""Keys of config.json, the second is what compressed-tensors wrote before."""
TURNED_BACK = frozenset({"fp8", "mxfp8", "mxfp4", "compressed-tensors"})
"""Methods that transformers can turn back into plain weights as it reads them."""


def quantization_of(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """(method, its settings) where a config.json says that the weights are quantized."""
    section = next((config[key] for key in SECTIONS if config.get(key) is not None), None)
    if section is None:
        return None
    settings = section if isinstance(section, dict) else {}
    loading = next((f"bitsandbytes_{bits}bit" for bits in (4, 8) if settings.get(f"load_in_{bits}bit")), None)
    return loading or str(settings.get("quant_method", "an unnamed method")), settings


def load_quantized(
    folder: Path,
    network_config: PretrainedConfig,
    quantization: tuple[str, dict[str, Any]],
    dtype: torch.dtype,
    device_map: str | dict[str, Any],
) -> PreTrainedModel:
    """The network with the weights in `folder`: plain ones for `TURNED_BACK`, else as the method keeps them.

    Args:
        folder: under the stock class's own keys.
        network_config: of the stock class.
        quantization: see `quantization_of`.
        dtype: of what is plain.
        device_map: as transformers takes it.

    Raises:
        UserError: the method is unknown, its library isn't installed, or the weights don't fit.
    """
    method, settings = quantization
    if method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise _refusal(folder, method, "transformers does not know it")
    if method in TURNED_BACK:
        settings = {**settings, "dequantize": True}
    network_config.quantization_config = settings
    try:
        network, found = MODEL_FOR_CAUSAL_LM_MAPPING[type(network_config)].from_pretrained(
            folder,
            config=network_config,
            attn_implementation=ATTENTION_NAME,
            dtype=dtype,
            device_map=device_map,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # every library has its own ways
        raise _refusal(folder, method, first_line(error)) from error
    wrong = sorted(
        str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in found[kind]
    )
    if wrong or found["error_msgs"]:
        raise _refusal(folder, method, f"these don't fit the model: {', '.join(wrong[:3])}")
    model: PreTrainedModel = network
    return model


def _refusal(folder: Path, method: str, why: str) -> UserError:
    return UserError(
        f"{folder}: the weights are quantized by {method}, and cannot be read here ({why}): take the "
        f"unquantized checkpoint, with load_in_8bit where it is too large"
    )
