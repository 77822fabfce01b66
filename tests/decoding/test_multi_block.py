"""d3LLM's pipelined blocks and its delayed cache: against its vectors, and against plain block decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from opendllm.core.decoding.cached_forward import CachedForward
from opendllm.core.decoding.decoder import Decoded
from opendllm.core.language_model import LanguageModel

from ..golden_vectors import Entry, Vectors, golden_entries


PLAN = CachedForward.plan


def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward pass of a single row has read, from now on."""
    read: list[int] = []
    plan = PLAN

    def recorded(self: CachedForward, *arguments: Any) -> Any:
        spans = plan(self, *arguments)
        length = arguments[-1].shape[1]
        read.extend(length if span is None else int(span.last[0] - span.first[0]) + 1 for span in spans)
        return spans

    monkeypatch.setattr(CachedForward, "plan", recorded)
    return read


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


def settings(sample: Entry) -> dict[str, Any]:
    assert sample.take("temperature") == 0
    found = {ours: sample.take(theirs) for theirs, ours in NAMES.items() if theirs in sample}
    return {"cache": sample.take("cache"), **found}


def written(model: LanguageModel, prompt: list[int], new: int, **options: Any) -> Decoded:
    canvas = torch.tensor([prompt + [model.lm.mask_token_id] * new])
    return model.sample(canvas, "multi-block", trace=True, **options)


@golden_entries("samples", "multi-block")
def test_sample(vectors: Vectors, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with Entry(entry) as sample:
        kind = sample.take("algorithm")
        blocks = {"block_add_threshold": 1.0, "decoded_token_threshold": 1.0} if kind == "block_by_block" else {}
        sample_equals(sample, blocks, monkeypatch)


@golden_entries("cached_samples", "multi-block")
def test_sample_with_delayed_cache(
    vectors: Vectors, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Entry(entry) as sample:
        assert sample.take("algorithm") == "multi_block"
        sample_equals(sample, {}, monkeypatch)


def sample_equals(sample: Entry, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every canvas after a pass, the number of passes, and what each reads.

    Where theirs writes behind an EOS once more (`all_end_tokens_after_the_first`), ours equals it until then.
    """
    model = Vectors("llada").model
    eos = sample.take("eos_token_id") if "eos_token_id" in sample else None
    monkeypatch.setattr(model.lm, "stop_token_ids", () if eos is None else (eos,))
    monkeypatch.setattr(model.lm, "eos_token_id", eos)
    options, new = settings(sample) | more, sample.take("max_new_tokens")
    rows = range(len(prompts := sample.take("prompts")))
    lists = {
        key: sample.take(key) if key in sample else [None for _ in rows]
        for key in ("sequences", "forwards", "history", "forward_shapes", "all_end_tokens_after_the_first")
    }
    for key in ("reference_nfe", "equals_block_by_block", "equals_uncached", "blocks_before_each_commit"):
        if key in sample:
            sample.take(key)
    for row in rows:
        read = fed(monkeypatch)
        decoded = written(model, prompts[row], new, **options)
        passes = [snapshot[0].tolist() for snapshot in decoded.trace[1:]]
        assert len(passes) == decoded.forward_passes[0] == len(read) or options["cache"] == "none"
        theirs = lists["history"][row] or [lists["sequences"][row]]
        if lists["all_end_tokens_after_the_first"][row] is False:
            until = next(n for n, canvas in enumerate(theirs) if eos in canvas[len(prompts[row]) :])
            assert passes[:until] == theirs[:until]
            first = theirs[until].index(eos, len(prompts[row]))
            assert passes[until][: first + 1] == theirs[until][: first + 1]
            assert set(passes[-1][passes[-1].index(eos, len(prompts[row])) :]) == {eos}
            continue
        assert (passes if lists["history"][row] else passes[-1:]) == theirs
        assert passes[-1] == lists["sequences"][row]
        assert decoded.forward_passes[0] == lists["forwards"][row]
        if lists["forward_shapes"][row]:
            assert read == [shape[0] for shape in lists["forward_shapes"][row]]
