"""Token for token what the published samplers wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from opendllm.core.language_model import LanguageModel

from ..golden_vectors import Entry, Vectors, golden, golden_entries

SAMPLERS = {
    "p2": "p2",
    "entropy": "entropy",
    "low_confidence": "low-confidence",
    "maskgit_plus": "maskgit-plus",
    "topk_margin": "topk-margin",
}
"""Ours, of each published algorithm."""
OPTIONS = {
    "steps": "steps",
    "block_length": "block_length",
    "cfg_scale": "guidance_scale",
    "top_k": "top_k",
    "top_p": "top_p",
    "cache": "cache",
    "threshold": "threshold",
}
"""Ours, of each published one."""


def canvas_of(entry: Entry, mask_token_id: int) -> torch.Tensor:
    """[B, L]: the infilling canvas, or the prompts and what is to be written."""
    if "canvas" in entry:
        assert entry.take("infill")
        return torch.tensor(entry.take("canvas"))
    prompts = torch.tensor(entry.take("prompts"))
    new = entry.take("max_new_tokens" if "max_new_tokens" in entry else "gen_length")
    return torch.cat([prompts, torch.full((len(prompts), new), mask_token_id)], dim=1)


def options_of(entry: Entry) -> dict[str, Any]:
    if "temperature" in entry:
        assert entry.take("temperature") == 0  # no draws are given that could be repeated
    return {ours: entry.take(theirs) for theirs, ours in OPTIONS.items() if theirs in entry}


def distinct(canvases: list[torch.Tensor]) -> list[torch.Tensor]:
    """Without those that equal the one before."""
    return [c for i, c in enumerate(canvases) if i == 0 or not torch.equal(c, canvases[i - 1])]


@golden_entries("samples", "open-dcoder", "llada", "dream")
def test_sample(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry(entry) as sample:
        canvas = canvas_of(sample, vectors.expected["mask_token_id"])
        sampler = SAMPLERS[sample.take("algorithm")]
        decoded = vectors.model.sample(canvas, sampler, trace=True, **options_of(sample))
        assert decoded.tokens.tolist() == sample.take("sequences")
        assert torch.equal(decoded.trace[0], canvas)
        if "history" in sample:
            published = distinct([canvas, *map(torch.tensor, sample.take("history"))])
            assert [c.tolist() for c in distinct(decoded.trace)] == [c.tolist() for c in published]


@golden_entries("fast_dllm", "llada")
def test_fast_dllm(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry(entry) as sample:
        canvas = canvas_of(sample, vectors.expected["mask_token_id"])
        sampler = "confidence-threshold" if "threshold" in sample else "low-confidence"
        options = options_of(sample)
        if "threshold" in options:
            del options["steps"]  # the published code takes no notice of it then, and ours refuses it
        decoded = vectors.model.sample(canvas, sampler, **options)
        assert decoded.tokens.tolist() == sample.take("sequences")
        published = sample.take("reference_nfe")
        if options["cache"] == "none":  # with a cache, the published code's passes may commit nothing
            assert decoded.forward_passes.tolist() == published


@golden("llada")
def test_left_padded_sample(vectors: Vectors) -> None:
    with Entry(vectors.expected["padded_sample"]) as sample:
        canvas = canvas_of(sample, vectors.expected["mask_token_id"])
        real = torch.ones_like(canvas, dtype=torch.bool)
        prompts = torch.tensor(sample.take("attention_mask"))
        real[:, : prompts.shape[1]] = prompts.bool()
        options = options_of(sample)
        decoded = vectors.model.sample(canvas, attention_mask=real, **options)
        assert decoded.tokens.tolist() == sample.take("sequences")
        for row, mask in enumerate(real):
            alone = vectors.model.sample(canvas[row][mask][None], **options)
            assert alone.tokens[0].tolist() == decoded.tokens[row][mask].tolist()


def test_default_samplers_are_the_authors(golden_model: Callable[[str], LanguageModel]) -> None:
    published = {"open-dcoder": "p2", "llada": "low-confidence", "dream": "entropy"}
    assert {family: golden_model(family).default_sampler for family in published} == published
