"""Models too large for one device: spread over several, or with weights in 8 bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from opendllm.registries.errors import UserError

INSTALL = "pip install 'open-dllm[large]'"


@dataclass(frozen=True)
class Placement:
    """Where a checkpoint's weights go, and in which numbers.

    Attributes:
        device: ignored where they are spread.
        dtype: None keeps the file's.
        spread: over all devices, for a model that one can't hold.
        in_8bit: read on the CPU and quantized layer by layer on the way to `device`.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    spread: bool = False
    in_8bit: bool = False


def allocate_spread(
    allocate: Callable[[], PreTrainedModel], dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, int | str]]:
    """A network with uninitialised weights over every device that there is, GPUs first, then the CPU.

    Args:
        allocate: makes the network on the current default device.
        dtype: of the weights.

    Returns:
        The network, and which module is on which device, for `run_spread`.

    Raises:
        UserError: accelerate is not installed.
    """
    try:
        from accelerate import infer_auto_device_map, init_empty_weights
        from accelerate.utils import set_module_tensor_to_device
    except ImportError as error:
        raise UserError(f"device_map needs accelerate: {INSTALL}") from error
    with init_empty_weights(include_buffers=False):
        network = allocate()
    network.tie_weights()
    device_map = infer_auto_device_map(
        network, no_split_module_classes=list(network._no_split_modules), dtype=dtype
    )
    for name, parameter in list(network.named_parameters()):
        device = _device_of(name, device_map)
        empty = torch.empty(parameter.shape, dtype=dtype, device=device)
        set_module_tensor_to_device(network, name, device, value=empty)
    network.tie_weights()
    return network, device_map


def run_spread(network: PreTrainedModel, device_map: Mapping[str, int | str]) -> None:
    """Let inputs and activations follow the weights from device to device."""
    from accelerate import dispatch_model

    dispatch_model(network, device_map=dict(device_map))


def quantize_to_8bit(network: PreTrainedModel, device: torch.device) -> None:
    """Turn the weights of every linear layer into 8 bit, one layer at a time, and move all to `device`.

    Activations stay as they are; the LM head too, since its rounding would reach every logit.

    Raises:
        UserError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise UserError(f"load_in_8bit needs torchao: {INSTALL}") from error
    head = network.get_output_embeddings()
    quantize_(
        network,
        Int8WeightOnlyConfig(),
        filter_fn=lambda module, _name: isinstance(module, torch.nn.Linear) and module is not head,
        device=device,
    )
    network.to(device)


def _device_of(name: str, device_map: Mapping[str, int | str]) -> int | str:
    """Of the longest module name that `name` begins with."""
    owners = [owner for owner in device_map if not owner or name == owner or name.startswith(owner + ".")]
    return device_map[max(owners, key=len)]
