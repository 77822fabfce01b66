"""The cross-entropy of a chunk of logits and its gradient, fused for a GPU.

torch.compile makes two functions of it, once for any number of rows; in single operations the same arithmetic
moves the logits eight times, most of them in float32.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from opendllm.registries.backbones import LikelihoodLoss


def serve(hidden: Tensor) -> bool:
    """Whether they can be compiled for where `hidden` is: triton needs a C compiler beside it."""
    return hidden.is_cuda and _can_compile()


@cache
def _can_compile() -> bool:
    return find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))


def likelihood_slopes(
    logits: Tensor, targets: Tensor, chunk: slice, loss_part: LikelihoodLoss
) -> tuple[Tensor, Tensor]:
    """(loss, its gradient for the logits, which it overwrites) of a chunk's cross-entropies.

    Args:
        logits: [n, V], in any precision; worked out in float32.
        targets: [n] int64.
        chunk: which positions these are.
        loss_part: from the negative log-likelihoods [n] to their share of the loss.
    """
    log_totals, slopes = _compiled()
    # A model's vocabulary stays what it is: dividing by it is cheap where it is a known number.
    torch._dynamo.mark_static(logits, 1)
    nll, log_total = log_totals(logits, targets)
    with torch.enable_grad():
        nll.requires_grad_()
        loss = loss_part(nll, chunk)
    (slope,) = torch.autograd.grad(loss, nll)
    slopes(logits, log_total, slope)
    # The target's own, probability - 1, from its likelihood: no number of the vocabulary is compared with it.
    of_targets = torch.expm1(-nll.detach()) * slope
    return loss, logits.scatter_(1, targets[:, None], of_targets.to(logits.dtype)[:, None])


def log_totals(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(negative log-likelihoods, logarithms of the sums), both [n] float32."""
    scores = logits.float()
    # In these words torch.compile knows a softmax, and reads the logits once.
    largest = scores.amax(-1, keepdim=True)
    total = (scores - largest).exp().sum(-1, keepdim=True)
    log_total = (total.log() + largest).squeeze(-1)
    return log_total - logits.gather(1, targets[:, None]).squeeze(1).float(), log_total


def write_slopes(logits: Tensor, log_total: Tensor, slope: Tensor) -> None:
    """Into `logits` [n, V]: slope softmax(logits)."""
    logits.copy_((logits.float() - log_total[:, None]).exp() * slope[:, None])


@cache
def _compiled() -> tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., None]]:
    return torch.compile(log_totals, dynamic=True), torch.compile(write_slopes, dynamic=True)
