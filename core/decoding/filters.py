"""Temperature, top-p and top-k: what a distribution is filtered to before a token is drawn.

Everything works on N rows of V logits. Nothing is sorted but the few candidates at a nucleus's edge:
a histogram of the logits, weighted with the probabilities, tells where that edge is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BUCKETS = 1024


@dataclass(frozen=True)
class FilteredLogits:
    """A distribution after temperature and filters.

    Attributes:
        weights: [N, V] float32, proportional to the probabilities, 0 at what is cut off; the largest is 1.
        below: [N, V] float32, each tempered logit less the largest one; `weights` is exp(below) where kept.
        total: [N] float32, the sum of the weights.
        largest: [N] float32, the largest logit, tempered.
    """

    weights: Tensor
    below: Tensor
    total: Tensor
    largest: Tensor

    def probability(self, tokens: Tensor) -> Tensor:
        """[N] of `tokens` [N]."""
        return self.weights.gather(-1, tokens[:, None]).squeeze(-1) / self.total

    def margin(self) -> Tensor:
        """[N] largest minus second largest probability."""
        best = self.weights.topk(2, dim=-1).values
        return (best[:, 0] - best[:, 1]) / self.total

    def negative_entropy(self) -> Tensor:
        """[N] sum of p log p, in nats."""
        # 0 * inf where a logit is -inf would be NaN.
        expected = (self.weights * self.below.clamp(min=-1e4)).sum(-1) / self.total
        return expected - self.total.log()


def filter_logits(
    logits: Tensor,
    temperature: float,
    top_p: float | None,
    top_k: int | None,
    top_k_first: bool = False,
) -> FilteredLogits:
    """What temperature, top-p and top-k leave of the distributions of `logits` [N, V] float32.

    The order is the published one (Dream's and Open-dLLM's `sample_tokens`): temperature, top-p,
    top-k; with `top_k_first` top-p is of what top-k kept, as SDAR and LLaDA2 do. Top-p keeps the most
    probable tokens until their sum first exceeds it, always the best one; of equal ones the first. Top-k
    keeps all that are as probable as the k-th. At temperature 0 the filters still apply, since confidences
    are read after them.
    """
    largest = logits.amax(-1)
    below = logits - largest[:, None]
    if temperature not in (0, 1):
        below, largest = below.div_(temperature), largest / temperature
    weights = below.exp()
    total = weights.sum(-1)
    keep = None
    if top_k is not None and top_k < logits.shape[-1]:
        keep = below >= below.topk(top_k, dim=-1).values[:, -1:]
    if top_p is not None and top_p < 1:
        among, mass = weights, total
        if keep is not None and top_k_first:
            among = weights * keep
            mass = among.sum(-1)
        nucleus = _nucleus(among, below, mass, top_p)
        keep = nucleus if keep is None else keep & nucleus
    if keep is not None:
        weights.mul_(keep)
        total = weights.sum(-1)
    return FilteredLogits(weights, below, total, largest)


def _nucleus(weights: Tensor, below: Tensor, total: Tensor, top_p: float) -> Tensor:
    """[N, V] bool: the tokens before which less than or just `top_p` of the probability lies."""
    rows, size = weights.shape
    # V tokens at distance D weigh V e^-D at most, so the edge can't lie further away than this.
    furthest = math.log(size / (1 - top_p)) - total.log()
    per_bucket = -(BUCKETS - 1) / furthest[:, None]
    buckets = (below * per_bucket).clamp_(max=BUCKETS - 1).long()
    mass = weights.new_zeros(rows, BUCKETS).scatter_add_(1, buckets, weights)
    cumulative = mass.double().cumsum(-1)
    allowed = top_p * total.double()
    # The first bucket in which the sum exceeds what is allowed holds the nucleus's edge.
    edge = (cumulative <= allowed[:, None]).sum(-1, keepdim=True).clamp(max=BUCKETS - 1)
    before_edge = (cumulative - mass).gather(1, edge).squeeze(1)
    keep = buckets < edge
    row, token = (buckets == edge).nonzero(as_tuple=True)
    # Ascending by row, then by distance (floats that aren't negative order like their bits), then by id.
    bits = below[row, token].abs().view(torch.int32).long()  # the sign of -0.0 is a bit, too
    order = torch.sort((row << 32) | bits, stable=True).indices
    row, token = row[order], token[order]
    mass_here = weights[row, token].double()
    running = mass_here.cumsum(0) - mass_here
    starts = torch.full((rows,), torch.inf, dtype=torch.float64, device=weights.device)
    starts = starts.scatter_reduce(0, row, running, "amin")
    inside = before_edge[row] + (running - starts[row]) <= allowed[row]
    keep[row[inside], token[inside]] = True
    return keep
