"""The model's proposals at the positions that a sampler asked for, and its confidence in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.toolkit.draws import draw_from
from opendllm.core.toolkit.filters import Narrowed, narrow
from opendllm.registries.samplers import Confidence

ELEMENTS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits worked on together: what fits a CPU's cache, and what keeps a GPU busy."""


@dataclass(frozen=True)
class Filters:
    """How tokens are drawn.

    Attributes:
        temperature: of the draw; 0 takes the mode.
        top_p: see `narrow`.
        top_k: see `narrow`.
    """

    temperature: float
    top_p: float | None
    top_k: int | None

    @property
    def cut(self) -> bool:
        """Whether some tokens are cut off."""
        return self.top_p is not None or self.top_k is not None


@dataclass(frozen=True)
class Ban:
    """A token that is never proposed, nor counted in confidences.

    Attributes:
        token_id: of the token.
        where: [N] bool, the positions that it is banned from; None for all.
    """

    token_id: int
    where: Tensor | None

    def among(self, chosen: slice) -> Ban:
        """The same ban for some of the positions."""
        return Ban(self.token_id, None if self.where is None else self.where[chosen])


@dataclass(frozen=True)
class Proposals:
    """One proposal a position.

    Attributes:
        tokens: [N] int64.
        confidence: [N] float32; zeros where none was asked for.
        finite: [N] bool, whether all logits were.
    """

    tokens: Tensor
    confidence: Tensor
    finite: Tensor

    @staticmethod
    def joined(parts: Sequence[Proposals]) -> Proposals:
        """One after the other."""
        return Proposals(
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.confidence for part in parts]),
            torch.cat([part.finite for part in parts]),
        )


def propose(
    logits: Tensor,
    uniforms: Tensor,
    mask_token_id: int,
    filters: Filters,
    confidence: Confidence | None,
    bans: Sequence[Ban] = (),
) -> Proposals:
    """Draw a token at each position.

    The mask itself is left out of the draw, before the filters (where it is the model's favourite,
    they might keep nothing else), but not of the confidences.

    Args:
        logits: [N, V], aligned; overwritten. Worked on in float32: bfloat16 confidences would tie.
        uniforms: [N] float64, one draw a position.
        mask_token_id: never proposed.
        filters: temperature, top-p and top-k.
        confidence: which one is wanted.
        bans: other tokens that are never proposed.
    """
    count, size = logits.shape
    at_once = max(1, ELEMENTS_AT_ONCE[logits.device.type] // size)
    if count <= at_once:
        return _propose(logits, uniforms, mask_token_id, filters, confidence, bans)
    parts = []
    for start in range(0, count, at_once):
        chosen = slice(start, start + at_once)
        here = [ban.among(chosen) for ban in bans]
        parts.append(_propose(logits[chosen], uniforms[chosen], mask_token_id, filters, confidence, here))
    return Proposals.joined(parts)


def _propose(
    logits: Tensor,
    uniforms: Tensor,
    mask_token_id: int,
    filters: Filters,
    confidence: Confidence | None,
    bans: Sequence[Ban],
) -> Proposals:
    logits = logits.float()
    finite = torch.isfinite(logits.sum(-1))
    if logits.is_cuda or not bool(finite.all()):
        logits.masked_fill_(~finite[:, None], 0.0)  # the decoder names them; here they only must not crash
    for ban in bans:
        logits[slice(None) if ban.where is None else ban.where, ban.token_id] = -torch.inf
    of_mask = logits[:, mask_token_id].clone()
    logits[:, mask_token_id] = -torch.inf
    temperature = filters.temperature
    drawn_from = narrow(logits, temperature, filters.top_p, filters.top_k) if temperature > 0 else None
    tokens = logits.argmax(-1) if drawn_from is None else draw_from(drawn_from.weights, uniforms)
    if confidence is None:
        values = torch.zeros_like(of_mask)
    elif confidence == "model_probability" or not filters.cut:
        own = 1.0 if confidence == "model_probability" or temperature == 0 else temperature
        fits = drawn_from is not None and not filters.cut and own == temperature
        without = drawn_from if fits else narrow(logits, own, None, None)
        assert without is not None
        values = _with_mask(without, of_mask / own, tokens, confidence)
    else:
        logits[:, mask_token_id] = of_mask
        narrowed = narrow(logits, temperature, filters.top_p, filters.top_k)
        if confidence == "margin":
            values = narrowed.margin()
        elif confidence == "negative_entropy":
            values = narrowed.negative_entropy()
        else:
            values = narrowed.probability(tokens)
    return Proposals(tokens, values, finite)


def _with_mask(without: Narrowed, of_mask: Tensor, tokens: Tensor, confidence: Confidence) -> Tensor:
    """[N] the confidence in an unfiltered distribution that has the mask too.

    Args:
        without: the same distribution without the mask.
        of_mask: [N] the mask's logit.
        tokens: [N] int64, the proposals.
        confidence: which one is wanted.
    """
    share = torch.sigmoid(without.largest + without.total.log() - of_mask)
    if confidence == "negative_entropy":
        # Grouping: sum p log p = share (inner + log share) + rest log rest.
        return (
            share * without.negative_entropy() + torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)
        )
    if confidence == "margin":
        two = without.weights.topk(min(2, without.weights.shape[-1]), dim=-1).values / without.total[:, None]
        best = torch.cat([two * share[:, None], (1 - share)[:, None]], dim=-1).topk(2, dim=-1).values
        return best[:, 0] - best[:, 1]
    return share * without.probability(tokens)
