"""LLaDA2.1's token editing."""

from __future__ import annotations

import torch

from opendllm.core.toolkit.ranking import rank_in_row
from opendllm.plugins.samplers import TokenEditingOptions
from opendllm.registries.samplers import Overwrite, Sampler, Selection, Step


class TokenEditing(Sampler):
    """Masks commit above a threshold, and written tokens of the block are replaced above another one.

    From the same pass: masks whose proposal is surer than `threshold` commit, if they are as many as
    `num_to_transfer`, else the best so many; and a token that is written already gives way to another
    proposal that is surer than `editing_threshold`. A block is done when it had no mask and nothing was
    edited, or after `max_post_steps` passes without a mask. Earlier blocks are never edited (LLaDA2.1, the
    authors' `generate` as carried by ZHZisZZ/dllm @ca176752). There the mask may be proposed, which loops
    forever; here it never is.
    """

    proposes = "editable"
    confidence = "probability"
    cuts_top_k_first = True
    revises = True
    finishes = True
    follows_model = False

    def __init__(self, options: TokenEditingOptions) -> None:
        self._options = options

    def block_steps(self, size: int, steps: int | None) -> int:
        """At least `num_to_transfer` masks go in each pass that has any."""
        return -(-size // self._options.num_to_transfer) + self._options.max_post_steps

    def select(self, step: Step) -> Selection:
        """Both at once."""
        options = self._options
        left = step.masked.sum(-1, keepdim=True)
        sure = step.masked & (step.confidence > options.threshold)
        best = step.masked & (rank_in_row(step.confidence, step.masked) < options.num_to_transfer)
        commit = torch.where(sure.sum(-1, keepdim=True) >= options.num_to_transfer, sure, best)
        written = step.editable & ~step.masked
        edit = written & (step.confidence > options.editing_threshold) & (step.tokens != step.canvas)
        # How many passes found no mask; the same in all columns of a row.
        passes = step.memory.clamp(min=0) + (left == 0).long()
        open_masks = (step.masked & ~commit).any(-1)
        at_rest = (left.squeeze(1) == 0) & ~edit.any(-1)
        spent = passes[:, 0] >= options.max_post_steps
        return Selection(
            commit=commit,
            overwrite=Overwrite(edit, step.tokens),
            finished=~open_masks & (at_rest | spent),
            memory=passes,
        )
