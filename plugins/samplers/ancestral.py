"""The reverse process itself."""

from __future__ import annotations

from opendllm.core.toolkit.step_schedules import END_OF_TIME
from opendllm.plugins.samplers import AncestralOptions
from opendllm.registries.samplers import Sampler, Selection, Step


class Ancestral(Sampler):
    """Each mask commits with probability 1 - s/t, independently (MDLM, arXiv:2406.07524, eq. 7)."""

    def __init__(self, options: AncestralOptions) -> None:
        pass

    def select(self, step: Step) -> Selection:
        """Draw the positions to commit; the decoder commits the rest at the last step."""
        fraction = step.index.double() / step.steps
        t = 1 - (1 - END_OF_TIME) * fraction
        s = t - (1 - END_OF_TIME) / step.steps
        chosen = step.draws.uniform("commit") < (1 - s / t)[:, None]
        return Selection(commit=step.masked & chosen)
