"""DreamOn's variable-length sampler."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from opendllm.core.toolkit.ranking import commit_best
from opendllm.plugins.samplers import DreamonOptions
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Sampler, Selection, SpecialTokens, Step


class Dreamon(Sampler):
    """One position a step, of the lowest entropy: a token, an expansion into two masks, or a deletion.

    EOS stands for the deletion. When a row has grown by the whole budget, and at the last step, the
    expansion is no longer proposed (DreamLM/DreamOn, `diffusion_generate`).
    """

    confidence = "negative_entropy"
    edits_length = True

    def __init__(self, options: DreamonOptions) -> None:
        self._expand_token_id = options.expand_token_id
        self.growth = options.expand_budget

    def block_steps(self, size: int, steps: int | None) -> int:
        """One a mask; a row that grows uses up a step for every growth, and one for the mask that it adds."""
        return size + 2 * self.growth if steps is None else steps

    def suppressed_tokens(
        self, special: SpecialTokens, room: Tensor, last: Tensor
    ) -> Mapping[int, Tensor | bool]:
        """The expansion, where there is no room for it."""
        return {self._expand_token_id: (room == 0) | last}

    def select(self, step: Step) -> Selection:
        """The surest position; at a row's last step, all of them."""
        if step.special.eos is None:
            raise UserError("sampler 'dreamon' deletes by the EOS token, and this checkpoint has none")
        last = (step.index == step.steps - 1)[:, None]
        chosen = step.masked & (last | commit_best(step.confidence, step, 1))
        expand = chosen & (step.tokens == self._expand_token_id)
        delete = chosen & (step.tokens == step.special.eos)
        return Selection(
            commit=chosen & ~expand & ~delete,
            insert=torch.where(expand, step.special.mask, -1),
            delete=delete,
        )
