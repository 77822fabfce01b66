"""Bounds of a short row, summed over everything that noise can make of it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from opendllm.core.toolkit.noise_bound import NoiseAt, NoisyTokens, bound
from opendllm.core.toolkit.segments import noisy_then_clean
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.sequences import ModelInputs, TokenRows

TIMES = 400
"""At which the integral over time is summed."""


@torch.no_grad()
def masked_bound(lm: DiffusionLM, rows: TokenRows) -> float:
    """Nats of one row's maskable tokens: the NELBO of masked diffusion, block after block; exact if causal.

    Over the masks of k tokens of a block, k uniform, the mean surprise of a masked token (MDLM,
    arXiv:2406.07524, eq. 10, in the form of LLaDA, arXiv:2502.09992, eq. 6).

    Args:
        lm: the model, of the attention that the rows' blocks are of.
        rows: one row.
    """
    inputs = ModelInputs(rows.tokens, rows.segments, rows.positions)
    if lm.attention.kind == "causal":
        return float(lm.negative_log_likelihood(inputs, rows.tokens, rows.maskable).double().sum())
    columns = rows.maskable[0].nonzero()[:, 0]
    patterns = torch.tensor(list(itertools.product((False, True), repeat=len(columns))))
    masked = torch.zeros(len(patterns), rows.tokens.shape[1], dtype=torch.bool)
    masked[:, columns] = patterns
    tokens = rows.tokens.expand(masked.shape)
    noisy = torch.where(masked, lm.mask_token_id, tokens)
    read = ModelInputs(noisy, rows.segments.expand_as(tokens), rows.positions.expand_as(tokens))
    scored, targets, blocks = masked, tokens, torch.zeros_like(tokens)
    if rows.blocks is not None:
        blocks = rows.blocks.expand_as(tokens)
        read = noisy_then_clean(read.with_tokens(tokens), noisy, blocks)
        scored = torch.cat([masked, torch.zeros_like(masked)], 1)
        targets = torch.cat([targets, targets], 1)
    surprise = torch.zeros(masked.shape, dtype=torch.float64)
    surprise[masked] = lm.negative_log_likelihood(read, targets, scored).double()
    total = 0.0
    for block in blocks[0, columns].unique():
        inside = (blocks[0] == block) & rows.maskable[0]
        size, hidden = int(inside.sum()), masked[:, inside].sum(-1)
        alike = torch.tensor([math.comb(size, number) for number in range(size + 1)])[hidden]
        mean = surprise[:, inside].sum(-1) / hidden.clamp(min=1)
        total += float((mean / (alike * 2 ** (len(columns) - size))).sum())
    return total


@torch.no_grad()
def noise_bound(
    lm: DiffusionLM, rows: TokenRows, schedule: NoiseSchedule, tells_time: bool, reconstruction: bool
) -> float:
    """Nats of one row's maskable tokens: `toolkit.noise_bound`, summed over time and all noisy rows.

    Args:
        lm: a bidirectional model.
        rows: one row.
        schedule: of the noise.
        tells_time: whether the model is told the time.
        reconstruction: whether the cross-entropy of the clean row belongs to it.
    """
    assert rows.ids is not None
    size, columns = rows.ids.size, rows.maskable[0].nonzero()[:, 0]
    low, high = schedule.interval
    grid = (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES
    times, steps = low + (high - low) * grid**3, 3 * (high - low) * grid**2 / TIMES
    mass, alpha = schedule.noise_mass(times, size), schedule.alpha(times)
    clean = rows.tokens[0, columns]
    total = torch.zeros((), dtype=torch.float64)
    for values in itertools.product(range(size), repeat=len(columns)):
        noisy = torch.tensor(values)
        read = rows.tokens.index_put((torch.zeros_like(columns), columns), noisy).expand(TIMES, -1)
        logits = _logits(lm, rows, read, -alpha.log() if tells_time else None)[:, columns]
        chance, each = torch.ones_like(times), torch.zeros_like(times)
        for column, (token, true) in enumerate(zip(values, clean.tolist(), strict=True)):
            drawn = mass.mask if token == rows.ids.mask_token_id else mass.other
            chance = chance * (drawn + alpha * (token == true))
            tokens = NoisyTokens(
                torch.full((TIMES,), true), torch.full((TIMES,), token), rows.ids.mask_token_id
            )
            each = each + bound(logits[:, column], tokens, NoiseAt.of(schedule, times, size))
        total += torch.where(chance > 0, chance * each, 0.0) @ steps
    if reconstruction:
        zero = torch.zeros(1, dtype=torch.float64) if tells_time else None
        total += cross_entropy(_logits(lm, rows, rows.tokens, zero)[0, columns], clean, reduction="sum")
    return float(total)


def _logits(lm: DiffusionLM, rows: TokenRows, tokens: Tensor, time: Tensor | None) -> Tensor:
    """[N, L, V] float64 of N noisy versions [N, L] of one row, at as many times."""
    inputs = ModelInputs(tokens, rows.segments.expand_as(tokens), rows.positions.expand_as(tokens))
    if time is not None:
        inputs = replace(inputs, time=time[:, None].expand(tokens.shape))
    return lm.project(lm.hidden_states(inputs)).double()
