"""Checkpoints with blocks of their own are written in them, whatever the sampler."""

from __future__ import annotations

import itertools

import pytest
import torch

from opendllm.core.decoding.decoder import Decoded, decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.testing.table_lm import TableLM
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import AttentionPattern

from .samplers_by_noise import ONE_WAY

LM = TableLM(12, AttentionPattern("block-causal", 4))
MASK = LM.mask_token_id


def run(canvas: torch.Tensor, sampler: str, **options: int) -> Decoded:
    chosen = installed_plugins().samplers.get(sampler).build()
    decoder = DecoderOptions.model_validate(options)
    seeds = torch.zeros(len(canvas), dtype=torch.int64)
    return decode(LM, canvas, None, chosen, decoder, seeds, keep_trace=True)


@pytest.mark.parametrize("sampler", ONE_WAY)
def test_a_block_is_finished_before_the_next_is_begun(sampler: str) -> None:
    """Blocks are the checkpoint's: the prompt of 3 leaves one mask in the first of them."""
    canvas = torch.tensor([[1, 2, 3, *[MASK] * 9, 5, 6], [*[MASK] * 14]])
    decoded = run(canvas, sampler)
    for before, after in zip(decoded.trace, decoded.trace[1:], strict=False):
        for row in range(2):
            changed = (before[row] != after[row]).nonzero()[:, 0]
            open_masks = (before[row] == MASK).nonzero()[:, 0]
            if len(changed):
                assert set((changed // 4).tolist()) == {int(open_masks.min()) // 4}
    assert not bool((decoded.tokens == MASK).any())


def test_later_tokens_do_not_matter_to_a_block() -> None:
    """What stands in later blocks is not seen: the first block is the same whatever the suffix."""
    canvases = torch.tensor([[1, 2, MASK, MASK, MASK, 5, 6, 7], [1, 2, MASK, MASK, MASK, 8, 9, 3]])
    tokens = run(canvases, "entropy").tokens
    assert torch.equal(tokens[0, :4], tokens[1, :4])


def test_blocks_of_another_length_are_refused() -> None:
    with pytest.raises(UserError, match="block_length is 3, and this checkpoint's blocks of 4 have no such"):
        run(torch.tensor([[1, MASK, MASK]]), "entropy", block_length=3)


def test_sub_blocks_are_written_from_left_to_right() -> None:
    decoded = run(torch.tensor([[1, *[MASK] * 7]]), "entropy", block_length=2)
    open_masks = [set((canvas[0] == MASK).nonzero()[:, 0].tolist()) for canvas in decoded.trace]
    for before, after in itertools.pairwise(open_masks):
        assert {column // 2 for column in before - after} <= {min(before) // 2}
