"""A row is written the same alone and in any company."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from opendllm.core.language_model import LanguageModel

from .samplers_by_noise import SAMPLERS, suited

FIXED_LENGTH = [name for name in SAMPLERS if name != "dreamon"]
DRAWING = [name for name in SAMPLERS if name != "adaptive-greedy"]
FAMILIES = ["open-dcoder", "llada", "dream"]
M = 150
ROWS = [
    [5, 9, 31, M, M, M, M, M, M, M],
    [7, M, M, M, 8, 9, M, M, 10, 11, 12, 13, 14, M],
    [3, 4, 5],
    [M, M, 77, M, 12],
    [20, *[M] * 17],
]
SEEDS = [11, -4, 0, 2**62, 5]


def batch(side: str, filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, ROWS)) + 2
    canvas = torch.full((len(ROWS), longest), filler)
    mask = torch.zeros_like(canvas)
    for number, row in enumerate(ROWS):
        room = longest - len(row)
        start = {"left": room, "right": 0, "both": room // 2}[side]
        canvas[number, start : start + len(row)] = torch.tensor(row)
        mask[number, start : start + len(row)] = 1
    return canvas, mask


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_row_alone_equals_row_in_a_batch(
    name: str,
    family: str,
    temperature: float,
    golden_model: Callable[[str], LanguageModel],
    usable: Callable[..., dict[str, Any]],
) -> None:
    model = suited(golden_model(family), name)
    options: dict[str, Any] = {
        "steps": 6,
        "temperature": temperature,
        "block_length": 4,
        "guidance_scale": 0.5,
    }
    if temperature:
        options |= {"top_p": 0.95, "top_k": 40}
    options = usable(name, options)
    alone = [
        model.sample(torch.tensor([row]), name, seed=[seed], **options)
        for row, seed in zip(ROWS, SEEDS, strict=True)
    ]
    for side, filler in (("left", 1), ("right", 2), ("both", M)):
        canvas, mask = batch(side, filler)
        decoded = model.sample(canvas, name, mask, seed=SEEDS, **options)
        for number, row in enumerate(alone):
            real = mask[number].bool()
            assert (
                decoded.tokens[number][decoded.real[number]].tolist() == row.tokens[0][row.real[0]].tolist()
            )
            assert int(decoded.forward_passes[number]) == int(row.forward_passes[0])
            if name in FIXED_LENGTH:
                assert torch.equal(decoded.real[number], real)
                assert decoded.tokens[number][~real].tolist() == canvas[number][~real].tolist()


@pytest.mark.parametrize("name", DRAWING)
def test_seeds_matter_and_repeat(
    name: str, golden_model: Callable[[str], LanguageModel], usable: Callable[..., dict[str, Any]]
) -> None:
    model = suited(golden_model("dream"), name)
    canvas = torch.tensor([[5, *[M] * 12]] * 3)
    options = usable(name, {"steps": 6, "temperature": 1.0})
    decoded = model.sample(canvas, name, seed=[1, 2, 1], **options).tokens
    assert torch.equal(decoded[0], decoded[2])
    assert not torch.equal(decoded[0], decoded[1])
    torch.manual_seed(99)
    assert torch.equal(model.sample(canvas, name, seed=[1, 2, 1], **options).tokens, decoded)


def test_one_seed_gives_every_row_its_own(golden_model: Callable[[str], LanguageModel]) -> None:
    canvas = torch.tensor([[5, *[M] * 12]] * 2)
    tokens = golden_model("dream").sample(canvas, seed=3, temperature=1.0).tokens
    assert not torch.equal(tokens[0], tokens[1])


def test_order_temperature_is_drawn_row_by_row(golden_model: Callable[[str], LanguageModel]) -> None:
    model = golden_model("dream")
    canvas = torch.tensor([[5, *[M] * 12]] * 3)
    options: dict[str, Any] = {"steps": 4, "alg_temp": 1.0}
    decoded = model.sample(canvas, "entropy", seed=[1, 2, 1], **options).tokens
    assert torch.equal(decoded[0], decoded[2])
    assert torch.equal(model.sample(canvas[1:2], "entropy", seed=[2], **options).tokens[0], decoded[1])
