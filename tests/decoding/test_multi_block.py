"""d3LLM's pipelined blocks and its delayed cache, held against its vectors pass by pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from opendllm.core.decoding.cached_forward import CachedForward
from opendllm.core.decoding.host_span import HostSpan
from opendllm.core.language_model import LanguageModel

from ..golden_vectors import Entry, Vectors, golden_entries

NAMES = {
    "block_length": "block_length",
    "entropy_threshold": "threshold",
    "block_add_threshold": "block_add_threshold",
    "decoded_token_threshold": "decoded_token_threshold",
    "early_stop": "end_at_eos",
    "cache_delay_iter": "cache_delay",
    "refresh_interval": "cache_refresh",
}
"""Ours, of each of d3LLM's options."""
BLOCK_BY_BLOCK = {"block_add_threshold": 1.0, "decoded_token_threshold": 1.0}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """The checkpoint that the vectors speak of, which has no EOS until a test gives it one."""
    found = Vectors("llada").model
    monkeypatch.setattr(found.lm, "stop_token_ids", ())
    monkeypatch.setattr(found.lm, "eos_token_id", None)
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many columns of a single row every pass reads."""
    counts: list[int] = []
    plan = CachedForward.plan

    def recorded(self: CachedForward, *arguments: Any) -> list[HostSpan | None]:
        spans = plan(self, *arguments)
        length = arguments[-1].shape[1]
        counts.extend(length if span is None else length - int(span.first[0]) for span in spans)
        return spans

    monkeypatch.setattr(CachedForward, "plan", recorded)
    return counts


@golden_entries("samples", "multi-block")
def test_sample(vectors: Vectors, entry: dict[str, Any], model: LanguageModel) -> None:
    with Entry(entry) as sample:
        block_by_block = sample.take("algorithm") == "block_by_block"
        for key in ("equals_block_by_block", "blocks_before_each_commit"):
            if key in sample:
                sample.take(key)
        passes_equal(sample, model, BLOCK_BY_BLOCK if block_by_block else {})


@golden_entries("cached_samples", "multi-block")
def test_sample_with_delayed_cache(
    vectors: Vectors, entry: dict[str, Any], model: LanguageModel, read: list[int]
) -> None:
    with Entry(entry) as sample:
        assert sample.take("algorithm") == "multi_block"
        if "equals_uncached" in sample:
            sample.take("equals_uncached")
        shapes = sample.take("forward_shapes")
        for row, passes in enumerate(shapes):
            alone = {key: value[row : row + 1] for key, value in entry.items() if isinstance(value, list)}
            read.clear()
            passes_equal(Entry(entry | alone), model, {})
            assert read[: len(passes)] == [fed for fed, *_ in passes]
        for key in entry.keys() - {"algorithm", "equals_uncached", "forward_shapes"}:
            sample.take(key)


def passes_equal(sample: Entry, model: LanguageModel, more: dict[str, Any]) -> None:
    """Every canvas after a pass, and their number, of all the entry's prompts in one padded batch.

    Where theirs writes behind an EOS once more (`all_end_tokens_after_the_first`), and reads that, ours is
    the same up to the EOS until then, and EOS behind it.
    """
    sample.take("reference_nfe")
    assert sample.take("temperature") == 0
    eos = sample.take("eos_token_id") if "eos_token_id" in sample else None
    model.lm.eos_token_id = eos
    options: dict[str, Any] = {
        ours: sample.take(theirs) for theirs, ours in NAMES.items() if theirs in sample
    }
    options |= {"cache": sample.take("cache"), **more}
    prompts, new = sample.take("prompts"), sample.take("max_new_tokens")
    longest = max(map(len, prompts))
    canvas = torch.tensor([[0] * (longest - len(p)) + p + [model.lm.mask_token_id] * new for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * (len(p) + new) for p in prompts])
    decoded = model.sample(canvas, "multi-block", mask, trace=True, **options)
    sequences, forwards = sample.take("sequences"), sample.take("forwards")
    history = sample.take("history") if "history" in sample else [None for _ in prompts]
    clean = [None for _ in prompts]
    if "all_end_tokens_after_the_first" in sample:
        clean = sample.take("all_end_tokens_after_the_first")
    for row, prompt in enumerate(prompts):
        padding, count = longest - len(prompt), int(decoded.forward_passes[row])
        passes = [canvas[row, padding:].tolist() for canvas in decoded.trace[1 : count + 1]]
        theirs = history[row] or [sequences[row]]
        if clean[row] is False:
            until = next(number for number, canvas in enumerate(theirs) if eos in canvas[len(prompt) :])
            end = theirs[until].index(eos, len(prompt)) + 1
            assert passes[:until] == theirs[:until]
            assert passes[until][:end] == theirs[until][:end]
            behind = passes[-1][passes[-1].index(eos, len(prompt)) :]
            assert set(behind) == {eos}
            continue
        assert (passes if history[row] else passes[-1:]) == theirs
        assert passes[-1] == sequences[row]
        assert count == forwards[row]


def test_behind_an_eos_all_blocks_are_open_for_one_more_choice(model: LanguageModel) -> None:
    """So it is there: what became EOS a pass ago may be the surest, also in a block that never opened.

    A run of d3LLM's `generate_multi_block` (@e5bfcacc) on this checkpoint.
    """
    model.lm.eos_token_id = 72
    prompt = [31, 5, 119, 45, 106, 90, 125, 74]
    answer = [103, 103, 22, 140, 140, 140, 56, 56, 127, 20, 140, 103, 134, 29, 127, *[72] * 9]
    decoded = model.sample(
        torch.tensor([prompt + [model.lm.mask_token_id] * 24]),
        "multi-block",
        block_length=8,
        threshold=0.25,
        block_add_threshold=0.75,
        decoded_token_threshold=1.0,
        end_at_eos=True,
    )
    assert decoded.tokens[0].tolist() == prompt + answer
    assert int(decoded.forward_passes) == 15


@pytest.mark.parametrize(
    ("block_length", "threshold", "sureness", "passes"),
    [
        # 3 is written with the EOS at 2, and no mask any more: 0 is the surest then.
        (4, 0.1, [3, 2, 9, 8], ["__EE", "3_EE", "33EE"]),
        # The third block never opens; its 4 becomes EOS, and is surer then than 2: only 1 is written.
        (2, 0.0, [3, 1, 2, 9, 5, 1], ["3__EEE", "33_EEE", "333EEE"]),
    ],
)
def test_masks_that_an_eos_filled_may_be_the_surest_once_more(
    block_length: int,
    threshold: float,
    sureness: list[float],
    passes: list[str],
    written_model: Callable[..., LanguageModel],
) -> None:
    """In whatever block behind it: then that pass writes fewer of those before it, as d3LLM's do."""
    table = torch.zeros(len(sureness), 5)
    table[:, 3] = torch.tensor(sureness)
    eos_at = passes[0].index("E")
    table[eos_at] = table[eos_at].roll(-2)  # to id 1
    model = written_model(table)
    model.lm.eos_token_id = 1
    options: dict[str, Any] = {"block_add_threshold": 0, "decoded_token_threshold": 0, "end_at_eos": True}
    canvas = torch.zeros(1, len(sureness), dtype=torch.int64)
    decoded = model.sample(
        canvas, "multi-block", trace=True, block_length=block_length, threshold=threshold, **options
    )
    assert ["".join("_E?3?"[token] for token in row[0].tolist()) for row in decoded.trace[1:]] == passes
