"""How likely a model finds a text: the ELBO of a masked-diffusion model, exact for a causal one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.toolkit.draws import stream_id, uniform
from opendllm.core.toolkit.ranking import rank_in_row
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.sequences import ModelInputs

STRATA = 8
"""Draws in a stratified group; the spread between groups gives the standard error."""


@dataclass(frozen=True)
class Likelihoods:
    """One estimate a row.

    Attributes:
        log_likelihood: [B] float64, nats.
        variance: [B] float64, of the estimate; 0 where it is exact.
    """

    log_likelihood: Tensor
    variance: Tensor


@torch.no_grad()
def log_likelihood(
    lm: DiffusionLM, inputs: ModelInputs, scorable: Tensor, draws: int, seeds: Tensor, batch_rows: int = 64
) -> Likelihoods:
    """The log-likelihood of the scorable tokens, given the others.

    For a bidirectional model this is the ELBO by LLaDA's estimator (arXiv:2502.09992, eq. 6): hide k
    of the n scorable tokens, k uniform in 1..n, and weigh their log-probabilities with n/k. Its k
    are stratified within groups of `STRATA` draws.

    Args:
        lm: the model.
        inputs: B rows of clean tokens.
        scorable: [B, L] bool.
        draws: Monte-Carlo draws a row, rounded up to two whole groups at least.
        seeds: [B] int64, one a row.
        batch_rows: rows in one forward pass.
    """
    if lm.attention.kind == "causal":
        exact = _row_sums(lm, inputs, inputs.tokens, scorable)
        return Likelihoods(-exact, torch.zeros_like(exact))
    if lm.attention.kind == "block-causal":
        raise NotImplementedError("the block-wise ELBO")
    groups = max(2, -(-draws // STRATA))
    total = groups * STRATA
    rows = inputs.tokens.shape[0]
    estimates = torch.zeros(rows, total, dtype=torch.float64, device=inputs.tokens.device)
    pairs = torch.arange(rows * total, device=inputs.tokens.device)
    for chunk in pairs.split(batch_rows):
        row, draw = chunk // total, chunk % total
        hidden, count = _hide(scorable[row], seeds[row], draw)
        masked = torch.where(hidden, lm.mask_token_id, inputs.tokens[row])
        nll = _row_sums(lm, inputs.rows(row).with_tokens(masked), inputs.tokens[row], hidden)
        estimates[row, draw] = -nll * scorable[row].sum(-1) / count.clamp(min=1)
    by_group = estimates.view(rows, groups, STRATA).mean(-1)
    return Likelihoods(by_group.mean(-1), by_group.var(-1) / groups)


def _hide(scorable: Tensor, seeds: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Exactly k scorable positions a row, hidden; returns them ([R, L] bool) and k ([R])."""
    group, stratum = draw // STRATA, draw % STRATA
    within = (stratum + uniform(seeds, stream_id("likelihood-count"), group)) / STRATA
    available = scorable.sum(-1)
    count = (within * available).long() + 1
    count = torch.minimum(count, available)
    columns = torch.arange(scorable.shape[1], device=scorable.device)
    order = uniform(seeds[:, None], stream_id("likelihood-order"), draw[:, None], columns)
    return (rank_in_row(order, scorable) < count[:, None]) & scorable, count


def _row_sums(lm: DiffusionLM, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
    """[R] float64: each row's summed negative log-likelihood at `scored`."""
    nll = lm.negative_log_likelihood(inputs, targets, scored).double()
    rows = scored.nonzero()[:, 0]
    return torch.zeros(scored.shape[0], dtype=torch.float64, device=nll.device).index_add(0, rows, nll)
