"""The reverse process itself."""

from __future__ import annotations

from opendllm.core.toolkit.step_schedules import step_times
from opendllm.plugins.samplers import AncestralOptions
from opendllm.registries.samplers import Sampler, Selection, Step


class Ancestral(Sampler):
    """Each mask commits with probability (alpha_s - alpha_t) / (1 - alpha_t), independently.

    With alpha = 1 - t that is 1 - s/t (MDLM, arXiv:2406.07524, eq. 7; Dream's `origin`).
    """

    decides_first = True

    def __init__(self, options: AncestralOptions) -> None:
        self._grid = options.grid

    def select(self, step: Step) -> Selection:
        """Draw the positions to commit; the decoder commits the rest at the last step."""
        t, s = step_times(step.index, step.steps, self._grid)
        chosen = step.draws.uniform("commit") < (1 - s / t)[:, None]
        return Selection(commit=step.masked & chosen)
