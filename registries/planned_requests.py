"""What a benchmark will ask, as far as planning has to know it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedTexts:
    """Generation requests that are alike.

    Attributes:
        count: how many.
        left: characters of the text before the gap, on average.
        right: of the text after it; 0 to continue the prefix.
        length: tokens to write; None for the decoder's `max_new_tokens`, or the reference's.
        reference: characters of the references whose length is asked for, on average; None where another is.
    """

    count: int
    left: float
    right: float = 0.0
    length: int | None = None
    reference: float | None = None


@dataclass(frozen=True)
class PlannedLikelihoods:
    """Likelihood requests that are alike.

    Attributes:
        count: how many.
        characters: of a text with its context, on average; None for as much as the model reads at once.
        greedy: characters of the part of which it is asked whether the model would write it, too; else 0.
        at_most: whether the data may hold fewer.
    """

    count: int
    characters: float | None = None
    greedy: float = 0.0
    at_most: bool = False


PlannedRequests = PlannedTexts | PlannedLikelihoods
