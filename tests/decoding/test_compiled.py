"""Compiled reading: the same tokens, in shapes that never change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opendllm.core import load
from opendllm.core.checkpoints.text_codec import TextCodec, codec_of
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.text import SeededGap, write
from opendllm.core.language_model import LanguageModel
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap

M = 150
CANVAS = torch.tensor([[5, 9, 31, *[M] * 6], [7, M, 8, 9, M, 10, 11, 12, 13]])


def letters() -> TextCodec:
    """Each letter a token, for a model without a tokenizer."""
    raw = Tokenizer(models.WordLevel({chr(number): number for number in range(128)}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    return codec_of(PreTrainedTokenizerFast(tokenizer_object=raw))


@pytest.fixture
def traced(goldens: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], LanguageModel]]:
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
def test_the_same_tokens(
    family: str, sampler: str, options: dict[str, Any], traced: Callable[[str], LanguageModel]
) -> None:
    model = traced(family)
    plain = model.sample(CANVAS, sampler, **options)
    compiled = model.sample(CANVAS, sampler, compile=True, **options)
    assert torch.equal(plain.tokens, compiled.tokens)
    assert torch.equal(plain.forward_passes, compiled.forward_passes)


def test_rows_stay_so_that_shapes_do(traced: Callable[[str], LanguageModel]) -> None:
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


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_a_row_without_masks_is_no_hindrance(cache: str, traced: Callable[[str], LanguageModel]) -> None:
    model = traced("llada")
    canvas = torch.tensor([[5, *[M] * 7], [5, 6, 7, 8, 9, 10, 11, 12]])
    options: dict[str, Any] = {"block_length": 3, "cache": cache}
    plain = model.sample(canvas, "low-confidence", **options)
    compiled = model.sample(canvas, "low-confidence", compile=True, **options)
    assert torch.equal(plain.tokens, compiled.tokens)
    assert compiled.forward_passes.tolist() == [7, 0]


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_few_shapes_are_compiled(cache: str, traced: Callable[[str], LanguageModel]) -> None:
    """Prompts of ten lengths, the last batch not full: whatever else had a shape of its own would be slow."""
    model = traced("llada")
    lengths = range(3, 22, 2)
    gaps = [SeededGap(Gap("x" * length, "y" * (length % 3), 9), length) for length in lengths]
    sampler = installed_plugins().samplers.get("confidence-threshold").build({"threshold": 0.02})
    options = DecoderOptions(block_length=3, cache=cache, temperature=0.8)
    plain = dict(write(model.lm, letters(), gaps, sampler, options, 4))
    shapes: set[tuple[int, ...]] = set()
    embed = model.lm.module.network.get_decoder().embed_tokens
    forward = embed.forward
    embed.forward = lambda tokens: shapes.add(tuple(tokens.shape)) or forward(tokens)
    compiled = options.model_copy(update={"compile": True})
    found = dict(write(model.lm, letters(), gaps, sampler, compiled, 4))
    assert [found[index].tokens for index in range(10)] == [plain[index].tokens for index in range(10)]
    assert [found[n].forward_passes for n in range(10)] == [plain[n].forward_passes for n in range(10)]
    widths = {"none": [128], "prefix": [128], "dual": [32, 128]}[cache]
    assert shapes <= {(rows, width) for rows in (1, 2, 4) for width in widths}


@pytest.mark.slow
def test_more_shapes_than_torch_allows_by_itself_are_compiled(traced: Callable[[str], LanguageModel]) -> None:
    model = traced("llada")
    torch._dynamo.utils.counters.clear()
    for length in range(3, 15):
        model.sample(torch.tensor([[5] * length + [M]]), compile=True)
    counted = torch._dynamo.utils.counters["frames"]
    assert counted["ok"] == counted["total"] == 12


def test_without_a_compiler_it_says_so(
    golden_model: Callable[[str], LanguageModel], goldens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"compile needs a C\+\+ compiler"):
        load(goldens / "llada", mask_token_id=M, device="cpu").sample(CANVAS, compile=True)
