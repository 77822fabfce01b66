"""Which tokens of an answer are what."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opendllm.registries.policies import Rollouts
from opendllm.registries.sequences import PADDING_SEGMENT


def until_first_stop(tokens: Tensor, maskable: Tensor, stops: Sequence[int]) -> Tensor:
    """[B, L] bool: each completion up to and with its first stop token; all of it where it has none.

    Args:
        tokens: [B, L] int64.
        maskable: [B, L] bool, the completions.
        stops: token ids at which an answer ends.
    """
    stopped = maskable & torch.isin(
        tokens, torch.tensor(list(stops), dtype=torch.int64, device=tokens.device)
    )
    return maskable & (stopped.cumsum(-1) - stopped.long() == 0)


def prompts_of(rollouts: Rollouts) -> Tensor:
    """[B, L] bool: what is real, and no completion."""
    return (rollouts.rows.segments != PADDING_SEGMENT) & ~rollouts.rows.maskable


def learnt_tokens(rollouts: Rollouts, post_num: int | None, among: Tensor | None = None) -> Tensor:
    """[B, L] bool: an answer's tokens, and the first of those that its completion has after its end.

    Args:
        rollouts: the answers.
        post_num: how many tokens after the end (dLLM-RL's option); None for all.
        among: [B, L] bool, the tokens that are asked about; None for whole completions.
    """
    among = rollouts.rows.maskable if among is None else among
    if post_num is None:
        return among
    after = among & ~rollouts.counted
    return among & (rollouts.counted | (after.cumsum(-1) <= post_num))
