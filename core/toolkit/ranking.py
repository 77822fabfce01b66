"""Choosing the best positions of each row, with ties broken by position."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from opendllm.core.foundation.notices import warn_once
from opendllm.registries.samplers import Step

MOST_COMPARED = 1 << 26
"""Pairs of positions, beyond which sorting them is faster."""


def rank_in_row(scores: Tensor, among: Tensor) -> Tensor:
    """The rank [B, L] of each position among those in `among`, best first from 0.

    Args:
        scores: [B, L] float.
        among: [B, L] bool; positions outside come after all others.
    """
    if scores.is_cuda and scores.shape[1] * scores.numel() <= MOST_COMPARED and _kernel_serves(scores.device):
        from opendllm.core.toolkit.rank_kernels import rank

        return rank(scores, among)
    return rank_by_sorting(scores, among)


def rank_by_sorting(scores: Tensor, among: Tensor) -> Tensor:
    """What `rank_in_row` gives, by operations of torch's."""
    scores = scores.masked_fill(~among, -torch.inf)
    # Two stable sorts: positions outside come last even beside real scores of -inf.
    by_score = scores.argsort(dim=-1, descending=True, stable=True)
    by_membership = among.gather(-1, by_score).to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    order = by_score.gather(-1, by_membership)
    indices = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, indices)


@cache
def _kernel_serves(device: torch.device) -> bool:
    """Whether a GPU's kernel is there, and gives what sorting gives; what is wrong is said."""
    try:
        from opendllm.core.toolkit.rank_kernels import rank
    except ImportError:  # needs triton
        return False
    draws = torch.Generator().manual_seed(0)
    scores = torch.randint(-3, 4, (3, 300), generator=draws).to(device, torch.float32)
    scores[0, ::7], scores[1, ::5], scores[1, 3], scores[2, ::9] = -torch.inf, torch.nan, torch.inf, -0.0
    among = torch.randint(0, 2, (3, 300), generator=draws).to(device).bool()
    try:
        right = all(
            torch.equal(rank(each, among), rank_by_sorting(each, among)) for each in (scores, scores.double())
        )
        why = "" if right else "it doesn't rank as sorting does"
    except Exception as error:
        right, why = False, f"{type(error).__name__}: {str(error)[:200]}"
    if not right:
        warn_once(f"the kernel that ranks positions is left out: {why}")
    return right


def best_in_row(scores: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The `count` [B] best positions of each row, as [B, L] bool."""
    return (rank_in_row(scores, among) < count[:, None]) & among


def within_entropy_bound(entropy: Tensor, among: Tensor, gamma: float) -> Tensor:
    """[B, L] bool: from the lowest entropy on, while the sum less its largest term is at most `gamma`.

    That bounds what writing these positions together, rather than one by one, can cost (EB-Sampler,
    arXiv:2505.24857, section 4). In ascending order the largest is the last, so what counts is the sum of
    those before; the first is always among them.

    Args:
        entropy: [B, L] float, nats.
        among: [B, L] bool.
        gamma: the bound, nats.
    """
    rank = rank_in_row(-entropy, among)
    ordered = entropy.masked_fill(~among, 0.0).double().gather(-1, rank.argsort(-1))
    sum_before = ordered.cumsum(-1).roll(1, -1)
    sum_before[:, 0] = 0
    return among & (sum_before.gather(-1, rank) <= gamma)


def commit_best(scores: Tensor, step: Step, count: int | None = None) -> Tensor:
    """The masked positions to commit so that `step.target` masks remain, or `count` of them.

    At `alg_temp` > 0 the order is drawn instead: Gumbel noise on scores / alg_temp, which draws
    without replacement from softmax(scores / alg_temp).
    """
    if step.alg_temp > 0:
        gumbel = -torch.log(-torch.log(step.draws.uniform("order").clamp(min=1e-300)))
        scores = scores.double() / step.alg_temp + gumbel
    wanted = step.masked.sum(-1) - step.target if count is None else torch.full_like(step.target, count)
    return best_in_row(scores, step.masked, wanted)
