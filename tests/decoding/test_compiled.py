"""Compiled reading: the same tokens, in shapes that never change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
import torch

from opendllm.core import load
from opendllm.core.language_model import LanguageModel
from opendllm.registries.errors import UserError

M = 150
CANVAS = torch.tensor([[5, 9, 31, *[M] * 6], [7, M, 8, 9, M, 10, 11, 12, 13]])


@pytest.fixture
def traced(goldens, monkeypatch) -> Iterator[Callable[[str], LanguageModel]]:
    """(family) -> a model whose network is traced as for compiling, but run by torch itself.

    What a C++ compiler makes of it is torch's affair; a bare machine has none.
    """
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setenv("CXX", "true")
    torch._dynamo.reset()
    yield lambda family: load(goldens / family, mask_token_id=M, device="cpu")
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("family", "sampler", "options"),
    [
        ("open-dcoder", "p2", {}),
        ("llada", "low-confidence", {"cache": "dual", "block_length": 3}),
        ("llada", "confidence-threshold", {"threshold": 0.3}),
        ("dream", "entropy", {"guidance_scale": 0.5, "temperature": 0.7}),
    ],
)
def test_the_same_tokens(family, sampler, options, traced) -> None:
    model = traced(family)
    plain = model.sample(CANVAS, sampler, **options)
    compiled = model.sample(CANVAS, sampler, compile=True, **options)
    assert torch.equal(plain.tokens, compiled.tokens)
    assert torch.equal(plain.forward_passes, compiled.forward_passes)


def test_rows_stay_so_that_shapes_do(traced) -> None:
    """The second row is finished after two steps, and is read until the first one is."""
    model = traced("llada")
    shapes: set[tuple[int, ...]] = set()
    decoder = model.lm.module.network.get_decoder()
    embed = decoder.embed_tokens.forward

    def watched(tokens: torch.Tensor) -> torch.Tensor:
        shapes.add(tuple(tokens.shape))
        return embed(tokens)

    decoder.embed_tokens.forward = watched
    model.sample(CANVAS, compile=True)
    assert shapes == {(2, 9)}
    model.sample(CANVAS)
    assert shapes == {(2, 9), (1, 9)}


def test_without_a_compiler_it_says_so(golden_model, goldens, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"compile needs a C\+\+ compiler"):
        load(goldens / "llada", mask_token_id=M, device="cpu").sample(CANVAS, compile=True)
