"""The cache of block-causal decoding changes nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from opendllm.core import load
from opendllm.core.language_model import LanguageModel
from opendllm.core.networks.canvas_cache import CanvasCache
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins


def a2d(goldens: Path, tmp_path: Path) -> LanguageModel:
    torch.manual_seed(0)
    options = {"attention": "block-causal", "block_length": 4}
    lm = installed_plugins().backbones.get("a2d").build(options).build(Vocabulary(64, 63, 1))
    lm.save(tmp_path, lm.module.state_dict())
    return load(tmp_path, device="cpu")


def published(name: str, **options: Any) -> Any:
    return lambda goldens, tmp_path: load(goldens / name, device="cpu", **options)


FAMILIES = {
    "a2d": a2d,
    "sdar": published("sdar"),
    "llada2": published("llada2", mask_token_id=150, block_length=8),
    "fast-dllm-v2": published("fast-dllm-v2", mask_token_id=150),
}


EDITING = {"sampler": "token-editing", "editing_threshold": 0.01, "max_post_steps": 2, "temperature": 1.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "guided": {"guidance_scale": 0.5},
    "drawn": {"temperature": 1.0},
    "early-stop": {"early_stop": True, "temperature": 1.0},
    "editing": EDITING,
    "editing-early-stop": {**EDITING, "early_stop": True},
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_exact_cache_is_as_no_cache(
    name: str, options: dict[str, Any], goldens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of several prompts' lengths, one of them padded, and a suffix."""
    model = FAMILIES[name](goldens, tmp_path)
    mask = model.lm.mask_token_id
    canvas = torch.full((3, 26), mask)
    for row, length in enumerate((3, 8, 11)):
        canvas[row, :length] = torch.arange(length) + 5 * row
    canvas[1, 22:] = 7
    attention_mask = torch.ones_like(canvas)
    attention_mask[0, 21:] = 0
    given: dict[str, Any] = {"sampler": "block-steps", "threshold": 0.4, **options}
    if given.get("early_stop"):  # at a token that each row writes early in its first whole block
        plain = model.sample(canvas, attention_mask=attention_mask, seed=3, **{**given, "early_stop": False})
        monkeypatch.setattr(model.lm, "stop_token_ids", tuple(plain.tokens[range(3), (9, 9, 13)].tolist()))
    found, passes = [], []
    for cached in (True, False):
        monkeypatch.setattr(model.lm, "supports_kv_cache", cached)
        decoded = model.sample(canvas, attention_mask=attention_mask, seed=3, trace=True, **given)
        found.append(torch.stack(decoded.trace))
        passes.append(decoded.forward_passes.tolist())
    assert torch.equal(found[0], found[1])
    assert passes[0] == passes[1]
    if given.get("early_stop"):
        assert bool((decoded.forward_passes < plain.forward_passes).any())
    if given["sampler"] == "token-editing":
        assert any(
            bool(((before != model.lm.mask_token_id) & (before != after)).any())
            for before, after in itertools.pairwise(decoded.trace)
        )


@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_sub_blocks_with_a_block_cache_are_each_rows_own(threshold: float, goldens: Path) -> None:
    """Fast-dLLM v2's, which is approximate: rows that end, begin and stop elsewhere, as each is alone."""
    model = load(goldens / "fast-dllm-v2", mask_token_id=150, block_length=16, device="cpu")
    mask = model.lm.mask_token_id
    prompts = [list(range(5, 5 + length)) for length in (3, 8, 13)]
    canvas = torch.full((3, 32), mask)
    attention_mask = torch.zeros_like(canvas)
    for row, (prompt, end) in enumerate(zip(prompts, (25, 32, 29), strict=True)):
        canvas[row, : len(prompt)] = torch.tensor(prompt)
        attention_mask[row, :end] = 1
    given: dict[str, Any] = {
        "sampler": "block-steps",
        "threshold": threshold,
        "block_length": 4,
        "cache": "dual",
    }
    together = model.sample(canvas, attention_mask=attention_mask, **given)
    whole = model.sample(canvas, attention_mask=attention_mask, **{**given, "cache": "none"})
    for row in range(3):
        real = attention_mask[row].bool()
        alone = model.sample(canvas[row : row + 1, real], **given)
        assert torch.equal(alone.tokens[0], together.tokens[row, real])
        assert alone.forward_passes[0] == together.forward_passes[row]
    assert not torch.equal(together.tokens, whole.tokens)  # or no sub-block was read alone


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU beside the CPU")
def test_a_layer_elsewhere_finds_its_entries() -> None:
    """Of a model spread over devices: what says whose entries go where is on the first of them."""
    cache, new = CanvasCache(3, 8), torch.randn(2, 1, 4, 2)
    cache.update(torch.zeros(3, 1, 8, 2), torch.zeros(3, 1, 8, 2), 0)
    cache.rows = torch.tensor([0, 2], device="cuda")
    cache.columns = torch.arange(2, 6, device="cuda").expand(2, 4)
    keys, _ = cache.update(new, new, 0)
    assert torch.equal(keys[:, :, 2:6], new)
    cache.select_rows(cache.rows)
    assert torch.equal(cache.keys[0][:, :, 2:6], new)


def test_a_step_reads_no_key_right_of_its_block(goldens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the canvas; a block alone needs no mask of who sees whom, nor copies of shared keys."""
    model = FAMILIES["sdar"](goldens, goldens)
    heads = model.lm.network.config.num_key_value_heads
    attend, read = scaled_dot_product_attention, []

    def watched(query: Any, key: Any, value: Any, mask: Any, **rest: Any) -> Any:
        read.append((key.shape[1], key.shape[2], mask is not None))
        return attend(query, key, value, mask, **rest)

    monkeypatch.setattr("opendllm.core.networks.attention.scaled_dot_product_attention", watched)
    canvas = torch.full((2, 40), model.lm.mask_token_id)
    canvas[:, :8] = torch.arange(8)
    model.sample(canvas, "block-steps", rule="static", block_steps=2)
    layers = model.lm.network.config.num_hidden_layers
    length = model.lm.attention.block_length
    ends = [end for end in range(8 + length, 41, length) for _ in range(2)]
    whole = [
        (model.lm.network.config.num_attention_heads, ends[0], True)
    ]  # the prompt's keys, as many queries
    assert read[::layers] == whole + [
        (heads, end, index % 2 == 0) for index, end in list(enumerate(ends))[1:]
    ]
