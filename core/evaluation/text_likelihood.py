"""Likelihoods of texts: tokens in rows, nats and bytes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.checkpoints.text_codec import TextCodec
from opendllm.core.decoding.text import refuse_unknown_ids
from opendllm.core.toolkit.draws import hash_address
from opendllm.core.toolkit.likelihood import Estimator, is_exact, log_likelihood
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import ModelInputs

ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class TextToScore:
    """A text with the seed of its Monte-Carlo draws; the rest as in LikelihoodRequest."""

    text: str
    seed: int
    context: str | None = None
    greedy: bool = False
    templated: bool = False


@dataclass(frozen=True)
class ScoredText:
    """What `TextLikelihood` says, without the request's identity."""

    log_likelihood: float
    variance: float
    tokens: int
    bytes: int
    greedy: bool | None
    exact: bool


def score_texts(
    lm: DiffusionLM,
    codec: TextCodec,
    texts: Sequence[TextToScore],
    longest: int,
    draws: int,
    estimator: Estimator = "llada",
) -> Iterator[ScoredText]:
    """Each text's likelihood given its context, in order.

    Without a context BOS is given, or the text's first token where the tokenizer writes none, and it is cut
    after `longest` tokens. A context is
    cut from the left, and a text that is too long all the same is scored in windows, one after another.
    A text that has nothing to score counts for nothing.

    Raises:
        UserError: a text has a token that the model doesn't know; the checkpoint has no likelihood, or
            its greedy decoding isn't one mask after another.
    """
    if lm.noise.destination != "mask" and any(text.greedy for text in texts):
        raise UserError(
            f"whether a model would write a text is found out mask by mask, and this one undoes "
            f"{lm.noise.destination} noise: leave out what asks for it"
        )
    windows = [_windows(codec, text, longest) for text in texts]
    for number, of_text in enumerate(windows):
        for window in of_text:
            refuse_unknown_ids(lm, window.ids, f"text {number}")
    flat = [
        (int(hash_address(text.seed, number)) if number else text.seed, text.greedy, window)
        for text, of_text in zip(texts, windows, strict=True)
        for number, window in enumerate(of_text)
    ]
    scored = _score_windows(lm, flat, draws, estimator)
    for text, of_text in zip(texts, windows, strict=True):
        parts = [next(scored) for _ in of_text]
        yield ScoredText(
            sum(part.log_likelihood for part in parts),
            sum(part.variance for part in parts),
            sum(part.tokens for part in parts),
            sum(part.bytes for part in parts),
            all(part.greedy for part in parts) if text.greedy else None,
            is_exact(lm),
        )


def why_unscorable(codec: TextCodec, text: TextToScore, longest: int) -> str | None:
    """Why a text given its context has no likelihood: there is no token to score."""
    windows = _windows(codec, text, longest)
    if text.context is not None and not any(len(window.ids) > window.given for window in windows):
        return "the text has no tokens to score"
    return None


def _score_windows(
    lm: DiffusionLM, windows: Sequence[tuple[int, bool, _Window]], draws: int, estimator: Estimator
) -> Iterator[ScoredText]:
    """Each window's likelihood, `ROWS_AT_ONCE` together.

    Args:
        lm: the model.
        windows: (seed, whether greedy decoding is asked for, window).
        draws: see `log_likelihood`.
        estimator: see `log_likelihood`.
    """
    device = next(lm.module.parameters()).device
    for start in range(0, len(windows), ROWS_AT_ONCE):
        group = windows[start : start + ROWS_AT_ONCE]
        width = max(1, *(len(window.ids) for _, _, window in group))
        tokens = torch.zeros(len(group), width, dtype=torch.int64)
        real = torch.zeros(len(group), width, dtype=torch.bool)
        scorable = torch.zeros(len(group), width, dtype=torch.bool)
        for row, (_, _, window) in enumerate(group):
            tokens[row, : len(window.ids)] = torch.tensor(window.ids)
            real[row, : len(window.ids)] = True
            scorable[row, window.given : len(window.ids)] = True
        scorable = scorable.to(device)
        seeds = torch.tensor([seed for seed, _, _ in group], device=device)
        inputs = inputs_from_mask(tokens.to(device), real.to(device))
        found = log_likelihood(lm, inputs, scorable, draws, seeds, estimator=estimator)
        asked = torch.tensor([greedy for _, greedy, _ in group], device=device)
        written = would_write(lm, inputs, scorable & asked[:, None])
        for row, (_, _, window) in enumerate(group):
            yield ScoredText(
                float(found.log_likelihood[row]),
                float(found.variance[row]),
                max(0, len(window.ids) - window.given),
                window.bytes,
                bool(written[row]),
                is_exact(lm),
            )


