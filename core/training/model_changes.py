"""What the manifest changes of a model before it is trained: adapters, freezing, checkpointing, compiling."""

from __future__ import annotations

import shutil

import torch

from opendllm.core.foundation.json_objects import digest
from opendllm.core.manifest.train_schema import Train
from opendllm.core.networks.fused_slopes import lacks_for_triton
from opendllm.core.networks.kept_kernels import keep_kernels
from opendllm.core.training.adapters import Adapters
from opendllm.core.training.averaging import MovingAverage
from opendllm.core.training.decoder_layers import compile_layers, decoder_layers
from opendllm.core.training.freezing import freeze
from opendllm.core.training.trained_weights import TrainedWeights
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError


def prepare_for_training(
    lm: DiffusionLM, train: Train, seed: int, pretrained: str | None
) -> tuple[TrainedWeights, str]:
    """Change `lm` in place.

    Args:
        lm: with its starting weights.
        train: the manifest's section.
        seed: of the adapters' random halves.
        pretrained: the checkpoint that the weights are from; None where they were drawn.

    Returns:
        What to do with its weights beside training them, and a digest of its parameters' names and
        shapes, by which a checkpoint of another model is known.

    Raises:
        UserError: a pattern matches nothing, a package is missing, or the model can't do what is asked.
    """
    torch.manual_seed(seed)
    adapters = Adapters(lm, train.lora, pretrained) if train.lora is not None else None
    freeze(lm.module, train.freeze)
    parameters = digest({name: list(parameter.shape) for name, parameter in lm.module.named_parameters()})
    if train.activation_checkpointing:
        _checkpoint_activations(lm)
    if train.compile:
        _compile(lm)
    average = MovingAverage(lm.module, train.ema) if train.ema is not None else None
    return TrainedWeights(lm, adapters, average), parameters


def _checkpoint_activations(lm: DiffusionLM) -> None:
    # transformers is about to drop the second name.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next((found for name in names if (found := getattr(lm.network, name, None))), None)
    if enable is None:
        raise UserError("train.activation_checkpointing: this backbone's network cannot do it")
    enable({"use_reentrant": False})


def _compile(lm: DiffusionLM) -> None:
    if next(lm.module.parameters()).device.type == "cpu":
        lacks = "" if shutil.which("g++") or shutil.which("clang++") else "a C++ compiler, such as g++"
    else:
        lacks = lacks_for_triton()
    if lacks:
        raise UserError(f"train.compile: torch.compile lacks {lacks}: install it, or leave compile out")
    keep_kernels()
    layers = decoder_layers(lm.network)
    if layers:
        compile_layers(layers)
    else:
        lm.module.compile()
