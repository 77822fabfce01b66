"""The loss that keeps a mixture's tokens spread over its experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def load_balancing_loss(router_logits: Sequence[Tensor], top_k: int, real: Tensor) -> Tensor:
    """A scalar float32: the mean over rows of E sum_e f_e P_e (arXiv:2101.03961, eq. 4 to 6).

    f_e counts the choices of expert e a token, P_e averages its probability, both over a row's real tokens
    and all layers: transformers' loss, row by row. transformers takes it of a whole micro-batch, whose
    size it then hangs on; this one is a sum over rows, as sequence-wise losses are (DeepSeek-V3,
    arXiv:2412.19437, eq. 17).

    Args:
        router_logits: [B L, E] of each mixture layer.
        top_k: experts of a token.
        real: [B, L] bool, which positions are no padding.
    """
    weight = real.to(torch.float32)[..., None]
    chosen = probability = torch.zeros((), device=real.device)
    for logits in router_logits:
        softmax = logits.float().softmax(-1).view(*real.shape, -1)
        choices = torch.zeros_like(softmax).scatter(-1, softmax.topk(top_k, dim=-1).indices, 1.0)
        chosen = chosen + (choices * weight).sum(1)
        probability = probability + (softmax * weight).sum(1)
    tokens = weight.sum(1).clamp(min=1) * len(router_logits)
    experts = router_logits[0].shape[-1]
    return experts * (chosen / tokens * (probability / tokens)).sum(-1).mean()
