"""How likely a model finds a text: the ELBO of its noise, exact for a causal model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from opendllm.core.toolkit.draws import stream_id, uniform
from opendllm.core.toolkit.noise_likelihood import bound_schedule, noise_bounds, reconstruction
from opendllm.core.toolkit.segments import block_starts, noisy_then_clean
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import ModelInputs

Estimator = Literal["llada", "mdlm"]
MIN_TIME = 1e-3
STRATA = 8
"""Draws in a stratified group; the spread between groups gives the standard error."""
TOKENS_AT_ONCE = 8192
"""Positions in a forward pass, where nobody says how many rows it has."""


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
    lm: DiffusionLM,
    inputs: ModelInputs,
    scorable: Tensor,
    draws: int,
    seeds: Tensor,
    batch_rows: int | None = None,
    estimator: Estimator = "llada",
) -> Likelihoods:
    """The log-likelihood of the scorable tokens, given the others.

    For a bidirectional model this is its ELBO. LLaDA's estimator (arXiv:2502.09992, eq. 6) hides k of
    the n scorable tokens, k uniform in 1..n, and weighs their log-probabilities with n/k; MDLM's
    (arXiv:2406.07524, eq. 10) hides each with probability t, t uniform in [1e-3, 1], and weighs with
    1/t: the same mean but for what lies below 1e-3, and more variance. For a block-causal model it is
    the sum of every block's own ELBO given the clean blocks before it, all from one forward pass a
    draw. k or t are stratified within groups of `STRATA` draws. A causal model's is exact.

    Where the checkpoint was trained with other noise than masks, it is the bound of that noise
    (`noise_likelihood`), whatever the estimator; UDLM's has the cross-entropy of the clean text beside it.

    Args:
        lm: the model; its `noise` says which bound.
        inputs: B rows of clean tokens.
        scorable: [B, L] bool.
        draws: Monte-Carlo draws a row, rounded up to two whole groups at least.
        seeds: [B] int64, one a row.
        batch_rows: rows in one forward pass; by default as many as make `TOKENS_AT_ONCE`.
        estimator: LLaDA's or MDLM's, of a masked model.

    Raises:
        UserError: the checkpoint has no bound.
    """
    batch_rows = batch_rows or max(1, TOKENS_AT_ONCE // inputs.tokens.shape[1])
    rows, device = inputs.tokens.shape[0], inputs.tokens.device
    if lm.noise.bound != "masks":
        return _of_noise(lm, inputs, scorable, draws, seeds, batch_rows)
    if lm.noise.time_conditioning:
        raise UserError("masked diffusion's likelihood is that of models that aren't told the time")
    if is_exact(lm):
        parts = torch.arange(rows, device=device).split(batch_rows)
        exact = torch.cat(
            [
                _weighted_sums(lm, inputs.rows(p), inputs.tokens[p], scorable[p], scorable[p].double())
                for p in parts
            ]
        )
        return Likelihoods(-exact, torch.zeros_like(exact))
    blocks = lm.attention.blocks(inputs.positions)
    starts = block_starts(inputs.segments, blocks)
    groups = max(2, -(-draws // STRATA))
    total = groups * STRATA
    hide = {"llada": _hide_counted, "mdlm": _hide_by_chance}[estimator]
    estimates = torch.zeros(rows, total, dtype=torch.float64, device=device)
    for chunk in torch.arange(rows * total, device=device).split(batch_rows):
        row, draw = chunk // total, chunk % total
        hidden, weight = hide(scorable[row], starts[row], seeds[row], draw)
        tokens = inputs.tokens[row]
        noisy = torch.where(hidden, lm.mask_token_id, tokens)
        if blocks is None:
            read = inputs.rows(row).with_tokens(noisy)
        else:
            read = noisy_then_clean(inputs.rows(row), noisy, blocks[row])
            clean_half = torch.zeros_like(hidden)
            hidden, weight = torch.cat([hidden, clean_half], 1), torch.cat([weight, clean_half], 1)
            tokens = torch.cat([tokens, tokens], 1)
        estimates[row, draw] = -_weighted_sums(lm, read, tokens, hidden, weight)
    return _grouped(estimates)


def is_exact(lm: DiffusionLM) -> bool:
    """Whether `log_likelihood` is a causal model's own, no lower bound."""
    return lm.noise.bound == "masks" and lm.attention.kind == "causal"


