"""Kept keys: exact where they must be, and reading less where they may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from opendllm.core.checkpoints.loading import Checkpoint
from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.language_model import LanguageModel
from opendllm.core.testing.table_lm import TableLM
from opendllm.registries.backbones import Vocabulary, WholeReader
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

from .samplers_by_noise import suited

M = 150
FAMILIES = ["open-dcoder", "llada", "dream"]
CACHED = [
    (name, cache)
    for name in installed_plugins().samplers.names()
    if "cache" not in installed_plugins().samplers.get(name).options.without_effect  # type: ignore[attr-defined]
    for cache in ("prefix", "dual", "delayed")
    if cache != "delayed" or not installed_plugins().samplers.get(name).build().revises
]
ROWS = [[5, 9, 31, *[M] * 11], [7, M, M, M, 8, 9, M, M, 10, 11, 12, 13, 14, M], [20, *[M] * 6, 4, 4, M]]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of several lengths and gaps, padded on either side."""
    canvas = torch.full((3, 16), 3)
    mask = torch.zeros(3, 16, dtype=torch.bool)
    for number, (row, start) in enumerate(zip(ROWS, (2, 0, 3), strict=True)):
        canvas[number, start : start + len(row)] = torch.tensor(row)
        mask[number, start : start + len(row)] = True
    return canvas, mask


