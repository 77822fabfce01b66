"""Likelihoods of texts: tokens in rows, nats and bytes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from opendllm.core.toolkit.likelihood import Estimator, log_likelihood
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class TextToScore:
    """A text, and the seed of its Monte-Carlo draws."""

    text: str
    seed: int


@dataclass(frozen=True)
class ScoredText:
    """What `TextLikelihood` says, without the request's identity."""

    log_likelihood: float
    variance: float
    tokens: int
    bytes: int


def score_texts(
    lm: DiffusionLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[TextToScore],
    longest: int,
    draws: int,
    estimator: Estimator = "llada",
) -> Iterator[ScoredText]:
    """Each text's likelihood given its first token, in order; texts are cut after `longest` tokens.

    A text of fewer than two tokens has none that could be scored, and counts for nothing.
    """
    device = next(lm.module.parameters()).device
    for start in range(0, len(texts), ROWS_AT_ONCE):
        group = texts[start : start + ROWS_AT_ONCE]
        encoded = [_encode(tokenizer, text.text, longest) for text in group]
        width = max(1, *(len(ids) for ids, _ in encoded))
        tokens = torch.zeros(len(group), width, dtype=torch.int64)
        real = torch.zeros(len(group), width, dtype=torch.bool)
        for row, (ids, _) in enumerate(encoded):
            tokens[row, : len(ids)] = torch.tensor(ids)
            real[row, : len(ids)] = True
        scorable = real.clone()
        scorable[:, 0] = False
        seeds = torch.tensor([text.seed for text in group], device=device)
        inputs = inputs_from_mask(tokens.to(device), real.to(device))
        found = log_likelihood(lm, inputs, scorable.to(device), draws, seeds, estimator=estimator)
        for row, (ids, size) in enumerate(encoded):
            yield ScoredText(
                float(found.log_likelihood[row]), float(found.variance[row]), max(0, len(ids) - 1), size
            )


def _encode(tokenizer: PreTrainedTokenizerFast, text: str, longest: int) -> tuple[list[int], int]:
    """The text's ids, cut, and how many UTF-8 bytes all but the first one spell."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids: list[int] = encoding["input_ids"][:longest]
    if len(ids) < 2:
        return ids, 0
    offsets = encoding["offset_mapping"][: len(ids)]
    return ids, len(text[offsets[0][1] : offsets[-1][1]].encode())
