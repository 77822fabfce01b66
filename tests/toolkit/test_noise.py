"""The corruption's numbers are a function of the seed and the global sample index."""

from __future__ import annotations

import pytest
import torch

from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.registries.sequences import TokenRows

STREAMS = ("per_row", "per_row_stratified", "per_document", "per_token")


def rows(samples: list[int], length: int = 6) -> TokenRows:
    """Documents of two tokens each."""
    shape = (len(samples), length)
    segments = (torch.arange(length) // 2).expand(shape)
    return TokenRows(
        torch.zeros(shape, dtype=torch.int64),
        segments,
        torch.zeros_like(segments),
        torch.ones(shape, dtype=torch.bool),
        torch.tensor(samples),
    )


@pytest.mark.parametrize("kind", STREAMS)
def test_rows_do_not_depend_on_their_batch(kind: str) -> None:
    samples = [3, 900, 4, 0, 12345678901]
    together = getattr(AddressedNoise(7, rows(samples), 8), kind)("time")
    for place, sample in enumerate(samples):
        alone = getattr(AddressedNoise(7, rows([sample]), 8), kind)("time")
        assert torch.equal(alone[0], together[place])


@pytest.mark.parametrize("kind", STREAMS)
def test_seed_sample_and_stream_matter(kind: str) -> None:
    def first(seed: int, sample: int, stream: str) -> float:
        return float(getattr(AddressedNoise(seed, rows([sample]), 1), kind)(stream)[0, 0])

    seen = [
        first(seed, sample, stream) for seed in (0, 1) for sample in (0, 1) for stream in ("time", "mask")
    ]
    assert len(set(seen)) == len(seen)


def test_shapes() -> None:
    noise = AddressedNoise(0, rows([1, 2, 3]), 4)
    assert noise.per_row("a").shape == noise.per_row_stratified("a").shape == (3, 1)
    assert noise.per_document("a").shape == noise.per_token("a").shape == (3, 6)
    for kind in STREAMS:
        assert getattr(noise, kind)("a").dtype == torch.float64


def test_one_number_a_document() -> None:
    numbers = AddressedNoise(0, rows([1, 2]), 4).per_document("ratio")
    assert torch.equal(numbers[:, ::2], numbers[:, 1::2])
    assert len(numbers.unique()) == 6


@pytest.mark.parametrize("batch", [1, 2, 8, 96])
def test_stratified_numbers_cover_each_global_batch_evenly(batch: int) -> None:
    for number in range(5):
        samples = list(range(number * batch, (number + 1) * batch))
        drawn = AddressedNoise(3, rows(samples), batch).per_row_stratified("time")[:, 0]
        assert bool(((drawn >= 0) & (drawn < 1)).all())
        assert sorted((drawn * batch).floor().long().tolist()) == list(range(batch))
        gaps = drawn.sort().values.diff()
        torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / batch))


def test_global_batches_have_offsets_of_their_own() -> None:
    drawn = AddressedNoise(3, rows(list(range(64))), 8).per_row_stratified("time")[:, 0]
    assert len(torch.remainder(drawn, 1 / 8).mul(1e9).round().unique()) == 8


def test_micro_batches_see_the_same_numbers() -> None:
    whole = AddressedNoise(1, rows(list(range(24))), 12)
    for size in (1, 3, 4):
        for start in range(0, 24, size):
            part = AddressedNoise(1, rows(list(range(start, start + size))), 12)
            for kind in STREAMS:
                assert torch.equal(getattr(part, kind)("x"), getattr(whole, kind)("x")[start : start + size])
