"""Temperature, top-p and top-k: what a distribution is narrowed to before a token is drawn."""

from __future__ import annotations

import torch
from torch import Tensor


def filter_logits(logits: Tensor, temperature: float, top_p: float | None, top_k: int | None) -> Tensor:
    """Filtered logits [N, V] float32, with -inf at what is cut off.

    The order is the published one (Dream's and Open-dLLM's `sample_tokens`): temperature, top-p,
    top-k. At temperature 0 the filters still apply, since confidences are read after them.
    """
    logits = logits.float()
    if temperature > 0:
        logits = logits / temperature
    if top_p is not None and top_p < 1:
        logits = _keep_top_p(logits, top_p)
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    return logits


def _keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep the most probable tokens until their sum first exceeds `top_p`; always the best one."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.softmax(-1).cumsum(-1)
    cut = cumulative > top_p
    cut = torch.cat([torch.zeros_like(cut[:, :1]), cut[:, :-1]], dim=-1)
    return logits.masked_fill(torch.zeros_like(cut).scatter(-1, order, cut), -torch.inf)
