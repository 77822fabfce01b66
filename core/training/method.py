"""What the training loop asks of that which is learnt: documents, or rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from opendllm.core.training.checkpoints import SavedStep
from opendllm.core.training.trained_weights import TrainedWeights

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from opendllm.core.training.trainer import TrainingRun


@dataclass(frozen=True)
class StepGradients:
    """What a step's forward and backward passes came to, before the optimizer's step.

    Attributes:
        loss: scalar float64, this process's part of the loss; it may not be there yet.
        tokens: real ones that this process read, each once.
        figures: further numbers for the step's line in train.jsonl; the same on all processes.
        shown: those of them that the status line shows.
    """

    loss: Tensor
    tokens: int
    figures: Mapping[str, float] = field(default_factory=dict)
    shown: tuple[str, ...] = ()


class TrainingSteps(Protocol):
    """The steps of one run. Every rank calls each method."""

    def begin(self, engine: DeepSpeedEngine, saved: SavedStep) -> None:
        """Go on after a step.

        Args:
            engine: started, with the weights of `saved`.
            saved: where the run goes on.
        """

    def accumulate(self, step: int) -> StepGradients:
        """Forward and backward of every micro-batch of a step; a function of the seed, the step and the
        weights.
        """

    def prepare(self, step: int) -> None:
        """Whatever of a later step hangs on no weights, while the device is busy."""

    def measured(self, step: int, last: bool, saving: bool) -> Mapping[str, float]:
        """What is measured on held-out data after a step that it is due at; for the step's line."""

    def spot_check(self) -> float | None:
        """A loss of the weights as they are: whether they still give numbers. None where there is none."""

    def save(self, folder: Path) -> None:
        """Write what a run needs to go on from here beside weights and optimizer, into a checkpoint."""

    def close(self) -> None:
        """Nothing follows."""


class TrainingMethod(Protocol):
    """How a run learns."""

    def steps_of(self, run: TrainingRun, weights: TrainedWeights) -> TrainingSteps:
        """A run's steps, which begin when its engine is started.

        Args:
            run: the whole of it; its model has the weights that it starts from, which are whole.
            weights: of the model.
        """
