"""An exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from opendllm.core.manifest.train_schema import WeightAverage

AVERAGE_FILE = "average.safetensors"


class MovingAverage:
    """A float32 shadow of every trained parameter; the same on all ranks, so it needs whole weights."""

    def __init__(self, module: nn.Module, settings: WeightAverage) -> None:
        """Start at the weights as they are.

        Args:
            module: the trained one, not partitioned over the ranks.
            settings: the manifest's section.
        """
        self.evaluated = settings.evaluated
        self._decay = settings.decay
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._shadow = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """shadow = d shadow + (1 - d) weights, d = min(decay, (1 + step) / (10 + step)).

        The warm-up is that of MDLM's code (kuleshov-group/mdlm, models/ema.py).
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, shadow in self._shadow.items():
            shadow.lerp_(self._parameters[name].detach().float(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average; afterwards its own weights again, bit for bit.

        Float32 weights change places with the shadow one tensor at a time, so that nothing is held
        twice; lower precision ones are kept beside.
        """
        kept = {name: p.detach().clone() for name, p in self._parameters.items() if p.dtype != torch.float32}
        self._exchange()
        try:
            yield
        finally:
            self._exchange()
            with torch.no_grad():
                for name, weights in kept.items():
                    self._parameters[name].copy_(weights)

    def save(self, folder: Path) -> None:
        """Write the shadow."""
        save_file({name: shadow.cpu() for name, shadow in self._shadow.items()}, folder / AVERAGE_FILE)

    def restore(self, folder: Path) -> None:
        """Read it back."""
        for name, tensor in load_file(folder / AVERAGE_FILE).items():
            self._shadow[name].copy_(tensor)

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, shadow in self._shadow.items():
            parameter = self._parameters[name]
            if parameter.dtype == torch.float32:
                held = parameter.detach().clone()
                parameter.copy_(shadow)
                shadow.copy_(held)
            else:
                parameter.copy_(shadow)
