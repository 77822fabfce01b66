"""The families' networks, with random weights or a checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from opendllm.core.foundation.notices import warn_once
from opendllm.core.networks.attention import ATTENTION_NAME
from opendllm.core.networks.noise_section import CONFIG_FILE
from opendllm.core.networks.placement import Placement, allocate_spread, quantize_to_8bit, run_spread
from opendllm.core.networks.quantized import SECTIONS, TURNED_BACK, load_quantized, quantization_of
from opendllm.core.networks.safetensors_folder import differ, load_into, stored_dtype
from opendllm.core.networks.transformers_lm import (
    CheckpointFormat,
    TransformersLM,
    first_id,
    shared_keys,
)
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import AttentionPattern

WEIGHT_DTYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
"""In which a network can be computed."""


def _allocate(checkpoint: CheckpointFormat, dtype: torch.dtype) -> PreTrainedModel:
    config = checkpoint.network_config
    # A padding id would freeze that token's embedding, and families use EOS for it.
    config.pad_token_id = None
    try:
        network = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION_NAME, dtype=dtype)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"config.json describes no network: {type(error).__name__} {error}") from error
    if checkpoint.adapt is not None:
        checkpoint.adapt(network)
    _check_head(network)
    return network


def _check_head(network: PreTrainedModel) -> None:
    """Whether logits are one linear layer of the decoder's states, as they are computed here.

    Raises:
        UserError: they aren't, as those of BERT and its kin, whose states go through further layers.
    """
    decoder, head = network.get_decoder(), network.get_output_embeddings()
    name = network.config.model_type
    if decoder is network or head is None:
        raise UserError(f"transformers' class for model_type {name!r} has no LM head apart from its layers")
    computed = {*decoder.parameters(), *head.parameters()}
    beyond = next((key for key, each in network.named_parameters() if each not in computed), None)
    if beyond is not None:
        raise UserError(
            f"model_type {name!r} computes more between its states and its logits than a linear layer "
            f"({beyond}), which is not supported"
        )


def build_lm(
    checkpoint: CheckpointFormat,
    config: Mapping[str, Any],
    attention: AttentionPattern,
    mask_token_id: int,
    eos_token_id: int | None,
) -> TransformersLM:
    """A model with random weights in float32."""
    network = _allocate(checkpoint, torch.float32)
    return TransformersLM(network, checkpoint, config, attention, mask_token_id, eos_token_id)


def load_lm(
    folder: Path,
    checkpoint: CheckpointFormat,
    config: Mapping[str, Any],
    attention: AttentionPattern,
    placement: Placement,
) -> TransformersLM:
    """The checkpoint in `folder`, each tensor straight on its device.

    Args:
        folder: with safetensors.
        checkpoint: how the family writes it.
        config: its config.json.
        attention: the pattern.
        placement: where its weights go.

    Raises:
        UserError: the weights don't fit (see `load_into`).
    """
    config = _untied_where_heads_differ(folder, checkpoint, config)
    dtype = placement.dtype or _stored_dtype(config, folder)
    quantization = quantization_of(config)
    if quantization is not None:
        _check_quantized(folder, quantization[0], checkpoint, placement)
        where = "auto" if placement.spread else {"": placement.device}
        network = load_quantized(folder, checkpoint.network_config, quantization, dtype, where)
        config = {key: value for key, value in config.items() if key not in SECTIONS}
        return _evaluated(network, checkpoint, config, attention)
    device_map = None
    with no_init_weights():
        if placement.spread:
            network, device_map = allocate_spread(lambda: _allocate(checkpoint, dtype), dtype)
        else:
            with torch.device("cpu" if placement.in_8bit else placement.device):
                network = _allocate(checkpoint, dtype)
    apart = {part.name for parts in checkpoint.pieces.values() for part in parts}
    to_ours = {
        checkpoint.published_keys.get(name, name): name for name in network.state_dict() if name not in apart
    }
    network.tie_weights()
    load_into(network, folder, to_ours, checkpoint.pieces, checkpoint.other_pieces)
    if device_map is not None:
        run_spread(network, device_map)
    if placement.in_8bit:
        quantize_to_8bit(network, placement.device)
    return _evaluated(network, checkpoint, config, attention)


def _evaluated(
    network: PreTrainedModel,
    checkpoint: CheckpointFormat,
    config: Mapping[str, Any],
    attention: AttentionPattern,
) -> TransformersLM:
    lm = TransformersLM(
        network, checkpoint, config, attention, config["mask_token_id"], first_id(config.get("eos_token_id"))
    )
    lm.module.eval()
    return lm


def _untied_where_heads_differ(
    folder: Path, checkpoint: CheckpointFormat, config: Mapping[str, Any]
) -> Mapping[str, Any]:
    """config.json as the weights are: a head of its own is used, whatever config.json says, and said."""
    for ours, tied_to in shared_keys(checkpoint.network_config).items():
        head, embedding = (checkpoint.published_keys.get(name, name) for name in (ours, tied_to))
        if differ(folder, head, embedding):
            warn_once(
                f"{folder}: config.json ties {head} to {embedding}, and the weights hold another one: it is "
                f"used, and saved with {checkpoint.tying_key} false"
            )
            checkpoint.network_config.tie_word_embeddings = False
            return {**config, checkpoint.tying_key: False}
    return config


def _check_quantized(folder: Path, method: str, checkpoint: CheckpointFormat, placement: Placement) -> None:
    if placement.in_8bit:
        why = "load_in_8bit is for plain weights: leave it out"
    elif checkpoint.published_keys or checkpoint.pieces:
        why = f"which is not read for {checkpoint.backbone}: take the unquantized checkpoint"
    elif placement.dtype is not None and method not in TURNED_BACK:
        why = "and stay so: they can be evaluated in the dtype that they have, not trained or cast"
    else:
        return
    raise UserError(f"{folder}: the weights are quantized by {method}, {why}")


def _stored_dtype(config: Mapping[str, Any], folder: Path) -> torch.dtype:
    """As config.json says, or the weights themselves where it says nothing."""
    name = config.get("dtype") or config.get("torch_dtype")
    if name in (None, "auto"):
        return stored_dtype(folder)
    dtype = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or dtype not in WEIGHT_DTYPES:
        raise UserError(f"{folder / CONFIG_FILE} asks for the unknown dtype {name!r}")
    return dtype