@torch.no_grad()
def would_write(lm: DiffusionLM, inputs: ModelInputs, wanted: Tensor) -> Tensor:
    """[B] bool: whether greedy decoding writes the very tokens that stand at `wanted`.

    One token a step, each time the one that the model is surest of (LLaDA's
    `suffix_greedy_prediction`, ML-GSAI/LLaDA eval_llada.py); a causal model's from left to right, a
    block-causal one's block by block. A row is given up at its first other token.

    Args:
        lm: the model.
        inputs: B clean rows.
        wanted: [B, L] bool; a row without any is written.
    """
    blocks = lm.attention.blocks(inputs.positions)
    order = torch.zeros_like(inputs.tokens) if blocks is None else blocks
    masked = wanted.clone()
    alive = torch.ones(wanted.shape[0], dtype=torch.bool, device=wanted.device)
    while bool((masked & alive[:, None]).any()):
        rows = (masked.any(-1) & alive).nonzero()[:, 0]
        hidden = masked[rows]
        first = order[rows].masked_fill(~hidden, torch.iinfo(torch.int64).max).min(-1, keepdim=True).values
        now = hidden & (order[rows] == first)
        read = inputs.rows(rows).with_tokens(torch.where(hidden, lm.mask_token_id, inputs.tokens[rows]))
        logits = lm.project(lm.hidden_states(read)[now]).float()
        if lm.mask_token_id < logits.shape[-1]:
            logits[:, [lm.mask_token_id, *lm.ids_without_token]] = -torch.inf
        sure, token = logits.softmax(-1).max(-1)
        confidence = torch.full(now.shape, -1.0, dtype=torch.float32, device=now.device)
        confidence[now] = sure
        proposed = torch.zeros_like(inputs.tokens[rows])
        proposed[now] = token
        row = confidence.argmax(-1, keepdim=True)
        alive[rows] = (proposed.gather(1, row) == inputs.tokens[rows].gather(1, row))[:, 0]
        masked[rows[:, None], row] = False
    return alive


@dataclass(frozen=True)
class _Window:
    """Token ids of which the first `given` are not scored, and the UTF-8 bytes of the others."""

    ids: list[int]
    given: int
    bytes: int


def _windows(codec: TextCodec, text: TextToScore, longest: int) -> list[_Window]:
    if text.context is not None:
        return _continuation(codec, text, longest)
    encoded = codec.encode_with_offsets(text.text)
    ids = [*codec.bos, *encoded.ids][:longest]
    given = max(1, len(codec.bos))
    if len(ids) <= given:
        return [_Window(ids, given, 0)]
    offsets = encoded.offsets[: len(ids) - len(codec.bos)]
    # The space that SentencePiece writes before a text is a token of none of its bytes.
    first = offsets[0][1] if not codec.bos and codec.decode(ids[:1]) else 0
    return [_Window(ids, given, len(text.text[first : offsets[-1][1]].encode()))]


def _continuation(codec: TextCodec, asked: TextToScore, longest: int) -> list[_Window]:
    """As lm-eval and LLaDA split it: trailing spaces of the context belong to what follows.

    An empty context is the token that starts documents, or else the one that ends them. The first window
    has as much of the context as fits; each further one has the token before it.
    """
    assert asked.context is not None
    kept = asked.context.rstrip()
    text = asked.context[len(kept) :] + asked.text
    if asked.templated:
        given = codec.encode_rendered(kept)
        whole = codec.encode_rendered(kept + codec.escaped(text))
    else:
        given = [*codec.bos, *codec.encode(kept)] if kept else []
        whole = [*(codec.bos if kept else ()), *codec.encode(kept + text)]
    scored = whole[len(given) :]
    if not given:
        given = codec.bos or ([] if codec.facts.start is None else [codec.facts.start])
    first = scored[: longest - 1]
    given = given[-(longest - len(first)) :]
    windows = [_Window([*given, *first], len(given), len(text.encode()))]
    for start in range(len(first), len(scored), longest - 1):
        part = scored[start : start + longest - 1]
        windows.append(_Window([scored[start - 1], *part], 1, 0))
    return windows
