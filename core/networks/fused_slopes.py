"""The cross-entropy of a chunk of logits and its gradient, fused for a GPU.

torch.compile makes two functions of it, once for any number of rows; in single operations the same arithmetic
moves the logits eight times, most of them in float32.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_config_var, get_paths

import torch
from torch import Tensor

from opendllm.registries.backbones import LikelihoodLoss


def serve(hidden: Tensor) -> bool:
    """Whether they can be compiled for where `hidden` is."""
    return hidden.is_cuda and not lacks_for_triton()


@cache
def lacks_for_triton() -> str:
    """What torch.compile lacks here for a GPU, in a few words; empty where it lacks nothing."""
    if find_spec("triton") is None:
        return "triton, which is not installed"
    # With both it builds how its kernels are called.
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        return "a C compiler, such as gcc"
    headers = {get_paths()["include"], get_paths("posix_prefix")["include"], get_config_var("INCLUDEPY")}
    if not any((Path(folder) / "Python.h").is_file() for folder in headers if folder):
        return "Python's headers (Python.h, of a package such as python3-dev)"
    return ""


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
