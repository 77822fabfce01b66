"""Compiled reading: the same tokens, in shapes that never change."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opendllm.core import load
from opendllm.core.checkpoints.text_codec import TextCodec, codec_of
from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.proposer import NotFiniteError
from opendllm.core.decoding.text import SeededGap, write
from opendllm.core.foundation.notices import tell_once
from opendllm.core.language_model import LanguageModel
from opendllm.core.toolkit.ranking import rank_in_row
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.samplers import Sampler, Selection, Step

from .samplers_by_noise import OF_MASKS, OF_OTHER_NOISE, suited, with_effect

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


@pytest.fixture
def fixed(goldens: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], LanguageModel]:
    """(family) -> a model that takes steps of fixed shapes, without any compiling."""
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setattr(shutil, "which", lambda _name: "a compiler")
    return lambda family: load(goldens / family, mask_token_id=M, device="cpu")


@pytest.mark.parametrize("name", [name for name in OF_MASKS if name != "dreamon"])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.9, "early_stop": True},
        {"temperature": 0.7, "top_p": 0.8, "cache": "dual", "block_length": 3},
        {"guidance_scale": 0.5, "steps": 3, "cache": "prefix"},
    ],
    ids=["early-stop", "dual", "guided"],
)
def test_steps_of_fixed_shapes_are_the_same_steps(
    name: str, options: dict[str, Any], fixed: Callable[[str], LanguageModel]
) -> None:
    """Again with other rows in the memory of the first ones, padded elsewhere."""
    model = fixed("llada")
    options = with_effect(name, **options)
    for seed, padding in ((1, 2), (2, 0), (3, 4)):
        canvas = CANVAS.roll(seed, 0).clone()
        attention_mask = torch.ones_like(canvas)
        attention_mask[0, :padding] = 0
        plain = model.sample(canvas, name, attention_mask=attention_mask, seed=seed, **options)
        same = model.sample(canvas, name, attention_mask=attention_mask, seed=seed, compile=True, **options)
        assert torch.equal(plain.tokens, same.tokens)
        assert torch.equal(plain.forward_passes, same.forward_passes)
        assert torch.equal(plain.committed_at, same.committed_at)
    # One for rows that are padded, one for others: the third canvas came into the first one's memory.
    assert len(vars(model.lm)["_kept_steps"]) == 2


@pytest.mark.parametrize("name", OF_OTHER_NOISE)
def test_so_are_those_of_uniform_noise(name: str, fixed: Callable[[str], LanguageModel]) -> None:
    model = suited(fixed("llada"), name)
    options = with_effect(name, temperature=0.9, steps=4)
    plain = model.sample(CANVAS, name, seed=1, **options)
    same = model.sample(CANVAS, name, seed=1, compile=True, **options)
    assert torch.equal(plain.tokens, same.tokens)
    assert torch.equal(plain.forward_passes, same.forward_passes)


@pytest.mark.parametrize(("family", "sampler"), [("sdar", "block-steps"), ("fast-dllm-v2", "block-steps")])
def test_so_are_those_in_blocks_whose_keys_are_kept(
    family: str, sampler: str, goldens: Path, fixed: Callable[[str], LanguageModel]
) -> None:
    model = load(goldens / family, mask_token_id=M, device="cpu")
    canvas = torch.full((2, 40), model.lm.mask_token_id)
    canvas[:, :7] = torch.arange(7)
    canvas[1, :13] = torch.arange(13)
    plain = model.sample(canvas, sampler, threshold=0.02)
    same = model.sample(canvas, sampler, threshold=0.02, compile=True)
    assert torch.equal(plain.tokens, same.tokens)
    assert torch.equal(plain.forward_passes, same.forward_passes)


def test_a_logit_that_is_not_finite_is_named(fixed: Callable[[str], LanguageModel]) -> None:
    model = fixed("llada")
    with torch.no_grad():
        model.lm.module.network.get_input_embeddings().weight[31] = torch.nan
    with pytest.raises(NotFiniteError, match="row 0, position 3"):
        model.sample(CANVAS, "low-confidence", compile=True)


def test_the_next_canvas_does_not_read_what_was_not_finite(
    goldens: Path, fixed: Callable[[str], LanguageModel]
) -> None:
    """The keys of the one before lie in the same memory."""
    fixed("sdar")
    model = load(goldens / "sdar", mask_token_id=M, device="cpu")
    canvas = torch.full((1, 24), M)
    canvas[:, :5] = torch.tensor([1, 2, 3, 4, 31])
    healthy = canvas.clone()
    healthy[:, 4] = 5
    plain = model.sample(healthy, "block-steps")
    with torch.no_grad():
        model.lm.module.network.get_input_embeddings().weight[31] = torch.nan
    with pytest.raises(NotFiniteError):
        model.sample(canvas, "block-steps", compile=True)
    assert torch.equal(model.sample(healthy, "block-steps", compile=True).tokens, plain.tokens)


class SaysNothingInBetween(Sampler):
    """Says which rows' blocks are done only at steps at which one is."""

    finishes = True

    def select(self, step: Step) -> Selection:
        commit = step.masked & (rank_in_row(step.confidence, step.masked) < 1)
        done = step.editable.any(-1) & ~(step.masked & ~commit).any(-1)
        return Selection(commit=commit, finished=done if bool(done.any()) else None)


class FallsBehind(Sampler):
    """Plans two commits a step and makes one."""

    plans = True

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        return [max(0, masks - 2 * (step + 1)) for step in range(steps)]

    def select(self, step: Step) -> Selection:
        return Selection(commit=step.masked & (rank_in_row(step.confidence, step.masked) < 1))


def test_what_a_sampler_says_of_its_blocks_holds_for_that_step(
    fixed: Callable[[str], LanguageModel],
) -> None:
    model = fixed("llada")
    seeds = torch.tensor([1, 2])
    found = [
        decode(
            model.lm, CANVAS, None, SaysNothingInBetween(), DecoderOptions(compile=how, block_length=3), seeds
        ).tokens
        for how in (False, True, False, True)
    ]
    assert all(torch.equal(found[0], each) for each in found)


def test_a_plan_that_is_not_kept_is_refused(fixed: Callable[[str], LanguageModel]) -> None:
    model = fixed("llada")
    with pytest.raises(UserError, match=r"left [1-4] masks"):
        decode(model.lm, CANVAS[:1], None, FallsBehind(), DecoderOptions(compile=True), torch.tensor([1]))


def test_graphs_need_a_gpu(golden_model: Callable[[str], LanguageModel]) -> None:
    with pytest.raises(UserError, match="compile: graphs needs a GPU"):
        golden_model("llada").sample(CANVAS, compile="graphs")


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


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_few_shapes_are_compiled(
    cache: str, fixed: Callable[[str], LanguageModel], capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts of ten lengths, four at a time: whatever else had a shape of its own would be slow."""
    model = fixed("llada")
    tell_once.cache_clear()
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
    assert "10 texts in 1 shape (rows x tokens): 4 x 128" in capsys.readouterr().err
    widths = {"none": [128], "prefix": [128], "dual": [32, 128]}[cache]
    assert shapes <= {(rows, width) for rows in (1, 2, 4) for width in widths} | {(1, 1)}


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
