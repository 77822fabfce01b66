"""What estimating likelihoods reads, by the evaluator's own groups and draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

from opendllm.core.evaluation.text_likelihood import ROWS_AT_ONCE
from opendllm.core.planning.canvas_pattern import Pattern
from opendllm.core.toolkit.likelihood import STRATA, TOKENS_AT_ONCE
from opendllm.registries.options import Bound


@dataclass(frozen=True)
class LikelihoodReads:
    """Of texts that are alike.

    Attributes:
        rows: forward passes of a row, over all texts.
        rows_together: in one pass of the model.
        columns: of a row.
        scored: of them, those that reach the LM head, on average.
        at_most: whether the data decides when it is done.
    """

    rows: int
    rows_together: int
    columns: int
    scored: float
    at_most: bool


def likelihood_reads(
    texts: int, length: int, greedy: int, pattern: Pattern, noise: tuple[Bound, int]
) -> LikelihoodReads:
    """What `log_likelihood`, and where asked for `would_write`, read.

    Args:
        texts: how many.
        length: of each, in tokens.
        greedy: tokens of which it is asked whether the model would write them, one a pass.
        pattern: the checkpoint's.
        noise: what the likelihood is a bound of, and how many Monte-Carlo draws a text has.
    """
    bound, draws = noise
    if pattern.attention == "causal":
        total, scored = 1, float(length)
    else:
        total = max(2, math.ceil(draws / STRATA)) * STRATA + (bound == "noise-and-reconstruction")
        scored = length / 2 if bound == "masks" else float(length)
    together = min(max(1, TOKENS_AT_ONCE // max(1, length)), min(ROWS_AT_ONCE, texts) * total)
    # Each block is denoised beside its clean row.
    columns = 2 * length if pattern.attention == "block-causal" else length
    return LikelihoodReads(texts * (total + greedy), together, columns, scored, at_most=greedy > 0)
