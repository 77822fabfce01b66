"""d3LLM's pipelined blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.ranking import rank_in_row
from opendllm.plugins.samplers import MultiBlockOptions
from opendllm.registries.samplers import Overwrite, Sampler, Selection, Step


class MultiBlock(Sampler):
    """The next block opens before the one before it is done, and commits what is certain there.

    Of all open blocks, masks whose entropy is at most `threshold` commit, and always the surest one. The
    first block that is activated and not done commits at least its own surest. A block is activated once so
    much of the one before is written (`decoded_token_threshold`), and another opens, one a pass, once so
    much of the last one is (`block_add_threshold`); with both at 1 that is block by block (d3LLM,
    hao-ai-lab/d3LLM @e5bfcacc, `generate_multi_block` of LLaDA).

    There, what is right of an EOS becomes EOS a pass later, and may be written once more in between; here it
    is EOS from then on.
    """

    proposes = "asked"
    confidence = "negative_entropy"
    spans_blocks = True

    def __init__(self, options: MultiBlockOptions) -> None:
        self._options = options
        self.revises = self.finishes = options.end_at_eos

    def block_steps(self, size: int, steps: int | None) -> int:
        """Each pass commits at least one; one that chooses what has just become EOS, nothing."""
        return 2 * size

    def asks(self, step: Step) -> Tensor:
        """What is open."""
        return self._open(step)[0]

    def select(self, step: Step) -> Selection:
        """What is open is worked out from the masks; only how many blocks are, and what EOS filled."""
        options = self._options
        among, opened, first = self._open(step)
        chosen = among & (rank_in_row(step.confidence, among) == 0)
        if options.threshold is None:
            chosen = among
        else:
            chosen = chosen | (among & (-step.confidence <= options.threshold))
        # The first block that is activated and not done takes one at least.
        stuck = among & first & ~(chosen & first).any(-1, keepdim=True)
        chosen = chosen | (stuck & (rank_in_row(step.confidence, stuck) == 0))
        commit = chosen & step.masked
        memory = (2 * opened).expand_as(step.canvas)
        if not options.end_at_eos:
            return Selection(commit=commit, memory=memory)
        written = torch.where(commit, step.tokens, step.canvas)
        ended = _ended(written, step)
        behind = step.editable & (ended.long().cumsum(-1) - ended.long() > 0)
        fresh = behind & step.masked & ~commit
        tokens = torch.full_like(written, step.special.stops[0] if step.special.stops else step.special.mask)
        return Selection(
            commit=commit,
            overwrite=Overwrite(behind, tokens),
            finished=~(step.masked & ~commit & ~behind).any(-1),
            memory=memory + fresh.long(),
        )

    def _open(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """What may be chosen [B, L], how many blocks are open [B, 1], and the first one [B, L] to be written.

        As there, masks that have become EOS at the pass before may be chosen once more, in whatever block
        behind it: it may then be none of the masks that is the surest.
        """
        left, progress = _progress(step)
        before = progress.roll(1, -1)
        before[:, 0] = 1  # the prompt is done
        exists = progress >= 0
        opened = (step.memory[:, :1] // 2).clamp(min=1)
        enough = (
            progress.gather(1, (opened - 1).clamp(max=before.shape[1] - 1))
            >= self._options.block_add_threshold
        )
        going_on = ~_ended(step.canvas, step).any(-1, keepdim=True) | (not self._options.end_at_eos)
        opened = torch.minimum(opened + (enough & going_on).long(), exists.sum(-1, keepdim=True))
        is_open = exists & (torch.arange(before.shape[1], device=before.device) < opened)
        activated = is_open & (before >= self._options.decoded_token_threshold) & (left > 0)
        first = (step.block == activated.long().argmax(-1, keepdim=True)) & activated.any(-1, keepdim=True)
        fresh = (step.memory > 0) & (step.memory % 2 == 1)
        among = ((step.masked & is_open.gather(1, step.block.clamp(min=0))) | fresh) & step.editable
        return among, opened, first


def _progress(step: Step) -> tuple[Tensor, Tensor]:
    """[B, L] by block, as many as there may be: its masks, and how much of it is written; -1 for no block."""
    rows, length = step.canvas.shape
    slot = torch.where(step.editable, step.block, length)
    nothing = torch.zeros(rows, length + 1, dtype=torch.int64, device=slot.device)
    size = nothing.scatter_add(1, slot, torch.ones_like(slot))[:, :length]
    left = nothing.scatter_add(1, slot, step.masked.long())[:, :length]
    return left, torch.where(size > 0, 1 - left / size.clamp(min=1), -1.0)


def _ended(tokens: Tensor, step: Step) -> Tensor:
    """[B, L] bool, where a text that is being written ends."""
    stops = [tokens == stop for stop in step.special.stops]
    if not stops:
        return torch.zeros_like(step.editable)
    return step.editable & torch.stack(stops).any(0)
