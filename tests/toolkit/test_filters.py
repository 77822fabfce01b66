"""Filters against a plain reference, one row and one token at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opendllm.core.toolkit.filters import filter_logits


def kept_by_hand(
    logits: list[float], temperature: float, top_p: float | None, top_k: int | None
) -> tuple[set[int], bool]:
    """The surviving tokens, and whether rounding can't have decided which."""
    scaled = [value / temperature if temperature > 0 else value for value in logits]
    kept, certain = set(range(len(scaled))), True
    if top_p is not None and top_p < 1:
        shifted = [math.exp(value - max(scaled)) for value in scaled]
        order = sorted(range(len(scaled)), key=lambda token: -shifted[token])
        kept, before = set(), 0.0
        for token in order:
            certain = certain and abs(before - top_p) > 1e-5
            if before > top_p and kept:
                break
            kept.add(token)
            before += shifted[token] / sum(shifted)
    if top_k is not None and top_k < len(kept):
        threshold = sorted((scaled[token] for token in kept), reverse=True)[top_k - 1]
        kept = {token for token in kept if scaled[token] >= threshold}
    return kept, certain


@given(
    logits=st.lists(st.integers(-40, 40).map(lambda value: value / 4), min_size=2, max_size=12, unique=True),
    temperature=st.sampled_from([0.0, 0.2, 0.8, 1.0, 2.0]),
    top_p=st.sampled_from([None, 0.01, 0.3, 0.5, 0.9, 0.95, 1.0]),
    top_k=st.sampled_from([None, 1, 2, 5, 50]),
)
def test_reference(logits, temperature, top_p, top_k) -> None:
    kept, certain = kept_by_hand(logits, temperature, top_p, top_k)
    filtered = filter_logits(torch.tensor([logits]), temperature, top_p, top_k)[0]
    assert filtered.dtype == torch.float32
    if certain:
        assert set(filtered.isfinite().nonzero()[:, 0].tolist()) == kept
    wanted = torch.tensor(logits) / (temperature or 1.0)
    finite = filtered.isfinite()
    torch.testing.assert_close(filtered[finite], wanted[finite])


def test_the_token_that_crosses_the_threshold_is_kept() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, kept in ((0.2, 1), (0.45, 1), (0.55, 2), (0.75, 2), (0.85, 3), (0.97, 4)):
        assert int(filter_logits(logits, 1.0, top_p, None).isfinite().sum()) == kept


def test_the_best_token_is_always_kept() -> None:
    assert filter_logits(torch.tensor([[1.0, 9.0]]), 1.0, 1e-9, 1).isfinite().tolist() == [[False, True]]


def test_tokens_that_tie_at_top_k_are_all_kept() -> None:
    """As the published `logits < topk(...).values[-1]` does."""
    filtered = filter_logits(torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]]), 1.0, None, 2)
    assert filtered.isfinite().tolist() == [[False, True, True, True, False]]


def test_tokens_that_tie_at_top_p_are_taken_by_position() -> None:
    filtered = filter_logits(torch.zeros(1, 300), 1.0, 0.5, None)
    assert filtered.isfinite()[0].nonzero()[:, 0].tolist() == list(range(151))


def test_top_p_comes_before_top_k() -> None:
    """Top-k first would let the second token's share of the kept mass exceed the threshold."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert int(filter_logits(logits, 1.0, 0.55, 2).isfinite().sum()) == 2
    assert int(filter_logits(logits, 1.0, 0.35, 2).isfinite().sum()) == 1


def test_temperature_comes_before_top_p() -> None:
    logits = torch.tensor([[0.6, 0.4]]).log()
    assert int(filter_logits(logits, 1.0, 0.65, None).isfinite().sum()) == 2
    assert int(filter_logits(logits, 0.1, 0.65, None).isfinite().sum()) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bfloat16_is_cast_up_and_the_input_left_alone(temperature) -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    filtered = filter_logits(logits, temperature, 0.5, 1)
    assert filtered.dtype == torch.float32
    assert logits.tolist() == [[1.0, 2.0, 3.0]]
