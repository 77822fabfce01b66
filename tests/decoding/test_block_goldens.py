"""Samples of block diffusion's published code, token for token and step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from opendllm.core.decoding.decoder import Decoded
from opendllm.core.decoding.settings import sort_options
from opendllm.core.decoding.text import SeededGap, Written, write
from opendllm.core.language_model import LanguageModel
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.gaps import Gap

from ..golden_vectors import Entry, Vectors, golden, golden_entries
from .id_codec import ID_CODEC, spelt


def written(
    model: LanguageModel, prompt: list[int], end: int, sampler: str = "block-steps", **options: Any
) -> Decoded:
    """The prompt, continued up to `end` positions."""
    canvas = torch.tensor([prompt + [model.lm.mask_token_id] * (end - len(prompt))])
    return model.sample(canvas, sampler=sampler, trace=True, **options)


def answer(
    model: LanguageModel, prompt: list[int], new: int, sampler: str = "block-steps", **options: Any
) -> Written:
    """The same as texts are written: `new` tokens are asked for, wherever in a block they end."""
    chosen = installed_plugins().samplers.get(sampler)
    decoder, own = sort_options({**options, "max_new_tokens": new}, chosen)
    gaps = [SeededGap(Gap(spelt(prompt)), 0)]
    [(_, found)] = write(model.lm, ID_CODEC, gaps, chosen.build(own), decoder, 1)
    return found


def check_answer(text: Written, whole: Decoded, given: int, new: int, passes_less: int = 0) -> None:
    """What was asked for of a canvas that goes on to its last block's end, in as many passes."""
    assert list(text.tokens) == whole.tokens[0, given : given + new].tolist()
    assert text.forward_passes == int(whole.forward_passes) - passes_less


def canvases(decoded: Decoded) -> list[list[int]]:
    return [snapshot[0].tolist() for snapshot in decoded.trace]


def distinct(history: list[list[int]]) -> list[list[int]]:
    return [canvas for number, canvas in enumerate(history) if number == 0 or canvas != history[number - 1]]


RULES = {
    "low_confidence_static": "static",
    "low_confidence_dynamic": "dynamic",
    "sequential": "sequential",
}


def modes_at(model: LanguageModel, temperature: float, patch: pytest.MonkeyPatch) -> None:
    """Divide the logits: the decoder draws at a temperature, and takes the mode at 0 only."""
    project = model.lm.project
    patch.setattr(model.lm, "project", lambda hidden: project(hidden) / temperature)


