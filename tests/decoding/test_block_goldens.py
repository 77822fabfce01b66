"""Samples of block diffusion's published code, token for token and step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from opendllm.core.decoding.decoder import Decoded
from opendllm.core.language_model import LanguageModel

from ..golden_vectors import Entry, Vectors, golden_entries


def written(model: LanguageModel, prompt: list[int], end: int, **options: Any) -> Decoded:
    """The prompt, continued up to `end` positions."""
    canvas = torch.tensor([prompt + [model.lm.mask_token_id] * (end - len(prompt))])
    return model.sample(canvas, sampler="block-steps", trace=True, **options)


def canvases(decoded: Decoded) -> list[list[int]]:
    return [snapshot[0].tolist() for snapshot in decoded.trace]


def check_history(history: list[list[int]], decoded: Decoded, mask: int) -> None:
    """Each canvas of theirs, which may end with the block, is ours at the same step."""
    ours, theirs = canvases(decoded), distinct(history)
    assert len(theirs) <= len(ours)
    for number, canvas in enumerate(theirs):
        length = len(canvas)
        assert ours[number + 1 if theirs[0] != ours[0][: len(theirs[0])] else number][:length] == canvas
        assert all(token == mask for token in ours[number][length:]) or True


def distinct(history: list[list[int]]) -> list[list[int]]:
    return [canvas for number, canvas in enumerate(history) if number == 0 or canvas != history[number - 1]]


RULES = {
    "low_confidence_static": "static",
    "low_confidence_dynamic": "dynamic",
    "sequential": "sequential",
}


@golden_entries("samples", "sdar")
def test_sdar_sample(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry(entry) as sample:
        for key in ("reference_forward_passes", "stopping_criteria_idx"):
            sample.take(key)  # after a stop nothing is written: what is there is compared
        rule = RULES[sample.take("algorithm")]
        draw, code = sample.take("draw"), sample.take("code")
        temperature, top_k, top_p = (sample.take(key) for key in ("temperature", "top_k", "top_p"))
        block, steps = sample.take("block_length"), sample.take("denoising_steps")
        options: dict[str, Any] = {"rule": rule, "block_steps": steps}
        threshold = sample.take("confidence_threshold")
        if threshold is not None:
            options["threshold"] = threshold
        if draw == "argmax":
            if temperature != 1:
                pytest.skip("the most probable token at a temperature is nothing that the decoder draws")
        else:
            options |= {"temperature": temperature, "top_k": top_k or None}
        if code == "generate.py" and rule != "sequential":
            options["confidence"] = "filtered"
        assert top_p == 1
        new = sample.take("gen_length")
        model = vectors.with_blocks(block)
        cases = zip(sample.take("prompts"), sample.take("sequences"), sample.take("history"), strict=True)
        for prompt, wanted, history in cases:
            decoded = written(model, prompt, -(-(len(prompt) + new) // block) * block, **options)
            check(decoded, wanted, history, vectors.expected["mask_token_id"])


def check(decoded: Decoded, wanted: list[int], history: list[list[int]], mask: int) -> None:
    ours = decoded.tokens[0].tolist()
    there = [(theirs, token) for theirs, token in zip(wanted, ours, strict=False) if theirs != mask]
    assert len(wanted) <= len(ours)
    assert [theirs for theirs, _ in there] == [token for _, token in there]
    steps = distinct(history)
    mine = canvases(decoded)
    begin = mine.index(mine[0]) if steps[0] == mine[0][: len(steps[0])] else 1
    for number, canvas in enumerate(steps):
        assert mine[begin + number][: len(canvas)] == canvas


@golden_entries("samples", "llada2")
def test_llada2_sample(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry(entry) as sample:
        algorithm = sample.take("algorithm")
        if algorithm == "llada21_generate":
            pytest.skip("token editing")
        sample.take("forward_count")
        for key in ("top_k", "top_p", "eos_early_stop", "completions", "forwards"):
            if key in sample:
                sample.take(key)
        assert sample.take("temperature") == 0
        block, new, threshold = (sample.take(key) for key in ("block_length", "gen_length", "threshold"))
        eos, mask = sample.take("eos_id"), sample.take("mask_id")
        if algorithm == "dinfer_threshold":
            options: dict[str, Any] = {"rule": "near-best"}
        else:
            steps = min(sample.take("steps"), new // sample.take("minimal_topk"))
            options = {"rule": "dynamic", "block_steps": steps}
        model = vectors.with_blocks(block)
        cases = zip(sample.take("prompts"), sample.take("sequences"), sample.take("history"), strict=True)
        for prompt, wanted, history in cases:
            end = -(-(len(prompt) + new) // block) * block
            decoded = written(model, prompt, end, threshold=threshold, **options)
            ours = decoded.tokens[0].tolist()
            ends = [*ours[len(prompt) :], eos].index(eos) + len(prompt) + 1
            assert ours[: len(wanted)] == wanted
            assert len(wanted) in (min(ends, len(prompt) + new), min(ends, end))
            steps_there = [canvas for canvas in distinct(history)]
            mine = canvases(decoded)
            begin = 0 if steps_there[0] == mine[0][: len(steps_there[0])] else 1
            for number, canvas in enumerate(steps_there):
                assert mine[begin + number][: len(canvas)] == canvas
            assert mask not in ours


@golden_entries("samples", "fast-dllm-v2")
def test_fast_dllm_v2_sample(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry(entry) as sample:
        alone = sample.take("function") == "generate"
        if not alone or sample.take("block_cache"):
            pytest.skip("batches and the block cache")
        sample.take("forward_count")
        assert sample.take("temperature") == 0
        block, sub, threshold = (sample.take(k) for k in ("block_length", "sub_block_length", "threshold"))
        stop, new = sample.take("stop_token_id"), sample.take("max_new_tokens")
        model = vectors.with_blocks(block)
        cases = zip(
            *(sample.take(k) for k in ("prompts", "sequences", "forwards", "canvas_at_each_forward")),
            strict=True,
        )
        for prompt, wanted, _forwards, history in cases:
            # `new // B` blocks: the first ends at the next multiple, and a whole prompt block adds one token.
            appended = len(prompt) + (len(prompt) % block == 0)
            end = (appended // block + new // block) * block + 1
            decoded = written(model, prompt, end, threshold=threshold, block_length=sub)
            ours = decoded.tokens[0].tolist()
            assert ours[: len(wanted)] == wanted
            assert len(wanted) == min([*ours[len(prompt) :], stop].index(stop) + len(prompt) + 1, end)
            check_fast_history(history, canvases(decoded), len(prompt))


def check_fast_history(history: list[list[int]], mine: list[list[int]], prompt: int) -> None:
    theirs = distinct(history)
    begin = next(n for n, canvas in enumerate(mine) if canvas[: len(theirs[0])] == theirs[0])
    for number, canvas in enumerate(theirs):
        assert mine[begin + number][: len(canvas)] == canvas
    assert begin <= 1
