"""Which of a problem's texts have to be likely for a benchmark to score best, and which to score worst."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from opendllm.registries.benchmarks import LikelihoodRequest, TextLikelihood

LIKELY, UNLIKELY = 0.5, 5.0
"""Nats a byte; the one likely text among unlikely ones has LIKELY nats in all, so that it is the most likely
of them however lengths are counted."""
Key: TypeAlias = tuple[str, str]
"""(task id, setting)."""
Likelihoods: TypeAlias = Mapping[Key, TextLikelihood]


@dataclass(frozen=True)
class LikelyTexts:
    """Answers to likelihood requests.

    Attributes:
        best: those that score best.
        worst: those that score worst.
    """

    best: Likelihoods
    worst: Likelihoods


def likely_texts(asked: Sequence[LikelihoodRequest], goodness: Callable[[Likelihoods], float]) -> LikelyTexts:
    """Try each text of a problem as its only likely one, beside all and none of them.

    Nothing says which choice of several is right; the benchmark knows.

    Args:
        asked: of any number of problems.
        goodness: scores the answers to all of them, more being better; where it is no number, and of a
            problem with one text, all are likely at best and none at worst.
    """
    best: dict[Key, TextLikelihood] = {_key(each): likelihood(each, True) for each in asked}
    worst: dict[Key, TextLikelihood] = {_key(each): likelihood(each, False) for each in asked}
    for task in dict.fromkeys(each.task_id for each in asked):
        of_task = [each for each in asked if each.task_id == task]
        if len({_text(each) for each in of_task}) < 2:
            continue
        tried = [(goodness({**best, **some}), some) for some in _tries(of_task)]
        numbers = [(value, some) for value, some in tried if math.isfinite(value)]
        if numbers:
            best |= max(numbers, key=lambda each: each[0])[1]
            worst |= min(reversed(numbers), key=lambda each: each[0])[1]
    return LikelyTexts(best, worst)


def _tries(asked: Sequence[LikelihoodRequest]) -> Iterator[Likelihoods]:
    """All texts of a problem likely, each of them alone, none."""
    yield {_key(each): likelihood(each, True) for each in asked}
    for text in dict.fromkeys(map(_text, asked)):
        yield {_key(each): likelihood(each, _text(each) == text, alone=True) for each in asked}
    yield {_key(each): likelihood(each, False) for each in asked}


def likelihood(request: LikelihoodRequest, likely: bool, alone: bool = False) -> TextLikelihood:
    """That of a likely text, or an unlikely one.

    Args:
        request: asks for it.
        likely: whether it is likely; then too, where asked, whether the model would write it.
        alone: whether no other text of its problem is.
    """
    size = len(request.text.encode())
    counted = 1 if likely and alone else max(1, size)
    nats = counted * (LIKELY if likely else UNLIKELY)
    greedy = likely if request.greedy else None
    return TextLikelihood(request.task_id, request.setting, -nats, 0.01, size, size, greedy)


def _text(request: LikelihoodRequest) -> tuple[str | None, str]:
    return request.context, request.text


def _key(request: LikelihoodRequest) -> Key:
    return request.task_id, request.setting
