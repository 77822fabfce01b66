"""The likelihood bound of uniform noise and mixtures, by Monte Carlo over times and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from opendllm.core.toolkit.corrupting import replacements
from opendllm.core.toolkit.draws import stream_id, uniform
from opendllm.core.toolkit.noise_bound import NoiseAt, NoisyTokens, bound
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import Destination, NoiseSchedule
from opendllm.registries.sequences import ModelInputs, TokenIds

NUMBERS_AT_ONCE = 1 << 23
"""Logits that are there at the same time."""
MIN_TIME = 1e-12
"""What lies below it, or as close to 1, is worth no more than its square root."""
BISECTIONS = 60


class Survival(NoiseSchedule):
    """alpha = 1 - t with uniform noise, which is any schedule of uniform noise in another clock.

    The bound is an integral over alpha, and a model that reads the time reads -ln alpha.
    """

    destination: Destination = "uniform"

    @property
    def ends(self) -> tuple[float, float]:
        """(1, 0)."""
        return 1.0, 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def alpha_prime(self, t: Tensor) -> Tensor:
        """-1."""
        return -torch.ones_like(t)


def bound_schedule(lm: DiffusionLM) -> NoiseSchedule:
    """The schedule that the checkpoint's bound is an integral over.

    Raises:
        UserError: there is none, or its noise doesn't go from none to nothing else.
    """
    chosen = lm.noise.schedule
    if lm.noise.bound == "none" or chosen is None:
        raise UserError(
            "this checkpoint has no likelihood: the objective that it was trained with knows no bound of one"
        )
    if lm.attention.kind != "bidirectional":
        raise UserError(f"the bound of {chosen.name} noise is that of a bidirectional model")
    if lm.noise.destination == "uniform":
        return Survival()
    schedule = chosen.build()
    if schedule.ends != (1.0, 0.0):
        raise UserError(
            f"noise schedule {chosen.name} goes from alpha {schedule.ends[0]:g} to {schedule.ends[1]:g}: its "
            f"integral is a bound from 1 to 0 only"
        )
    return schedule


def noise_bounds(
    lm: DiffusionLM, inputs: ModelInputs, scorable: Tensor, seeds: Tensor, drawn: Tensor
) -> Tensor:
    """[R] float64 nats: one unbiased draw of each row's bound.

    Times are drawn more often near 0, and weighed for it: see `drawn_times`. Published code cuts GIDD's tail
    there off.

    Args:
        lm: the model; its `noise` says which bound.
        inputs: R clean rows.
        scorable: [R, L] bool.
        seeds: [R, 2] int64, of each draw.
        drawn: [R] float64 in [0, 1), v.
    """
    schedule = bound_schedule(lm)
    ids = TokenIds(lm.vocab_size, lm.mask_token_id)
    time, density = drawn_times(drawn)
    columns = torch.arange(scorable.shape[1], device=scorable.device)
    first, second = seeds[:, :1], seeds[:, 1:]
    alpha = schedule.alpha(time)[:, None]
    gone = (uniform(first, stream_id("likelihood-noise"), second, columns) < 1 - alpha) & scorable
    which = uniform(first, stream_id("likelihood-token"), second, columns)
    mass = schedule.noise_mass(time[:, None].expand_as(which), ids.size)
    noisy = torch.where(gone, replacements(mass, which, ids), inputs.tokens)
    read = inputs.with_tokens(noisy)
    if lm.noise.time_conditioning:
        read = replace(read, time=-alpha.log().expand_as(which))
    rows, positions = scorable.nonzero(as_tuple=True)
    clean, seen, times = inputs.tokens[rows, positions], noisy[rows, positions], time[rows]

    def bounds(logits: Tensor, chosen: slice) -> Tensor:
        tokens = NoisyTokens(clean[chosen], seen[chosen], lm.mask_token_id)
        return bound(logits, tokens, NoiseAt.of(schedule, times[chosen], ids.size))

    found = position_values(lm, read, (rows, positions), bounds) / density[rows]
    return torch.zeros_like(time).index_add(0, rows, found)


def drawn_times(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """(times, their density): half of them even, half with density t^(-3/4) / 4.

    GIDD's noise repositions a token with a chance of sqrt(t), and is then weighed with 1 / (2t): evenly drawn
    times have an infinite variance, and t^(-3/4) the least. Uniform noise, of chance t, has a finite one too.

    Args:
        drawn: [R] float64 in [0, 1), the share of the times below.
    """
    low, high = torch.zeros_like(drawn), torch.ones_like(drawn)  # of t^(1/4)
    for _ in range(BISECTIONS):
        root = (low + high) / 2
        below = (root**4 + root) / 2 < drawn
        low, high = torch.where(below, root, low), torch.where(below, high, root)
    time = (((low + high) / 2) ** 4).clamp(MIN_TIME, 1 - MIN_TIME)
    return time, 0.5 + time**-0.75 / 8


def reconstruction(lm: DiffusionLM, inputs: ModelInputs, scorable: Tensor) -> Tensor:
    """[R] float64 nats: the cross-entropy of clean rows that the model reads as they are, at time 0."""
    if lm.noise.time_conditioning:
        inputs = replace(
            inputs, time=torch.zeros(inputs.tokens.shape, dtype=torch.float32, device=inputs.tokens.device)
        )
    rows, positions = scorable.nonzero(as_tuple=True)
    clean = inputs.tokens[rows, positions]

    def surprise(logits: Tensor, chosen: slice) -> Tensor:
        return cross_entropy(logits, clean[chosen], reduction="none").double()

    found = position_values(lm, inputs, (rows, positions), surprise)
    return torch.zeros(len(scorable), dtype=torch.float64, device=scorable.device).index_add(0, rows, found)


def position_values(
    lm: DiffusionLM,
    inputs: ModelInputs,
    at: tuple[Tensor, Tensor],
    value: Callable[[Tensor, slice], Tensor],
) -> Tensor:
    """[n]: a number of each position's distribution, its logits a chunk at a time.

    Args:
        lm: the model.
        inputs: what it reads.
        at: ([n], [n]) int64, rows and columns.
        value: from logits [m, V] float32 of a run of the positions, and which these are, to [m].
    """
    hidden = lm.hidden_states(inputs)[at]
    # ZeRO 3 gathers the head at each call: ranks with rows of one shape must make as many.
    chunks = -(-inputs.tokens.numel() * lm.vocab_size // NUMBERS_AT_ONCE)
    step = max(1, -(-len(hidden) // chunks))
    parts = []
    for start in range(0, chunks * step, step):
        some = hidden[start : start + step]
        parts.append(value(lm.project(some).float(), slice(start, start + len(some))))
    return torch.cat(parts)
