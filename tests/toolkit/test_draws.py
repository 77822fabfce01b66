"""Addressed uniform numbers, and tokens drawn with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats

from opendllm.core.toolkit.draws import draw_from, hash_address, stream_id, uniform

LARGEST = 1 - 2.0**-53


@pytest.mark.parametrize(
    "address",
    [
        (0, stream_id("token"), torch.arange(40_000)),
        (torch.arange(40_000), stream_id("token"), 3),
        (torch.arange(200)[:, None], stream_id("mask"), torch.arange(200)),
        (-5, torch.arange(-20_000, 20_000), 7),
        (hash_address(9, torch.arange(200))[:, None], 1, torch.arange(200)),
    ],
    ids=["last part", "first part", "two parts", "negative", "hashed seeds"],
)
def test_numbers_are_uniform_and_uncorrelated(address: tuple[Any, ...]) -> None:
    numbers = uniform(*address).flatten()
    assert numbers.dtype == torch.float64
    assert 0 <= float(numbers.min()) < 1e-3
    assert 1 - 1e-3 < float(numbers.max()) < 1
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-3
    counts = torch.histc(numbers, 100, 0, 1)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    pairs = torch.stack([numbers[:-1], numbers[1:]])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 4 / len(numbers) ** 0.5
    low_bits = (numbers * 2.0**53).long() % 16
    assert stats.chisquare(torch.bincount(low_bits, minlength=16).numpy()).pvalue > 1e-3


def test_a_number_is_a_function_of_its_address_alone() -> None:
    seeds, columns = torch.arange(7), torch.arange(11)
    table = uniform(seeds[:, None], stream_id("token"), columns)
    order = torch.randperm(7)
    assert torch.equal(uniform(seeds[order][:, None], stream_id("token"), columns), table[order])
    for row in range(7):
        for column in range(11):
            assert float(uniform(row, stream_id("token"), column)) == float(table[row, column])
    torch.manual_seed(123)
    assert torch.equal(uniform(seeds[:, None], stream_id("token"), columns), table)


def splitmix(*address: int) -> float:
    """The same hash in Python's unbounded integers."""
    wrap, state = (1 << 64) - 1, 0
    for part in address:
        state = (state + 0x9E3779B97F4A7C15 + part) & wrap
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & wrap
        state ^= state >> 31
    return (state >> 11) * 2.0**-53


def test_numbers_stay_the_same_from_release_to_release() -> None:
    """A resumed run must see the noise that the uninterrupted one would have seen."""
    assert float(uniform(0, stream_id("token"), 0)) == 0.1711647098871607
    for address in [(0,), (2**62, -1, 17), (-(2**63), 2**63 - 1), (5, stream_id("mask"), 3, 900)]:
        assert float(uniform(*address)) == splitmix(*address)
        assert float(uniform(*(torch.tensor([part]) for part in address))) == splitmix(*address)


def test_different_addresses_differ() -> None:
    seen = torch.cat(
        [
            uniform(seed, stream_id(stream), torch.arange(1000))
            for seed in (0, 1, -1, 2**63 - 1)
            for stream in ("token", "order", "commit")
        ]
    )
    assert len(seen.unique()) == len(seen)


def test_order_of_parts_matters() -> None:
    assert float(uniform(1, 2)) != float(uniform(2, 1))
    assert float(uniform(1)) != float(uniform(1, 0))


@pytest.mark.parametrize(
    "probabilities",
    [[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.0, 0.5, 0.0], [3.0, 1.0, 0.0], [1e-3, 1 - 1e-3]],
)
def test_draws_follow_the_distribution(probabilities: list[float]) -> None:
    draws = 20_000
    table = torch.tensor(probabilities).expand(draws, -1)
    counts = torch.bincount(draw_from(table, uniform(4, torch.arange(draws))), minlength=len(probabilities))
    expected = torch.tensor(probabilities, dtype=torch.float64)
    assert not counts[expected == 0].any()
    expected = expected / expected.sum() * draws
    assert stats.chisquare(counts[expected > 0].numpy(), expected[expected > 0].numpy()).pvalue > 1e-3


def test_the_tail_is_not_cut_off() -> None:
    """A token of probability 1e-12 is drawn by exactly the uniforms that are its due."""
    table = torch.tensor([[1.0, 1e-12]])
    assert int(draw_from(table, torch.tensor([1 - 0.5e-12], dtype=torch.float64))) == 1
    assert int(draw_from(table, torch.tensor([1 - 2e-12], dtype=torch.float64))) == 0


@pytest.mark.parametrize("number", [0.0, 2.0**-53, 0.5, LARGEST])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impossible_tokens_are_never_drawn(number: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(500, 31, generator=generator, dtype=dtype) * (
        torch.rand(500, 31, generator=generator) < 0.2
    )
    table = table * 10.0 ** torch.randint(-30, 3, (500, 1), generator=generator)
    table = table[table.sum(-1) > 0]
    drawn = draw_from(table, torch.full((len(table),), number, dtype=torch.float64))
    assert bool((table.gather(-1, drawn[:, None]) > 0).all())


def test_extreme_numbers_take_the_first_and_the_last_possible_token() -> None:
    table = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0, 0.0]] * 2)
    numbers = torch.tensor([0.0, LARGEST], dtype=torch.float64)
    assert draw_from(table, numbers).tolist() == [1, 3]
