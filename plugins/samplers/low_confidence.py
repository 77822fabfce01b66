"""LLaDA's sampler."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from opendllm.core.toolkit.ranking import commit_best
from opendllm.core.toolkit.step_schedules import remaining_evenly
from opendllm.plugins.samplers import LowConfidenceOptions
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Sampler, Selection, SpecialTokens, Step


class LowConfidence(Sampler):
    """Commit the proposals of highest model probability, as many at each step (ML-GSAI/LLaDA @b7e6c356).

    The probability is the model's own: neither tempered, filtered nor perturbed. In the published code
    `confidence_eos_eot_inf` comes too late to lower EOS, and lowers EoT alone; here it lowers both.
    """

    plans = True

    def __init__(self, options: LowConfidenceOptions) -> None:
        self._at_random = options.remasking == "random"
        self._no_eos = options.logits_eos_inf
        self._eos_last = options.confidence_eos_eot_inf
        self.confidence = None if self._at_random else "model_probability"

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        """An even share a step, the remainder at the earliest ones."""
        return remaining_evenly(masks, steps)

    def suppressed_tokens(
        self, special: SpecialTokens, room: Tensor, last: Tensor
    ) -> Mapping[int, Tensor | bool]:
        """EOS, where that was asked for."""
        return {_eos(special): True} if self._no_eos else {}

    def select(self, step: Step) -> Selection:
        """The best ones, or random ones."""
        scores = step.draws.uniform("remasking") if self._at_random else step.confidence
        if self._eos_last:
            ends = step.tokens == _eos(step.special)
            if step.special.end_of_turn is not None:
                ends = ends | (step.tokens == step.special.end_of_turn)
            scores = scores.masked_fill(ends, -torch.inf)
        return Selection(commit=commit_best(scores, step))


def _eos(special: SpecialTokens) -> int:
    if special.eos is None:
        raise UserError(
            "logits_eos_inf and confidence_eos_eot_inf need an EOS token; this checkpoint has none"
        )
    return special.eos
