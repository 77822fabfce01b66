"""A block-causal checkpoint's last block is written whole, wherever in it the asked length ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.checkpoints.loading import Checkpoint
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.text import Written, why_unfit
from opendllm.core.language_model import LanguageModel
from opendllm.core.testing.table_lm import TableLM
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.sequences import AttentionPattern

from .id_codec import ID_CODEC, spelt

BLOCK = 4
PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9, 10, 1, 2, 3, 4]]


def table_model(lm: DiffusionLM | None = None) -> LanguageModel:
    lm = lm or TableLM(12, AttentionPattern("block-causal", BLOCK))
    return LanguageModel(Checkpoint(lm, None, ID_CODEC), "block-steps", installed_plugins())


def filled(model: LanguageModel, prompts: list[list[int]], **options: Any) -> list[Written]:
    options = {"trace": True, "batch_size": 16, **options}
    beside = {
        name: options.pop(name) for name in ("trace", "batch_size", "seed", "sampler") if name in options
    }
    return model.fill([Gap(spelt(prompt)) for prompt in prompts], options, **beside)


@pytest.mark.parametrize("sampler", ["block-steps", "token-editing", "low-confidence", "p2", "ancestral"])
def test_what_is_asked_for_is_the_beginning_of_whole_blocks(sampler: str) -> None:
    """In one batch as alone; 6 new tokens are those that a text up to the block's end begins with."""
    model = table_model()
    options = {"sampler": sampler, "temperature": 1.0, "seed": [3, 4, 5]}
    together = filled(model, PROMPTS, max_new_tokens=6, **options)
    for row, (prompt, found) in enumerate(zip(PROMPTS, together, strict=True)):
        end = -(-(len(prompt) + 6) // BLOCK) * BLOCK
        assert len(found.tokens) == 6
        assert len(found.trace[0]) == end
        [whole] = filled(model, [prompt], max_new_tokens=end - len(prompt), **options | {"seed": [3 + row]})
        assert found.tokens == whole.tokens[:6]
        assert found.forward_passes == whole.forward_passes
        canvas = torch.tensor([[*prompt, *[model.lm.mask_token_id] * (end - len(prompt))]])
        drawn = model.sample(canvas, sampler, temperature=1.0, seed=[3 + row])
        assert found.tokens == tuple(drawn.tokens[0, len(prompt) : len(prompt) + 6].tolist())


def test_generate_returns_what_was_asked_for() -> None:
    texts = table_model().generate([spelt([1, 2, 3])], max_new_tokens=3)
    [found] = filled(table_model(), [[1, 2, 3]], max_new_tokens=3)
    assert found.kept_tokens == 3
    assert texts == [found.text]
    assert found.text.split() == [str(token) for token in found.tokens]


def test_planned_steps_count_the_whole_block() -> None:
    """One a mask by default, and a given number is shared among the blocks as they are written."""
    model = table_model()
    [found] = filled(model, [[1, 2, 3]], sampler="low-confidence", max_new_tokens=3)
    assert found.forward_passes == 1 + 4
    [found] = filled(model, [[1, 2, 3]], sampler="low-confidence", max_new_tokens=3, steps=3)
    assert found.forward_passes == 1 + 1  # of two blocks, the first has one mask for its two steps
    assert [canvas.count(11) for canvas in found.trace] == [5, 4, 0]


def test_a_block_goes_on_as_far_as_the_context_reaches() -> None:
    lm = TableLM(12, AttentionPattern("block-causal", BLOCK))
    lm.context_length = 14
    model = table_model(lm)
    [found] = filled(model, [[1] * 10], max_new_tokens=3)
    assert (len(found.tokens), len(found.trace[0])) == (3, 14)
    with pytest.raises(UserError, match="prompt 0 has 15 tokens with its gap, more than the model's context"):
        filled(model, [[1] * 10], max_new_tokens=5)
    assert why_unfit(lm, ID_CODEC, Gap("1"), DecoderOptions(max_new_tokens=13)) is None
    assert why_unfit(lm, ID_CODEC, Gap("1"), DecoderOptions(max_new_tokens=14)) is not None


@pytest.mark.parametrize("early_stop", [False, True])
def test_an_end_behind_the_asked_length_is_no_end(early_stop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in what is cut off: the text has all of its tokens, none of which ends it."""
    model = table_model()
    table = torch.zeros(64, 12)
    table[:, 5] = 9.0
    table[7, 0] = 20.0  # EOS is what the last block's last position is surest of
    monkeypatch.setattr(model.lm, "project", lambda hidden: hidden)
    monkeypatch.setattr(model.lm, "hidden_states", lambda inputs: table[inputs.positions])
    [found] = filled(model, [[1, 2, 3, 4, 5]], max_new_tokens=2, early_stop=early_stop)
    assert found.trace[-1] == (1, 2, 3, 4, 5, 5, 5, 0)
    assert (found.tokens, found.kept_tokens) == ((5, 5), 2)
    [found] = filled(model, [[1, 2, 3, 4, 5]], max_new_tokens=3, early_stop=early_stop)
    assert (found.tokens, found.kept_tokens) == ((5, 5, 0), 2)


def test_early_stop_leaves_the_text_as_it_is(goldens: Path) -> None:
    """In fewer passes, wherever the asked length ends."""
    lm = load(goldens / "llada2", mask_token_id=150, block_length=8, device="cpu").lm
    model = table_model(lm)
    lm.eos_token_id = filled(model, [[5, 6, 7]], max_new_tokens=20)[0].tokens[4]
    for new in (9, 16, 20):
        plain, stopped = (
            filled(model, PROMPTS, max_new_tokens=new, early_stop=early)[0] for early in (False, True)
        )
        assert plain.text == stopped.text
        assert stopped.forward_passes <= plain.forward_passes


@pytest.mark.parametrize("family", ["sdar", "llada2", "fast-dllm-v2"])
def test_the_cache_changes_no_text(family: str, goldens: Path) -> None:
    block_length = 8 if family == "llada2" else None
    lm = load(goldens / family, mask_token_id=150, block_length=block_length, device="cpu").lm
    found = []
    for cached in (True, False):
        lm.supports_kv_cache = cached
        written = filled(table_model(lm), PROMPTS, max_new_tokens=9, threshold=0.5, trace=False)
        found.append([(each.tokens, each.forward_passes) for each in written])
    assert found[0] == found[1]
    assert {len(tokens) for tokens, _ in found[0]} == {9}


def test_a_shifted_checkpoints_first_token_needs_no_block_of_its_own(goldens: Path) -> None:
    """The clean block before it predicts it: what stands behind is never read."""
    lm = load(goldens / "fast-dllm-v2", mask_token_id=150, device="cpu").lm
    block = lm.attention.block_length
    assert block is not None
    [found] = filled(table_model(lm), [[5, 6, 7]], max_new_tokens=block - 2)
    assert len(found.trace[0]) == 3 + block - 2 == block + 1
    [longer] = filled(table_model(lm), [[5, 6, 7]], max_new_tokens=block - 1)
    assert len(longer.trace[0]) == 2 * block
    assert longer.tokens[: block - 2] == found.tokens


@pytest.mark.parametrize("sampler", ["block-steps", "entropy"])
def test_what_ends_elsewhere_is_as_long_as_it_says(sampler: str) -> None:
    """With a suffix, where every position sees every other, and where the authors' code cuts the block."""
    given = {"sampler": sampler, "max_new_tokens": 6}
    model = table_model()
    [infilled] = model.fill([Gap("1 2", "3")], {"max_new_tokens": 6}, sampler=sampler, trace=True)
    assert len(infilled.trace[0]) == 2 + 6 + 1
    [bidirectional] = filled(table_model(TableLM(12)), [[1, 2]], **given)
    assert len(bidirectional.trace[0]) == 2 + 6
    cut = TableLM(12, AttentionPattern("block-causal", BLOCK))
    cut.fills_last_block = False
    assert len(filled(table_model(cut), [[1]], **given)[0].trace[0]) == 1 + 6


def test_dllms_block_checkpoints_are_not_filled() -> None:
    """Its sampler gives a last block only the positions that are asked for."""
    backbones = installed_plugins().backbones
    fills = {
        name: backbones.get(name).build({"attention": "block-causal", "block_length": 4})
        for name in ("a2d", "sdar", "sdar-moe", "llada2", "fast-dllm-v2", "causal-lm")
    }
    found = {name: made.build(Vocabulary(64, 63, 1)).fills_last_block for name, made in fills.items()}
    assert found == {**dict.fromkeys(fills, True), "a2d": False}


def test_batches_of_different_lengths_are_as_alone() -> None:
    """No row has another's surplus."""
    model = table_model()
    found = filled(model, PROMPTS, max_new_tokens=5, batch_size=2)
    alone = [filled(model, [prompt], max_new_tokens=5)[0] for prompt in PROMPTS]
    assert [each.tokens for each in found] == [each.tokens for each in alone]