def bound_name(lm: DiffusionLM) -> str:
    """What `log_likelihood` is for this model, in words.

    Raises:
        UserError: see `log_likelihood`.
    """
    if lm.noise.bound == "masks":
        kinds = {
            "bidirectional": "the NELBO of masked diffusion",
            "block-causal": "the NELBO of masked diffusion, block after block",
            "causal": "exact",
        }
        return kinds[lm.attention.kind]
    bound_schedule(lm)
    chosen = lm.noise.schedule
    assert chosen is not None
    if lm.noise.destination == "uniform":
        name = "the NELBO of uniform noise"
    else:
        options = ", ".join(f"{key} {value}" for key, value in chosen.options.model_dump().items())
        name = f"the NELBO of {chosen.written_name}'s noise ({options})"
    return f"{name} and the clean text's cross-entropy" if "reconstruction" in lm.noise.bound else name


def _of_noise(
    lm: DiffusionLM, inputs: ModelInputs, scorable: Tensor, draws: int, seeds: Tensor, batch_rows: int
) -> Likelihoods:
    """As `log_likelihood`, of a checkpoint that undoes other noise than masks."""
    rows, device = inputs.tokens.shape[0], inputs.tokens.device
    total = max(2, -(-draws // STRATA)) * STRATA
    estimates = torch.zeros(rows, total, dtype=torch.float64, device=device)
    for chunk in torch.arange(rows * total, device=device).split(batch_rows):
        row, draw = chunk // total, chunk % total
        start = uniform(seeds[row], stream_id("likelihood-time"), draw // STRATA)
        within = (draw % STRATA + start) / STRATA
        address = torch.stack([seeds[row], draw], dim=1)
        estimates[row, draw] = -noise_bounds(lm, inputs.rows(row), scorable[row], address, within)
    found = _grouped(estimates)
    if lm.noise.bound == "noise-and-reconstruction":
        parts = torch.arange(rows, device=device).split(batch_rows)
        clean = torch.cat([reconstruction(lm, inputs.rows(part), scorable[part]) for part in parts])
        return Likelihoods(found.log_likelihood - clean, found.variance)
    return found


def _grouped(estimates: Tensor) -> Likelihoods:
    """Of [B, draws], whose groups of `STRATA` are independent."""
    groups = estimates.shape[1] // STRATA
    by_group = estimates.view(-1, groups, STRATA).mean(-1)
    mean = by_group.mean(-1)
    # torch's own var() rounds a row by how many rows there are.
    squares = (by_group - mean[:, None]).square().sum(-1)
    return Likelihoods(mean, squares / (groups - 1) / groups)


def _hide_counted(scorable: Tensor, starts: Tensor, seeds: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Exactly k of each block's n scorable positions, hidden.

    Args:
        scorable: [R, L] bool.
        starts: [R, L] int64, the column at which each position's block starts.
        seeds: [R] int64.
        draw: [R] int64, the number of the draw.

    Returns:
        ([R, L] bool the hidden ones, [R, L] float64 each position's n/k).
    """
    group, stratum = (draw // STRATA)[:, None], (draw % STRATA)[:, None]
    columns = torch.arange(scorable.shape[1], device=scorable.device).expand_as(scorable)
    available = torch.zeros_like(starts).scatter_add(1, starts, scorable.long()).gather(1, starts)
    within = (stratum + uniform(seeds[:, None], stream_id("likelihood-count"), group, starts)) / STRATA
    count = torch.minimum((within * available).long() + 1, available)
    order = uniform(seeds[:, None], stream_id("likelihood-order"), draw[:, None], columns)
    # Sorted by block, then by the drawn order with unscorable positions last, a position's place
    # less its block's start is its rank within the block.
    by_order = order.masked_fill(~scorable, 2.0).argsort(dim=-1)
    by_block = by_order.gather(1, starts.gather(1, by_order).argsort(dim=-1, stable=True))
    rank = torch.empty_like(starts).scatter(1, by_block, columns) - starts
    return (rank < count) & scorable, available.double() / count.clamp(min=1)


def _hide_by_chance(scorable: Tensor, starts: Tensor, seeds: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Each scorable position, hidden with its block's probability t; the same shapes, with 1/t."""
    group, stratum = (draw // STRATA)[:, None], (draw % STRATA)[:, None]
    columns = torch.arange(scorable.shape[1], device=scorable.device).expand_as(scorable)
    drawn = (stratum + uniform(seeds[:, None], stream_id("likelihood-time"), group, starts)) / STRATA
    time = (1 - MIN_TIME) * drawn + MIN_TIME
    chance = uniform(seeds[:, None], stream_id("likelihood-mask"), draw[:, None], columns)
    return (chance < time) & scorable, 1 / time


def _weighted_sums(
    lm: DiffusionLM, inputs: ModelInputs, targets: Tensor, scored: Tensor, weight: Tensor
) -> Tensor:
    """[R] float64: each row's weighted sum of negative log-likelihoods at `scored`."""
    nll = lm.negative_log_likelihood(inputs, targets, scored).double() * weight[scored]
    rows = scored.nonzero()[:, 0]
    return torch.zeros(scored.shape[0], dtype=torch.float64, device=nll.device).index_add(0, rows, nll)
