"""The remasking sampler."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.step_schedules import step_times
from opendllm.plugins.samplers import RemdmOptions
from opendllm.registries.samplers import Sampler, Selection, Step


class Remdm(Sampler):
    """Ancestral sampling in which a committed token returns to the mask with probability sigma.

    Masks commit with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), which keeps the
    marginals at any sigma up to sigma_max = min(1, (1 - alpha_s) / alpha_t) (ReMDM, arXiv:2503.00307,
    section 4). Prompts are never masked, and the last step commits all.
    """

    confidence = "probability"
    revises = True

    def __init__(self, options: RemdmOptions) -> None:
        self._options = options

    def select(self, step: Step) -> Selection:
        """Draw what commits and what returns."""
        t, s = step_times(step.index, step.steps, self._options.grid)
        alpha_t, alpha_s = (1 - t)[:, None], (1 - s)[:, None]
        committed = step.editable & ~step.masked
        sigma = self._sigma(((1 - alpha_s) / alpha_t).clamp(max=1), step, committed)
        commit = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
        chance = step.draws.uniform("commit")
        return Selection(commit=step.masked & (chance < commit), remask=committed & (chance < sigma))

    def _sigma(self, sigma_max: Tensor, step: Step, committed: Tensor) -> Tensor:
        """[B, 1], or [B, L] where it depends on the token."""
        if self._options.strategy == "cap":
            return sigma_max.clamp(max=self._options.eta)
        if self._options.strategy == "rescale":
            return sigma_max * self._options.eta
        doubt = (-step.committed_confidence.double()).masked_fill(~committed, -torch.inf)
        # A row without a committed token has a softmax over nothing.
        return torch.nan_to_num(doubt.softmax(-1)) * sigma_max
