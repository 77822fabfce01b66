"""Samples of block diffusion's published code, token for token and step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from opendllm.core.decoding.decoder import Decoded
from opendllm.core.language_model import LanguageModel

from ..golden_vectors import Entry, Vectors, golden_entries


def written(
    model: LanguageModel, prompt: list[int], end: int, sampler: str = "block-steps", **options: Any
) -> Decoded:
    """The prompt, continued up to `end` positions."""
    canvas = torch.tensor([prompt + [model.lm.mask_token_id] * (end - len(prompt))])
    return model.sample(canvas, sampler=sampler, trace=True, **options)


def canvases(decoded: Decoded) -> list[list[int]]:
    return [snapshot[0].tolist() for snapshot in decoded.trace]


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
            ours = decoded.tokens[0].tolist()
            assert len(wanted) == len(ours)
            left = wanted.index(model.lm.mask_token_id) if model.lm.mask_token_id in wanted else len(wanted)
            assert wanted[:left] == ours[:left]
            assert set(wanted[left:]) <= {model.lm.mask_token_id}  # blocks after the one with a stop
            check_history(history, decoded)


def check_history(history: list[list[int]], decoded: Decoded) -> None:
    """Each canvas of theirs, which may end with its block, is ours, one step after the other."""
    theirs, ours = distinct(history), distinct(canvases(decoded))
    begin = 0 if theirs[0] == ours[0][: len(theirs[0])] else 1
    for number, canvas in enumerate(theirs):
        assert ours[begin + number][: len(canvas)] == canvas


@golden_entries("samples", "llada2")
def test_llada2_sample(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry(entry) as sample:
        algorithm = sample.take("algorithm")
        for key in ("top_k", "top_p", "eos_early_stop", "completions", "forward_count", "edit_count"):
            if key in sample:
                sample.take(key)
        assert sample.take("temperature") == 0
        block, new, threshold = (sample.take(key) for key in ("block_length", "gen_length", "threshold"))
        eos, mask = sample.take("eos_id"), sample.take("mask_id")
        if algorithm == "dinfer_threshold":
            options: dict[str, Any] = {"rule": "near-best"}
        elif algorithm == "llada21_generate":
            names = ("editing_threshold", "max_post_steps", "num_to_transfer")
            options = {"sampler": "token-editing", **{name: sample.take(name) for name in names}}
        else:
            steps = min(sample.take("steps"), new // sample.take("minimal_topk"))
            options = {"rule": "dynamic", "block_steps": steps}
        model = vectors.with_blocks(block)
        cases = zip(sample.take("prompts"), sample.take("sequences"), sample.take("history"), strict=True)
        for prompt, wanted, history in cases:
            end = -(-(len(prompt) + new) // block) * block
            decoded = written(model, prompt, end, threshold=threshold, **options)
            ours = decoded.tokens[0].tolist()
            ends = [*ours[len(prompt) :], eos].index(eos) + len(prompt)
            if algorithm == "dinfer_threshold":  # without EOS, and all of the last block
                assert wanted == ours[: min(ends, end)]
            else:
                assert wanted == ours[: min(ends + 1, len(prompt) + new)]
            check_history(history, decoded)
            assert mask not in ours


@golden_entries("samples", "fast-dllm-v2")
def test_fast_dllm_v2_sample(vectors: Vectors, entry: dict[str, Any]) -> None:
    """Rows of one batch are those that each has alone, which not all of upstream's are."""
    with Entry(entry) as sample:
        function = sample.take("function")
        sample.take("forward_count")
        if function == "batch_sample":
            assert all(sample.take("agrees_with_generate_alone"))
            sample.take("pad_token_id")
        assert sample.take("temperature") == 0
        block, sub, threshold = (sample.take(k) for k in ("block_length", "sub_block_length", "threshold"))
        cache = "dual" if sample.take("block_cache") else "none"
        stop, new = sample.take("stop_token_id"), sample.take("max_new_tokens")
        model = vectors.with_blocks(block)
        prompts, sequences = sample.take("prompts"), sample.take("sequences")
        histories = [sample.take(k) for k in ("forwards", "canvas_at_each_forward") if k in sample]
        together = function == "generate, a batch"
        for number, (prompt, wanted) in enumerate(zip(prompts, sequences, strict=True)):
            # `new // B` blocks, the first up to the next multiple; the last clean pass adds one token.
            appended = len(prompt) + (len(prompt) % block == 0)
            end = (appended // block + new // block) * block + 1
            decoded = written(model, prompt, end, threshold=threshold, block_length=sub, cache=cache)
            ours = decoded.tokens[0].tolist()
            if together and cache == "dual":  # theirs looks at all rows' masks, and differs from either alone
                masks = [model.lm.mask_token_id] * (end - len(prompt))
                canvas = torch.tensor([each + masks for each in prompts])
                options = {"threshold": threshold, "block_length": sub, "cache": cache}
                both = model.sample(canvas, sampler="block-steps", **options)
                assert both.tokens[number].tolist() == ours
                continue
            length = min([*ours[len(prompt) :], stop].index(stop) + len(prompt) + 1, end)
            # Shorter rows of theirs go on to the longest one's end; what they have alone is held.
            assert wanted[: length if function == "batch_sample" else None] == ours[:length]
            if function == "generate":
                check_history(histories[1][number], decoded)
