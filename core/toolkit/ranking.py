"""Choosing the best positions of each row, with ties broken by position."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.registries.samplers import Step


def rank_in_row(scores: Tensor, among: Tensor) -> Tensor:
    """The rank [B, L] of each position among those in `among`, best first from 0.

    Args:
        scores: [B, L] float.
        among: [B, L] bool; positions outside come after all others.
    """
    scores = scores.masked_fill(~among, -torch.inf)
    # Two stable sorts: positions outside come last even beside real scores of -inf.
    by_score = scores.argsort(dim=-1, descending=True, stable=True)
    by_membership = among.gather(-1, by_score).to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    order = by_score.gather(-1, by_membership)
    indices = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, indices)


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