@pytest.fixture
def columns_read(
    golden_model: Callable[[str], LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[int]]:
    """(family) -> a list that fills with the number of columns of every forward pass."""

    def watch(family: str) -> list[int]:
        counts: list[int] = []
        decoder = golden_model(family).lm.module.network.get_decoder()
        forward = decoder.forward

        def counting(*args: Any, **kwargs: Any) -> Any:
            counts.append(kwargs["input_ids"].shape[1])
            return forward(*args, **kwargs)

        monkeypatch.setattr(decoder, "forward", counting)
        return counts

    return watch


@pytest.mark.parametrize(("name", "cache"), [pair for pair in CACHED if pair[1] != "delayed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_refresh_at_every_step_changes_nothing(
    name: str,
    family: str,
    cache: str,
    golden_model: Callable[[str], LanguageModel],
    usable: Callable[..., dict[str, Any]],
) -> None:
    canvas, mask = batch()
    model = suited(golden_model(family), name)
    options: dict[str, Any] = {
        "steps": 9,
        "block_length": 4,
        "temperature": 0.8,
        "guidance_scale": 0.3,
        "seed": [1, 2, 3],
    }
    options = usable(name, options)
    plain = model.sample(canvas, name, mask, **options)
    refreshed = model.sample(canvas, name, mask, **options, cache=cache, cache_refresh=1)
    assert torch.equal(plain.tokens, refreshed.tokens)
    assert torch.equal(plain.forward_passes, refreshed.forward_passes)


@pytest.mark.parametrize(("name", "cache"), CACHED)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("refresh", [None, 3])
def test_a_row_under_a_cache_does_not_depend_on_its_batch(
    name: str,
    family: str,
    cache: str,
    refresh: int | None,
    golden_model: Callable[[str], LanguageModel],
    usable: Callable[..., dict[str, Any]],
) -> None:
    canvas, mask = batch()
    model = suited(golden_model(family), name)
    options: dict[str, Any] = {
        "steps": 9,
        "block_length": 4,
        "temperature": 0.8,
        "cache": cache,
        "cache_refresh": refresh,
    }
    options = usable(name, options)
    together = model.sample(canvas, name, mask, seed=[1, 2, 3], **options)
    for number, row in enumerate(ROWS):
        alone = model.sample(torch.tensor([row]), name, seed=[number + 1], **options)
        assert torch.equal(together.tokens[number][mask[number]], alone.tokens[0])
        assert int(together.forward_passes[number]) == int(alone.forward_passes[0])


def test_what_is_done_is_read_no_more_after_the_delay(
    golden_model: Callable[[str], LanguageModel], columns_read: Callable[[str], list[int]]
) -> None:
    """A mask a pass: the prompt's keys are kept at the second; a block of two is read two passes longer."""
    canvas = torch.tensor([[5, 9, 31, 7, *[M] * 6]])
    options: dict[str, Any] = {"block_length": 2, "cache": "delayed"}
    counts = columns_read("llada")
    golden_model("llada").sample(canvas, "low-confidence", **options, cache_delay=0)
    assert counts == [10, 6, 6, 4, 4, 2]
    counts.clear()
    golden_model("llada").sample(canvas, "low-confidence", **options, cache_delay=2)
    assert counts == [10, 10, 10, 10, 6, 10]


def test_kept_keys_of_a_row_that_sits_a_pass_out_stay(golden_model: Callable[[str], LanguageModel]) -> None:
    """Ancestral steps commit nothing now and then; alone, such a row isn't read at them."""
    rows = [[5, 9, 31, 7, *[M] * 8], [8, 3, *[M] * 10], [9, 4, 4, 4, 4, 4, 4, 4, 4, M, M, M]]
    model = golden_model("llada")
    options: dict[str, Any] = {"steps": 24, "block_length": 4, "temperature": 0.8, "cache": "delayed"}
    waited = 0
    for seed in range(8):
        seeds = [seed, seed + 100, seed + 200]
        together = model.sample(torch.tensor(rows), "ancestral", seed=seeds, cache_delay=0, **options)
        for number, row in enumerate(rows):
            alone = model.sample(
                torch.tensor([row]), "ancestral", seed=[seeds[number]], cache_delay=0, **options
            )
            assert torch.equal(together.tokens[number], alone.tokens[0])
        waited += int(together.forward_passes.max() > together.forward_passes.min())
    assert waited


def test_a_delay_that_never_ends_changes_nothing(golden_model: Callable[[str], LanguageModel]) -> None:
    canvas, mask = batch()
    options: dict[str, Any] = {
        "block_length": 4,
        "temperature": 0.8,
        "guidance_scale": 0.3,
        "seed": [1, 2, 3],
    }
    plain = golden_model("dream").sample(canvas, "multi-block", mask, **options)
    delayed = golden_model("dream").sample(
        canvas, "multi-block", mask, **options, cache="delayed", cache_delay=10_000
    )
    assert torch.equal(plain.tokens, delayed.tokens)


def test_a_delayed_cache_is_refused_where_blocks_without_masks_change(
    golden_model: Callable[[str], LanguageModel],
) -> None:
    canvas = torch.tensor([[5, M, M]])
    with pytest.raises(UserError, match="this sampler changes such blocks: take prefix or dual"):
        golden_model("llada").sample(canvas, "p2", cache="delayed")
    with pytest.raises(UserError, match="cache_delay has no effect without the delayed cache"):
        golden_model("llada").sample(canvas, "entropy", cache="dual", cache_delay=1)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("refresh", [None, 2, 3])
def test_a_row_without_masks_keeps_its_keys_while_others_are_read(
    cache: str, refresh: int | None, golden_model: Callable[[str], LanguageModel]
) -> None:
    """Alone, it would not be read at a step in which nothing of it is masked; remdm has such steps."""
    rows = [[5, M, 31, 4, M, 7], [28, M, 30, 31, 32, 33], [5, 9, M, M, M, M]]
    options: dict[str, Any] = {
        "steps": 12,
        "eta": 1.0,
        "temperature": 0.8,
        "cache": cache,
        "cache_refresh": refresh,
    }
    model = golden_model("llada")
    skipped = 0
    for seed in range(12):
        together = model.sample(torch.tensor(rows), "remdm", seed=[seed] * 3, **options)
        for number, row in enumerate(rows):
            alone = model.sample(torch.tensor([row]), "remdm", seed=[seed], **options)
            assert torch.equal(together.tokens[number], alone.tokens[0])
            skipped += int(alone.forward_passes[0]) < 12
    assert skipped


@pytest.mark.parametrize("family", FAMILIES)
def test_caches_read_what_they_promise(
    family: str, golden_model: Callable[[str], LanguageModel], columns_read: Callable[[str], list[int]]
) -> None:
    """Four steps a block: one reads the row, three the block (dual) or all from it on (prefix)."""
    counts = columns_read(family)
    canvas = torch.tensor([[5, 9, 31, 4, *[M] * 8, 6, 7]])
    shifted = golden_model(family).lm.logit_shift  # a shifted block is predicted from one column earlier
    options: dict[str, Any] = {"sampler": "low-confidence", "steps": 8, "block_length": 4}
    golden_model(family).sample(canvas, **options, cache="dual")
    assert counts == [14, *[4 + shifted] * 3] * 2
    counts.clear()
    golden_model(family).sample(canvas, **options, cache="prefix")
    assert counts == [14, *[10 + shifted] * 3, 14, *[6 + shifted] * 3]
    counts.clear()
    golden_model(family).sample(canvas, **options, cache="dual", cache_refresh=2)
    assert counts == [14, 4 + shifted, 14, 4 + shifted] * 2


def test_a_cache_is_an_approximation(golden_model: Callable[[str], LanguageModel]) -> None:
    """If it never changed anything, the tests above would show nothing."""
    canvas, mask = batch()
    options: dict[str, Any] = {"sampler": "low-confidence", "steps": 12, "block_length": 4}
    model = golden_model("llada")
    plain = model.sample(canvas, attention_mask=mask, **options).tokens
    for cache in ("prefix", "dual"):
        assert not torch.equal(
            model.sample(canvas, attention_mask=mask, cache=cache, **options).tokens, plain
        )


def own_pattern(family: str, **options: object) -> LanguageModel:
    torch.manual_seed(1)
    registration = installed_plugins().backbones.get(family)
    lm = registration.build(options).build(Vocabulary(M + 1, M, 1))
    with torch.no_grad():
        for parameter in lm.module.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)  # sure enough that a wrong key shows
    lm.module.eval()
    return LanguageModel(Checkpoint(lm, None, None), "entropy", installed_plugins())


@pytest.mark.parametrize("sampler", ["entropy", "p2", "confidence-threshold", "ancestral"])
@pytest.mark.parametrize(
    ("family", "pattern"),
    [
        ("dream", {"attention": "causal"}),
        ("open-dcoder", {"attention": "causal"}),
        ("llada", {"attention": "block-causal", "block_length": 4}),
        ("qwen3", {"attention": "block-causal", "block_length": 3}),
    ],
)
def test_checkpoints_with_own_blocks_decode_exactly_from_kept_keys(
    sampler: str, family: str, pattern: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to reading every row whole, which reading the whole row proves it isn't doing."""
    model = own_pattern(family, **pattern)
    canvas, mask = batch()
    options: dict[str, Any] = {"temperature": 0.7, "seed": [1, 2, 3], "trace": True}
    kept = model.sample(canvas, sampler, mask, **options)
    monkeypatch.setattr(model.lm, "supports_kv_cache", False)
    monkeypatch.setattr(model.lm, "reader", lambda inputs, *_: WholeReader(model.lm, inputs))
    whole = model.sample(canvas, sampler, mask, **options)
    assert torch.equal(kept.tokens, whole.tokens)
    assert all(torch.equal(a, b) for a, b in zip(kept.trace, whole.trace, strict=True))


def test_a_causal_checkpoint_reads_each_token_once() -> None:
    model = own_pattern("dream", attention="causal")
    counts: list[int] = []
    decoder = model.lm.module.network.get_decoder()
    forward = decoder.forward
    decoder.forward = lambda *args, **kwargs: (
        counts.append(kwargs["input_ids"].shape[1]) or forward(*args, **kwargs)
    )
    model.sample(torch.tensor([[5, 6, 7, *[M] * 5]]), "entropy")
    assert counts == [3, 1, 1, 1, 1]


def test_a_block_causal_checkpoint_reads_the_settled_block_once_more() -> None:
    model = own_pattern("llada", attention="block-causal", block_length=4)
    counts: list[int] = []
    decoder = model.lm.module.network.get_decoder()
    forward = decoder.forward
    decoder.forward = lambda *args, **kwargs: (
        counts.append(kwargs["input_ids"].shape[1]) or forward(*args, **kwargs)
    )
    model.sample(torch.tensor([[5, 6, 7, 8, 9, 10, *[M] * 6, 2, 2]]), "low-confidence", steps=6)
    assert counts == [8, 4, 8, 4, 4]  # the prompt and the first block; then from the block before on


def test_a_cache_is_refused_where_it_can_have_no_effect(golden_model: Callable[[str], LanguageModel]) -> None:
    canvas = torch.tensor([[4, M]])
    with pytest.raises(UserError, match="cache_refresh has no effect without a cache"):
        golden_model("llada").sample(canvas, cache_refresh=2)
    with pytest.raises(UserError, match="cache has no effect with a causal checkpoint"):
        own_pattern("dream", attention="causal").sample(canvas, cache="dual")
    with pytest.raises(UserError, match="cache has no effect with sampler 'dreamon'"):
        golden_model("llada").sample(canvas, "dreamon", cache="dual")
    lm = TableLM()
    sampler = installed_plugins().samplers.get("entropy").build()
    with pytest.raises(UserError, match="TableLM has no key-value cache"):
        decode(
            lm, torch.tensor([[1, 11]]), None, sampler, DecoderOptions(cache="dual"), torch.zeros(1).long()
        )
