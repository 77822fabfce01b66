"""Filters against a plain reference, one row and one token at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opendllm.core.decoding.filters import filter_logits

from ..golden_vectors import Entry, Vectors, golden


def kept(logits: torch.Tensor, temperature: float, top_p: float | None, top_k: int | None) -> torch.Tensor:
    """[N, V] bool: what survives."""
    return filter_logits(logits, temperature, top_p, top_k).weights > 0


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
def test_reference(logits: list[float], temperature: float, top_p: float | None, top_k: int | None) -> None:
    survivors, certain = kept_by_hand(logits, temperature, top_p, top_k)
    filtered = filter_logits(torch.tensor([logits]), temperature, top_p, top_k)
    survive = filtered.weights[0] > 0
    if certain:
        assert set(survive.nonzero()[:, 0].tolist()) == survivors
    wanted = (torch.tensor(logits) / (temperature or 1.0)).masked_fill(~survive, -torch.inf).softmax(-1)
    torch.testing.assert_close(filtered.weights[0] / filtered.total, wanted)


def test_the_token_that_crosses_the_threshold_is_kept() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, count in ((0.2, 1), (0.45, 1), (0.55, 2), (0.75, 2), (0.85, 3), (0.97, 4)):
        assert int(kept(logits, 1.0, top_p, None).sum()) == count


def test_the_best_token_is_always_kept() -> None:
    assert kept(torch.tensor([[1.0, 9.0]]), 1.0, 1e-9, 1).tolist() == [[False, True]]


def test_tokens_that_tie_at_top_k_are_all_kept() -> None:
    """As the published `logits < topk(...).values[-1]` does."""
    survivors = kept(torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]]), 1.0, None, 2)
    assert survivors.tolist() == [[False, True, True, True, False]]


def test_tokens_that_tie_at_top_p_are_taken_by_position() -> None:
    assert kept(torch.zeros(1, 300), 1.0, 0.5, None)[0].nonzero()[:, 0].tolist() == list(range(151))


@pytest.mark.parametrize("top_p", [0.6, 0.9, 0.95])
def test_the_nucleus_of_a_row_does_not_depend_on_the_others(top_p: float) -> None:
    """Of two best tokens that are nearly equal both stay, in whichever row they are."""
    draws = torch.Generator().manual_seed(0)
    rows = torch.randn(8, 160, generator=draws) - 12
    best = torch.stack([torch.randperm(160, generator=draws)[:2] for _ in rows])
    rows.scatter_(1, best, torch.tensor([[0.0, 1e-4]]).expand(8, 2))
    together = kept(rows, 1.0, top_p, None)
    assert together.sum(-1).tolist() == [2] * 8
    for number, row in enumerate(rows):
        assert torch.equal(kept(row[None], 1.0, top_p, None)[0], together[number])


def test_top_p_comes_before_top_k() -> None:
    """Top-k first would let the second token's share of the kept mass exceed the threshold."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert int(kept(logits, 1.0, 0.55, 2).sum()) == 2
    assert int(kept(logits, 1.0, 0.35, 2).sum()) == 1


def test_temperature_comes_before_top_p() -> None:
    logits = torch.tensor([[0.6, 0.4]]).log()
    assert int(kept(logits, 1.0, 0.65, None).sum()) == 2
    assert int(kept(logits, 0.1, 0.65, None).sum()) == 1


@given(
    logits=st.lists(st.floats(-30, 30, width=32, allow_subnormal=False), min_size=2, max_size=40),
    equal=st.integers(1, 200),
    spread=st.sampled_from([1e-3, 0.1, 1.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.99]),
    seed=st.integers(0, 99),
)
def test_the_nucleus_equals_a_full_sorts(
    logits: list[float], equal: int, spread: float, top_p: float, seed: int
) -> None:
    """Flat, peaked and tied distributions, wherever the histogram's edges fall."""
    noise = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * spread
    row = torch.cat([torch.tensor(logits), torch.full((equal,), logits[0]), noise])
    ordered, order = row.double().sort(descending=True, stable=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    found = kept(row[None], 1.0, top_p, None)[0][order]
    wanted = before <= top_p
    close = (before - top_p).abs() < 1e-5
    assert torch.equal(found[~close], wanted[~close])
    assert bool(found[0])


@given(
    logits=st.lists(st.integers(-20, 20).map(lambda value: value / 4), min_size=3, max_size=9),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([None, 2]),
)
def test_confidences_are_those_of_the_softmax(
    logits: list[float], temperature: float, top_k: int | None
) -> None:
    filtered = filter_logits(torch.tensor([logits]), temperature, None, top_k)
    p = (filtered.weights / filtered.total[:, None]).double()[0]
    best = p.sort(descending=True).values
    assert float(filtered.margin()) == pytest.approx(float(best[0] - best[1]), abs=1e-6)
    assert float(filtered.negative_entropy()) == pytest.approx(float(torch.xlogy(p, p).sum()), abs=1e-5)
    for token in range(len(logits)):
        assert float(filtered.probability(torch.tensor([token]))) == pytest.approx(float(p[token]), abs=1e-7)


def test_an_impossible_token_adds_nothing_to_the_entropy() -> None:
    filtered = filter_logits(torch.tensor([[0.0, 0.0, -torch.inf]]), 1.0, None, None)
    assert float(filtered.negative_entropy()) == pytest.approx(-math.log(2))


def test_a_token_before_which_just_top_p_lies_is_kept() -> None:
    """Also where a token before it is all that lies nearer to the best one."""
    logits = torch.tensor([[0.0, -1.0, -2.0]])
    total = float(logits.exp().sum())
    assert kept(logits, 1.0, 1 / total, None).tolist() == [[True, True, False]]
    assert kept(logits, 1.0, 0.999 / total, None).tolist() == [[True, False, False]]


@golden("sdar")
def test_filters_of_block_diffusion(vectors: Vectors) -> None:
    """top-k, then top-p of what it kept; and both published confidences of the most probable token."""
    with Entry(vectors.expected["filters"]) as filters:
        for key in ("logits_of", "order"):
            filters.take(key)  # in words
        forward = vectors.expected["forward"][0]
        logits = torch.tensor(forward["aligned_logits_row0"])[8:14]
        for content in filters.take("cases"):
            with Entry(content) as case:
                temperature, top_k, top_p = (case.take(key) for key in ("temperature", "top_k", "top_p"))
                found = filter_logits(logits, temperature, top_p, top_k or None, top_k_first=True)
                assert (found.weights > 0).sum(-1).tolist() == case.take("kept_count")
                best = found.weights.argmax(-1)
                assert best.tolist() == case.take("argmax")
                for row, kept_tokens in enumerate(case.take("kept_probabilities") or []):
                    ours = {
                        str(token): float(found.weights[row, token] / found.total[row])
                        for token in (found.weights[row] > 0).nonzero()[:, 0].tolist()
                    }
                    assert ours == pytest.approx(kept_tokens, abs=1e-4)
                wanted = case.take("confidence_generate_py")
                assert found.probability(best).tolist() == pytest.approx(wanted, abs=1e-4)
                tempered = filter_logits(logits, temperature, None, None).probability(best)
                assert tempered.tolist() == pytest.approx(case.take("confidence_evaluation"), abs=1e-4)
