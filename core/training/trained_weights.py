"""What a checkpoint's model folder holds: the weights themselves, their average, or adapters merged in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import Tensor

from opendllm.core.checkpoints.files import MODEL_FOLDER
from opendllm.core.training.adapters import Adapters
from opendllm.core.training.averaging import MovingAverage
from opendllm.registries.backbones import DiffusionLM


class TrainedWeights:
    """The model of a run, seen from what is done with its weights beside training them."""

    def __init__(self, lm: DiffusionLM, adapters: Adapters | None, average: MovingAverage | None) -> None:
        """Put the parts together.

        Args:
            lm: the model that is trained, with its adapters in it.
            adapters: None where whole matrices are trained.
            average: None where none is kept.
        """
        self._lm = lm
        self._adapters = adapters
        self._average = average

    def update(self, step: int) -> None:
        """Tell the average that a step was taken."""
        if self._average is not None:
            self._average.update(step)

    def evaluated(self) -> AbstractContextManager[None]:
        """Within it the model has the weights that are measured, evaluated and exported."""
        if self._average is None or not self._average.evaluated:
            return nullcontext()
        return self._average.in_place()

    def base(self) -> AbstractContextManager[None] | None:
        """Within it the model is without its adapters; None where it has none."""
        return None if self._adapters is None else self._adapters.switched_off(self._lm)

    def save_model(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the model folder, and the adapters beside it; within `evaluated`.

        Args:
            folder: the checkpoint's.
            weights: a full state dict, which may share the model's own memory.
        """
        (folder / MODEL_FOLDER).mkdir()
        if self._adapters is not None:
            self._adapters.save(folder, weights)
            weights = self._adapters.merged(weights)
        self._lm.save(folder / MODEL_FOLDER, weights)

    def save_average(self, folder: Path) -> None:
        """Write what only training needs; not within `evaluated`."""
        if self._average is not None:
            self._average.save(folder)

    def restore(self, folder: Path) -> None:
        """Bring back the average; the weights themselves are the engine's."""
        if self._average is not None:
            self._average.restore(folder)
