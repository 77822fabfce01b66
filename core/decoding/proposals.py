"""The model's proposals at the positions that a sampler asked for, and its confidence in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.decoding.filters import FilteredLogits, filter_logits
from opendllm.core.toolkit.draws import STRETCH, draw_from
from opendllm.registries.samplers import Confidence

ELEMENTS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits worked on together: what fits a CPU's cache, and what keeps a GPU busy."""


@dataclass(frozen=True)
class Filters:
    """How tokens are drawn.

    Attributes:
        temperature: of the draw; 0 takes the mode.
        top_p: see `filter_logits`.
        top_k: see `filter_logits`.
        top_k_first: see `filter_logits`.
    """

    temperature: float
    top_p: float | None
    top_k: int | None
    top_k_first: bool = False

    @property
    def cut(self) -> bool:
        """Whether some tokens are cut off."""
        return self.top_p is not None or self.top_k is not None


@dataclass(frozen=True)
class SuppressedToken:
    """A token that is never proposed, nor counted in confidences.

    Attributes:
        token_id: of the token; or [K] int64, of several that are suppressed at all positions.
        where: [N] bool, the positions at which it is suppressed; None for all.
    """

    token_id: int | Tensor
    where: Tensor | None

    def among(self, chosen: slice) -> SuppressedToken:
        """The same token for some of the positions."""
        return SuppressedToken(self.token_id, None if self.where is None else self.where[chosen])


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
        if len(parts) == 1:
            return parts[0]
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
    suppressed: Sequence[SuppressedToken] = (),
) -> Proposals:
    """Draw a token at each position.

    The mask itself is never drawn, but counts in the confidences and in what the filters keep: tokens
    follow the published distribution given that it isn't the mask. Where the filters keep nothing else,
    the best other token is taken.

    Args:
        logits: [N, V], aligned; overwritten. Worked on in float32: bfloat16 confidences would tie.
        uniforms: [N] float64, one draw a position.
        mask_token_id: never proposed.
        filters: temperature, top-p and top-k.
        confidence: which one is wanted.
        suppressed: other tokens that are never proposed: as if their logits were -inf, so that
            confidences are of the distribution over the tokens that remain.
    """
    count, size = logits.shape
    at_once = max(1, ELEMENTS_AT_ONCE[logits.device.type] // size)
    if count <= at_once:
        return _propose(logits, uniforms, mask_token_id, filters, confidence, suppressed)
    parts = []
    for start in range(0, count, at_once):
        chosen = slice(start, start + at_once)
        here = [token.among(chosen) for token in suppressed]
        parts.append(_propose(logits[chosen], uniforms[chosen], mask_token_id, filters, confidence, here))
    return Proposals.joined(parts)


def _propose(
    logits: Tensor,
    uniforms: Tensor,
    mask_token_id: int,
    filters: Filters,
    confidence: Confidence | None,
    suppressed: Sequence[SuppressedToken],
) -> Proposals:
    logits = logits.float()
    finite = torch.isfinite(logits.sum(-1))
    if logits.is_cuda or not bool(finite.all()):
        logits.masked_fill_(~finite[:, None], 0.0)  # the decoder names them; here they only must not crash
    for token in suppressed:
        logits[slice(None) if token.where is None else token.where, token.token_id] = -torch.inf
    if filters.cut and filters.temperature > 0:
        tokens, values = _drawn_from_the_kept(logits, uniforms, mask_token_id, filters, confidence)
    else:
        tokens, values = _drawn_from_all(logits, uniforms, mask_token_id, filters, confidence)
    return Proposals(tokens, torch.zeros_like(logits[:, 0]) if values is None else values, finite)


def _drawn_from_the_kept(
    logits: Tensor, uniforms: Tensor, mask_token_id: int, filters: Filters, confidence: Confidence | None
) -> tuple[Tensor, Tensor | None]:
    """([N] tokens, [N] confidences) where top-p or top-k narrow the draw."""
    filtered = filter_logits(logits, filters.temperature, filters.top_p, filters.top_k, filters.top_k_first)
    values = _certainty(filtered, confidence)
    nothing_else = filtered.weights[:, mask_token_id] >= filtered.total
    filtered.weights[:, mask_token_id] = 0
    if logits.is_cuda or bool(nothing_else.any()):  # a GPU is not waited for
        others = filtered.below.clone()
        others[:, mask_token_id] = -torch.inf
        best = others.argmax(-1, keepdim=True)
        kept = filtered.weights.gather(1, best)
        filtered.weights.scatter_(1, best, torch.where(nothing_else[:, None], 1.0, kept))
    tokens = draw_from(filtered.weights, uniforms)
    if confidence == "probability":
        values = filtered.probability(tokens).masked_fill(nothing_else, 0.0)
    elif confidence == "model_probability":
        values = filter_logits(logits, 1, None, None).probability(tokens)
    elif confidence == "tempered_probability":
        values = filter_logits(logits, filters.temperature, None, None).probability(tokens)
    return tokens, values


def _drawn_from_all(
    logits: Tensor, uniforms: Tensor, mask_token_id: int, filters: Filters, confidence: Confidence | None
) -> tuple[Tensor, Tensor | None]:
    """The same from the whole distribution, or its mode; there filters count in confidences only."""
    of_mask = logits[:, mask_token_id].clone()
    logits[:, mask_token_id] = -torch.inf
    temperature = filters.temperature
    drawn_from = filter_logits(logits, temperature, None, None) if temperature > 0 else None
    tokens = _argmax(logits) if drawn_from is None else draw_from(drawn_from.weights, uniforms)
    if confidence is None:
        return tokens, None
    if filters.cut and confidence not in ("model_probability", "tempered_probability"):
        logits[:, mask_token_id] = of_mask
        filtered = filter_logits(logits, 0, filters.top_p, filters.top_k, filters.top_k_first)
        certainty = _certainty(filtered, confidence)
        return tokens, filtered.probability(tokens) if certainty is None else certainty
    own = 1.0 if confidence == "model_probability" or temperature == 0 else temperature
    fits = drawn_from is not None and own == temperature
    without = drawn_from if fits else filter_logits(logits, own, None, None)
    assert without is not None
    return tokens, _with_mask(without, of_mask / own, tokens, confidence)


def _argmax(logits: Tensor) -> Tensor:
    """[N] int64, the first of the largest; over stretches, since torch's own reads one by one on a CPU."""
    size = logits.shape[-1]
    if logits.is_cuda or size % STRETCH:
        return logits.argmax(-1)
    stretches = logits.view(len(logits), -1, STRETCH)
    stretch = stretches.amax(-1).argmax(-1, keepdim=True)
    within = stretches.gather(1, stretch[:, :, None].expand(-1, -1, STRETCH)).argmax(-1)
    return (stretch * STRETCH + within).squeeze(1)


def _certainty(filtered: FilteredLogits, confidence: Confidence | None) -> Tensor | None:
    """[N] a confidence that is read off the distribution, whatever the token; None for the others."""
    if confidence == "margin":
        return filtered.margin()
    return filtered.negative_entropy() if confidence == "negative_entropy" else None


def _with_mask(without: FilteredLogits, of_mask: Tensor, tokens: Tensor, confidence: Confidence) -> Tensor:
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
