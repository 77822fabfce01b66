"""The model that the policy is held near: the one without adapters, or a frozen copy of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from opendllm.core.foundation.ranks import rank
from opendllm.core.manifest.reward_schema import Reference
from opendllm.core.training.settings import due
from opendllm.core.training.trained_weights import TrainedWeights

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

REFERENCE_FILE = "reference.safetensors"
_ROUNDED_AWAY = "#rounded-away"


class ReferenceModel(Protocol):
    """Takes the policy's place for a while. Every rank calls each method."""

    def in_place(self, engine: DeepSpeedEngine) -> AbstractContextManager[None]:
        """Within it the model is the reference; afterwards it is the policy again, bit for bit."""

    def follow(self, engine: DeepSpeedEngine, step: int) -> None:
        """Told after every step; no part of a phase's."""

    def save(self, folder: Path) -> None:
        """Write what can't be made anew."""

    def restore(self, folder: Path) -> None:
        """Read it back."""


class AdaptersOff:
    """Implements `ReferenceModel` with what adapters were put into: nothing is held twice."""

    def __init__(self, weights: TrainedWeights) -> None:
        self._weights = weights

    def in_place(self, engine: DeepSpeedEngine) -> AbstractContextManager[None]:
        """See `ReferenceModel`."""
        found = self._weights.base()
        assert found is not None
        return found

    def follow(self, engine: DeepSpeedEngine, step: int) -> None:
        """It stays."""

    def save(self, folder: Path) -> None:
        """It is the checkpoint that training started from."""

    def restore(self, folder: Path) -> None:
        """See `save`."""


class FrozenCopy:
    """Implements `ReferenceModel`: trained parameters as they were, which change places with the policy's.

    So there is one network, compiled or not, and what isn't trained is there once. Each rank holds its own
    copy; under ZeRO 3 the first one holds all of it, in the CPU's memory. Where it follows by parts in
    bfloat16, what that rounds away is kept beside it: else small moves would never arrive.
    """

    def __init__(self, module: nn.Module, settings: Reference, stage: int, dtype: torch.dtype) -> None:
        """Copy the weights as they are.

        Args:
            module: the trained one, before an engine takes it over.
            settings: the manifest's section.
            stage: of ZeRO.
            dtype: that its weights will have.
        """
        self._settings = settings
        self._partitioned = stage >= 3
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        away = settings.offload or self._partitioned
        holds = not self._partitioned or rank() == 0
        self._copy = {
            name: p.detach().to("cpu" if away else p.device, dtype, copy=True)
            for name, p in (self._parameters.items() if holds else ())
        }
        by_parts = settings.mix < 1 and dtype == torch.bfloat16
        self._rounded_away = {
            name: torch.zeros_like(copy) for name, copy in (self._copy.items() if by_parts else ())
        }

    @contextmanager
    def in_place(self, engine: DeepSpeedEngine) -> Iterator[None]:
        """See `ReferenceModel`."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def follow(self, engine: DeepSpeedEngine, step: int) -> None:
        """Every so many steps: mix * policy + (1 - mix) * reference (TR-DPO's, arXiv:2404.09656)."""
        if not step or not due(step, self._settings.every):
            return
        for name, parameter in self._parameters.items():
            with self._whole(parameter, changed=False):
                if name in self._copy:
                    self._follow(name, parameter.detach())

    def save(self, folder: Path) -> None:
        """Where it follows; else it is what training started from."""
        if self._settings.every is not None and rank() == 0:
            found = {name: copy.cpu() for name, copy in self._copy.items()}
            found |= {f"{name}{_ROUNDED_AWAY}": rest.cpu() for name, rest in self._rounded_away.items()}
            save_file(found, folder / REFERENCE_FILE)

    def restore(self, folder: Path) -> None:
        """See `save`."""
        if self._settings.every is not None and self._copy:
            for name, tensor in load_file(folder / REFERENCE_FILE).items():
                if name.endswith(_ROUNDED_AWAY):
                    self._rounded_away[name.removesuffix(_ROUNDED_AWAY)].copy_(tensor)
                else:
                    self._copy[name].copy_(tensor)

    def _follow(self, name: str, policy: Tensor) -> None:
        own, rest = self._copy[name], self._rounded_away.get(name)
        exact = own.float() if rest is None else own.float() + rest.float()
        exact = exact.lerp(policy.to(own.device, torch.float32), self._settings.mix)
        own.copy_(exact)
        if rest is not None:
            rest.copy_(exact - own.float())

    @torch.no_grad()
    def _exchange(self) -> None:
        """One tensor at a time, so that little is held three times."""
        for name, parameter in self._parameters.items():
            with self._whole(parameter, changed=True):
                if name in self._copy:
                    held = parameter.detach().clone()
                    parameter.copy_(self._copy[name])
                    self._copy[name].copy_(held)

    def _whole(self, parameter: Tensor, changed: bool) -> AbstractContextManager[None]:
        """Within it the parameter is there; what the first rank changes of it all have afterwards."""
        if not self._partitioned:
            return nullcontext()
        import deepspeed

        gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
            [parameter], modifier_rank=0 if changed else None
        )
        return gathered