@golden_entries("samples", "sdar")
def test_sdar_sample(vectors: Vectors, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with Entry(entry) as sample:
        sample.take("stopping_criteria_idx")  # after a stop nothing is written: what is there is compared
        passes = sample.take("reference_forward_passes")
        rule = RULES[sample.take("algorithm")]
        draw, code = sample.take("draw"), sample.take("code")
        temperature, top_k, top_p = (sample.take(key) for key in ("temperature", "top_k", "top_p"))
        block, steps = sample.take("block_length"), sample.take("denoising_steps")
        options: dict[str, Any] = {"rule": rule, "block_steps": steps}
        threshold = sample.take("confidence_threshold")
        if threshold is not None:
            options["threshold"] = threshold
        options |= {"top_k": top_k or None, "top_p": top_p}
        if draw != "argmax":
            options["temperature"] = temperature
        if code == "generate.py" and rule != "sequential":
            options["confidence"] = "filtered"
        new = sample.take("gen_length")
        model = vectors.with_blocks(block)
        if draw == "argmax":
            modes_at(model, temperature, monkeypatch)
        cases = zip(sample.take("prompts"), sample.take("sequences"), sample.take("history"), strict=True)
        for number, (prompt, wanted, history) in enumerate(cases):
            decoded = written(model, prompt, -(-(len(prompt) + new) // block) * block, **options)
            ours = decoded.tokens[0].tolist()
            assert len(wanted) == len(ours)
            if model.lm.mask_token_id not in wanted:
                assert int(decoded.forward_passes) == passes[number]["denoise"]
            if (len(prompt) + new) % block:
                check_answer(answer(model, prompt, new, **options), decoded, len(prompt), new)
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


@golden_entries("quirks", "sdar")
def test_prompts_are_kept_where_sdar_overwrites_them(vectors: Vectors, entry: dict[str, Any]) -> None:
    """Its block's number of commits exceeds the block's masks; ours are the masks at most."""
    with Entry(entry) as sample:
        for key in ("what", "code", "draw", "reference_forward_passes", "stopping_criteria_idx"):
            sample.take(key)
        options = {"rule": RULES[sample.take("algorithm")], "block_steps": sample.take("denoising_steps")}
        assert sample.take("confidence_threshold") is None
        options |= {key: sample.take(key) for key in ("temperature", "top_k", "top_p")}
        block, new = sample.take("block_length"), sample.take("gen_length")
        model = vectors.with_blocks(block)
        cases = zip(sample.take("prompts"), sample.take("sequences"), sample.take("history"), strict=True)
        for prompt, theirs, history in cases:
            decoded = written(model, prompt, -(-(len(prompt) + new) // block) * block, **options)
            ours = decoded.tokens[0].tolist()
            assert len(ours) == len(theirs)
            assert ours[: len(prompt)] == prompt != theirs[: len(prompt)]
            assert history[-1] == theirs
            # The first pass reads the same canvas in both, and proposes the same where both may write.
            end = len(prompt) + -len(prompt) % block
            assert ours[len(prompt) : end] == history[0][len(prompt) : end]
            assert len(decoded.trace) == len(history) + 1


@golden_entries("rollouts", "sdar")
def test_sdar_rollout(vectors: Vectors, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """dLLM-RL's engine: the response, and the pass in which each of its tokens was committed."""
    with Entry(entry) as sample:
        sample.take("code")
        assert sample.take("draw") == "argmax"
        strategy = sample.take("remasking_strategy")
        rule = RULES.get(strategy, "entropy-bound")
        options: dict[str, Any] = {"rule": rule}
        steps, threshold, bound = (
            sample.take(key) for key in ("denoising_steps", "dynamic_threshold", "eb_threshold")
        )
        if rule == "entropy-bound":
            options["entropy_bound"] = bound
        else:
            options["block_steps"] = steps
        if rule == "dynamic":
            options["threshold"] = threshold
        if rule in ("static", "dynamic"):
            options["confidence"] = "filtered"
        temperature, top_k, top_p = (sample.take(key) for key in ("temperature", "top_k", "top_p"))
        options |= {"top_k": top_k or None, "top_p": top_p}
        block, new, eos = (sample.take(key) for key in ("block_length", "max_tokens", "eos_token_id"))
        prompt, response = sample.take("prompt"), sample.take("response")
        model = vectors.with_blocks(block)
        modes_at(model, temperature, monkeypatch)
        decoded = written(model, prompt, -(-(len(prompt) + new) // block) * block, **options)
        ours = decoded.tokens[0, len(prompt) :].tolist()
        assert ours[: len(response)] == response
        assert len(response) == min(new, [*ours, eos].index(eos) + 1)
        committed = decoded.committed_at[0, len(prompt) : len(prompt) + len(response)].tolist()
        assert committed == sample.take("step_map")
        text = answer(model, prompt, new, **options)
        assert list(text.committed_at[: len(response)]) == committed


@golden_entries("samples", "llada2")
def test_llada2_sample(vectors: Vectors, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with Entry(entry) as sample:
        algorithm = sample.take("algorithm")
        for key in ("top_k", "top_p"):  # not applied at temperature 0
            if key in sample:
                assert sample.take(key) is None
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
        early = sample.take("eos_early_stop") if "eos_early_stop" in sample else False
        monkeypatch.setattr(model.lm, "eos_token_id", eos)
        prompts, sequences, histories = (sample.take(key) for key in ("prompts", "sequences", "history"))
        forwards = sample.take("forward_count")
        edits = sample.take("edit_count") if "edit_count" in sample else [0] * len(prompts)
        completions = sample.take("completions") if "completions" in sample else [None] * len(prompts)
        for number, (prompt, wanted, history) in enumerate(zip(prompts, sequences, histories, strict=True)):
            end = -(-(len(prompt) + new) // block) * block
            decoded = written(model, prompt, end, threshold=threshold, **options)
            ours = decoded.tokens[0].tolist()
            ends = [*ours[len(prompt) :], eos].index(eos) + len(prompt)
            if (len(prompt) + new) % block:
                text = answer(model, prompt, new, threshold=threshold, **options)
                check_answer(text, decoded, len(prompt), new)
            assert completions[number] in (None, wanted[len(prompt) :])
            if algorithm != "dinfer_threshold":  # whose passes include those that only fill its cache
                if eos not in ours[len(prompt) :]:  # ours goes on behind one, unless told otherwise
                    assert int(decoded.forward_passes) == forwards[number]
                elif early:
                    again = written(model, prompt, end, threshold=threshold, early_stop=True, **options)
                    stopped = forwards[number]
                    if algorithm == "llada20_generate":  # there only a pass that writes an EOS looks for one
                        assert stopped == len(history)
                        answers = [canvas[len(prompt) :] for canvas in history]
                        stopped = 1 + next(n for n, each in enumerate(answers) if is_settled(each, eos, mask))
                    assert int(again.forward_passes) == stopped
                    assert again.tokens[0, : ends + 1].tolist() == ours[: ends + 1]
                assert count_edits(canvases(decoded)[: forwards[number] + 1], mask) == edits[number]
            if algorithm == "dinfer_threshold":  # without EOS, and all of the last block
                assert wanted == ours[: min(ends, end)]
            else:
                assert wanted == ours[: min(ends + 1, len(prompt) + new)]
            check_history(history, decoded)
            assert mask not in ours


def is_settled(answer: list[int], eos: int, mask: int) -> bool:
    """It ends, and nothing is masked before its end."""
    return eos in answer and mask not in answer[: answer.index(eos)]


def count_edits(history: list[list[int]], mask: int) -> int:
    """Tokens that gave way to others."""
    return sum(
        before not in (after, mask)
        for number in range(1, len(history))
        for before, after in zip(history[number - 1], history[number], strict=True)
    )


def check_rows_of_a_batch(
    model: LanguageModel, prompts: list[list[int]], new: int, options: dict[str, Any]
) -> None:
    """Each is what it is alone, which theirs isn't."""
    longest = max(map(len, prompts))
    masks = [model.lm.mask_token_id] * new
    canvas = torch.tensor([[0] * (longest - len(each)) + each + masks for each in prompts])
    real = torch.tensor([[0] * (longest - len(each)) + [1] * (len(each) + new) for each in prompts])
    together = model.sample(canvas, "block-steps", real, **options).tokens
    for row, prompt in zip(together.tolist(), prompts, strict=True):
        alone = written(model, prompt, len(prompt) + new, **options)
        assert row[longest - len(prompt) :] == alone.tokens[0].tolist()


@golden("fast-dllm-v2")
def test_fast_dllm_v2_first_token_likelihoods(vectors: Vectors) -> None:
    """Its evaluation's: of a target's first token, the only one masked; EOS and masks behind it."""
    for content in vectors.expected["first_token_log_likelihood"]:
        with Entry(content) as likelihood:
            prefix, target = likelihood.take("prefix"), likelihood.take("target")
            block, eos = likelihood.take("block_length"), likelihood.take("eos_token_id")
            model = vectors.with_blocks(block)
            mask = model.lm.mask_token_id
            row = [*prefix, mask, *target[1:], eos]
            row += [mask] * (-len(row) % block) if len(row) != block + 1 else []
            logits = model.logits(torch.tensor([row]))[0, len(prefix)]
            wanted = likelihood.take("log_likelihood")
            assert float(logits.log_softmax(-1)[target[0]]) == pytest.approx(wanted, abs=1e-4)


@golden_entries("samples", "fast-dllm-v2")
def test_fast_dllm_v2_sample(vectors: Vectors, entry: dict[str, Any]) -> None:
    """Rows of one batch are those that each has alone, which not all of upstream's are."""
    with Entry(entry) as sample:
        function = sample.take("function")
        forward_count = sample.take("forward_count")
        prompts, sequences = sample.take("prompts"), sample.take("sequences")
        alike = [True for _ in prompts]
        if function == "batch_sample":
            alike = sample.take("agrees_with_generate_alone")
            sample.take("pad_token_id")
        assert sample.take("temperature") == 0
        block, sub, threshold = (sample.take(k) for k in ("block_length", "sub_block_length", "threshold"))
        cache = "dual" if sample.take("block_cache") else "none"
        stop, new = sample.take("stop_token_id"), sample.take("max_new_tokens")
        model = vectors.with_blocks(block)
        forwards, histories = sample.take("forwards"), sample.take("canvas_at_each_forward")
        options: dict[str, Any] = {"threshold": threshold, "block_length": sub, "cache": cache}
        if function == "generate, a batch":
            # Theirs looks at all rows' masks, and ends all of them with the first: they are none's alone.
            ended = any(stop in row[len(prompt) :] for prompt, row in zip(prompts, sequences, strict=True))
            alike = [cache == "none" and not ended for _ in prompts]
        if not all(alike):
            check_rows_of_a_batch(model, prompts, block + new, options)
        for number, (prompt, wanted) in enumerate(zip(prompts, sequences, strict=True)):
            if not alike[number]:
                continue
            # `new // B` blocks, the first up to the next multiple; the last clean pass adds one token.
            appended = len(prompt) + (len(prompt) % block == 0)
            end = (appended // block + new // block) * block + 1
            decoded = written(model, prompt, end, **options)
            ours = decoded.tokens[0].tolist()
            if number == 0:
                # Asked for less, and behind the last block's first token: the block behind it isn't read.
                new_tokens = end - len(prompt) - min(3, max(1, block - 1), end - len(prompt) - 1)
                text = answer(model, prompt, new_tokens, **options)
                check_answer(text, decoded, len(prompt), new_tokens, passes_less=1)
            length = min([*ours[len(prompt) :], stop].index(stop) + len(prompt) + 1, end)
            # Shorter rows of theirs go on to the longest one's end; what they have alone is held.
            assert wanted[: length if function == "batch_sample" else None] == ours[:length]
            if function == "generate":
                if histories[number]:  # unless the prefill of a prompt of whole blocks gave the stop token
                    check_history(histories[number], decoded)
                kinds = [kind for kind, _first, _fed in forwards[number]]
                assert len(kinds) == forward_count[number]
                assert len(histories[number]) == sum(kind != "prefill" for kind in kinds)
                # A prompt of whole blocks gives them a token from their prefill, and us one from a step.
                steps = len(histories[number]) + (kinds[0] == "prefill" and len(prompt) % block == 0)
                if stop not in ours[len(prompt) :]:
                    assert int(decoded.forward_passes) == steps
