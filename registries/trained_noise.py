"""What a checkpoint was trained to undo: the link between its training, its likelihood and its samplers."""

from __future__ import annotations

from dataclasses import dataclass

from opendllm.registries.noise_schedules import Destination, NoiseSchedule
from opendllm.registries.options import Bound, PluginOptions, noise_destination
from opendllm.registries.registry import ChosenPlugin


@dataclass(frozen=True)
class TrainedNoise:
    """A checkpoint's noise; its config.json says so, and where it doesn't, these are masks.

    Attributes:
        schedule: the noise schedule with its options; None for masks of any schedule.
        bound: what a likelihood of the checkpoint is.
        time_conditioning: whether the model was told the time, `ModelInputs.time`, and has to be told it.
    """

    schedule: ChosenPlugin[NoiseSchedule, PluginOptions] | None = None
    bound: Bound = "masks"
    time_conditioning: bool = False

    @property
    def destination(self) -> Destination:
        """Where its tokens went."""
        return "mask" if self.schedule is None else noise_destination(self.schedule.options)
