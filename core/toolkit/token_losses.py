"""The cross-entropy of an LM head, chunk by chunk: no tensor has tokens times vocabulary numbers.

The logits of a chunk are computed, read and dropped; the backward pass computes them once more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 27}
"""A chunk's logits: on a CPU they should stay in its caches, on a GPU a matrix product wants many rows."""


def token_losses(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Each token's negative log-likelihood under `head`: [N] float32, nats.

    Equal to `cross_entropy(head(hidden).float(), targets, reduction="none")`, gradients included, up
    to rounding.

    Args:
        head: from hidden states to logits.
        hidden: [N, D].
        targets: [N] int64.
    """
    if torch.is_grad_enabled() and _is_plain_linear(head):
        # Reading the weight here is what lets DeepSpeed gather it under ZeRO 3.
        losses: Tensor = _LinearTokenLosses.apply(hidden, targets, head.weight, head.bias)
        return losses
    if not len(hidden):
        return head(hidden).float().sum(-1)
    rows = _rows_at_once(hidden, vocabulary=getattr(head, "out_features", 1 << 17))
    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(_plain, head, *chunk, use_reentrant=False) for chunk in chunks])
    return torch.cat([_plain(head, *chunk) for chunk in chunks])


def _plain(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="none")


def _is_plain_linear(head: nn.Module) -> bool:
    """Nothing hooks into its forward (accelerate, LoRA), and its weight is no packed 8-bit one."""
    return type(head) is nn.Linear and type(head.weight) is nn.Parameter and not hasattr(head, "_hf_hook")


def _rows_at_once(hidden: Tensor, vocabulary: int) -> int:
    return max(1, LOGITS_AT_ONCE.get(hidden.device.type, 1 << 27) // vocabulary)


class _LinearTokenLosses(torch.autograd.Function):
    """`cross_entropy(linear(hidden, weight, bias))`, keeping one number a token for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = _rows_at_once(hidden, weight.shape[0])
        normalizers = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        chosen = torch.empty_like(normalizers)
        for start in range(0, len(hidden), rows):
            chunk = slice(start, start + rows)
            logits = linear(hidden[chunk], weight, bias).float()
            chosen[chunk] = logits.gather(1, targets[chunk, None]).squeeze(1)
            largest = logits.amax(-1)
            normalizers[chunk] = logits.sub_(largest[:, None]).exp_().sum(-1).log_().add_(largest)
        ctx.save_for_backward(hidden, targets, weight, bias, normalizers)
        return normalizers - chosen

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, weight, bias, normalizers = ctx.saved_tensors
        rows = _rows_at_once(hidden, weight.shape[0])
        for_hidden, _, for_weight, for_bias = ctx.needs_input_grad
        # Sums over many chunks are kept in float32, whatever the weights are in.
        d_hidden = torch.empty_like(hidden) if for_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if for_bias else None
        for start in range(0, len(hidden), rows):
            chunk = slice(start, start + rows)
            d_logits = linear(hidden[chunk], weight, bias).float()
            d_logits.sub_(normalizers[chunk, None]).exp_()
            d_logits.scatter_add_(1, targets[chunk, None], d_logits.new_full((len(d_logits), 1), -1.0))
            d_logits.mul_(gradient[chunk, None])
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            narrow = d_logits.to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(narrow, weight, out=d_hidden[chunk])
            if d_weight is not None and narrow.dtype == torch.float32:
                d_weight.addmm_(narrow.T, hidden[chunk])
            elif d_weight is not None:
                d_weight += narrow.T @ hidden[chunk]
        return (
            d_hidden,
            None,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
        )
