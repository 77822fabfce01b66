"""Token for token what the published samplers wrote."""

from __future__ import annotations

from typing import Any

import pytest
import torch

NAMES = {
    "p2": "p2",
    "entropy": "entropy",
    "low_confidence": "low-confidence",
    "maskgit_plus": "maskgit-plus",
    "topk_margin": "topk-margin",
}
MASK = 150
RUNS = {"open-dcoder": 10, "llada": 5, "dream": 5}
"""How many golden runs of each family use one of these samplers."""


def canvas_of(sample: dict[str, Any]) -> torch.Tensor:
    if "canvas" in sample:
        return torch.tensor(sample["canvas"])
    prompts = torch.tensor(sample["prompts"])
    new = sample.get("max_new_tokens") or sample["gen_length"]
    return torch.cat([prompts, torch.full((len(prompts), new), MASK)], dim=1)


def options_of(sample: dict[str, Any]) -> dict[str, Any]:
    published = {"block_length": "block_length", "cfg_scale": "guidance_scale", "top_k": "top_k"}
    return {ours: sample[theirs] for theirs, ours in published.items() if theirs in sample}


def distinct(canvases: list[torch.Tensor]) -> list[torch.Tensor]:
    """Without those that equal the one before."""
    return [c for i, c in enumerate(canvases) if i == 0 or not torch.equal(c, canvases[i - 1])]


@pytest.mark.parametrize(("family", "number"), [(f, n) for f, runs in RUNS.items() for n in range(runs)])
def test_sample(family, number, golden_model, expected) -> None:
    samples = [sample for sample in expected(family)["samples"] if sample["algorithm"] in NAMES]
    assert len(samples) == RUNS[family]
    sample = samples[number]
    canvas = canvas_of(sample)
    decoded = golden_model(family).sample(
        canvas, NAMES[sample["algorithm"]], trace=True, steps=sample["steps"], **options_of(sample)
    )
    assert decoded.tokens.tolist() == sample["sequences"]
    assert torch.equal(decoded.trace[0], canvas)
    if "history" in sample:
        published = distinct([canvas, *map(torch.tensor, sample["history"])])
        assert [c.tolist() for c in distinct(decoded.trace)] == [c.tolist() for c in published]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("number", range(3))
def test_fast_dllm(number, cache, golden_model, expected) -> None:
    samples = [sample for sample in expected("llada")["fast_dllm"] if sample["cache"] == cache]
    assert len(samples) == 3
    sample = samples[number]
    options = {"steps": sample["steps"], "block_length": sample["block_length"], "cache": cache}
    sampler = "low-confidence"
    if "threshold" in sample:
        sampler, options["threshold"] = "confidence-threshold", sample["threshold"]
    decoded = golden_model("llada").sample(canvas_of(sample), sampler, **options)
    assert decoded.tokens.tolist() == sample["sequences"]
    if cache == "none":  # with a cache, the published code makes forward passes that commit nothing
        assert decoded.forward_passes.tolist() == sample["reference_nfe"]


def test_left_padded_sample(golden_model, expected) -> None:
    sample = expected("llada")["padded_sample"]
    canvas = canvas_of(sample)
    mask = torch.tensor(sample["attention_mask"])
    mask = torch.cat([mask, torch.ones(len(mask), sample["gen_length"], dtype=mask.dtype)], dim=1)
    options = {"steps": sample["steps"], "block_length": sample["block_length"]}
    decoded = golden_model("llada").sample(canvas, attention_mask=mask, **options)
    assert decoded.tokens.tolist() == sample["sequences"]
    for row in range(len(canvas)):
        alone = golden_model("llada").sample(canvas[row][mask[row].bool()][None], **options)
        assert alone.tokens[0].tolist() == decoded.tokens[row][mask[row].bool()].tolist()


def test_default_samplers_are_the_authors(golden_model) -> None:
    found = {family: golden_model(family).default_sampler for family in RUNS}
    assert found == {"open-dcoder": "p2", "llada": "low-confidence", "dream": "entropy"}
