"""Addressed randomness: a uniform number is a hash of what it is for, not the next of a stream.

A row's numbers so depend on its own seed, its step and the position only, never on the rows beside
it, and a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

STRETCH = 128

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def stream_id(name: str) -> int:
    """A signed 64-bit number for a stream's name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def _shift_right(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), in wrapping int64 arithmetic."""
    bits = (bits ^ _shift_right(bits, 30)) * _MIX_1
    bits = (bits ^ _shift_right(bits, 27)) * _MIX_2
    return bits ^ _shift_right(bits, 31)


def hash_address(*address: Tensor | int) -> Tensor:
    """An int64 hash of an address; its parts broadcast against each other."""
    return hash_on(torch.zeros((), dtype=torch.int64), *address)


def hash_on(state: Tensor, *address: Tensor | int) -> Tensor:
    """The hash of a longer address, from that of its beginning."""
    for part in address:
        part = torch.as_tensor(part, dtype=torch.int64)
        if not part.ndim:
            state = _mix(state + _GOLDEN + int(part))
            continue
        if state.device != part.device:  # a number: filled in there, since a copy would wait for a GPU
            state = torch.full((), int(state), dtype=torch.int64, device=part.device)
        state = _mix(state + _GOLDEN + part)
    return state


def uniform(*address: Tensor | int) -> Tensor:
    """Numbers in [0, 1), float64 with 53 random bits, one for each address."""
    return _shift_right(hash_address(*address), 11).to(torch.float64) * 2.0**-53


def draw_from(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One index a row by inverse CDF in float64.

    Float32 sums or Gumbel noise would cut off the distribution's tail (arXiv:2409.02908). First the
    stretch of `STRETCH` indices is found that the draw falls into, then the index in it: one pass over
    the weights.

    Args:
        weights: [N, V] float, not negative, of which at least one is positive; rows need not sum to 1.
        uniforms: [N] float64 in [0, 1).

    Returns:
        [N] int64; never an index whose weight is 0.
    """
    rows, size = weights.shape
    stretches = nn.functional.pad(weights, (0, -size % STRETCH)).view(rows, -1, STRETCH)
    within_all = stretches.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniforms * within_all[:, -1]
    stretch = _first_above(within_all, target)
    reached = torch.where(stretch > 0, within_all.gather(1, (stretch - 1).clamp(min=0)), 0.0).squeeze(1)
    chosen = stretches.gather(1, stretch[:, :, None].expand(-1, -1, STRETCH)).squeeze(1)
    within_stretch = chosen.double().cumsum(-1)
    within = _first_above(within_stretch, target - reached)
    return (stretch * STRETCH + within).squeeze(1)


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """[N, 1] int64: where `cumulative` [N, W] first exceeds `target` [N]; its last rise, if nowhere."""
    largest = cumulative[:, -1]
    below = torch.nextafter(largest, torch.zeros_like(largest))
    return torch.searchsorted(cumulative, torch.minimum(target, below).clamp(min=0)[:, None], right=True)
