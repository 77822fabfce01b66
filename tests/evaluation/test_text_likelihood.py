"""Likelihoods of a continuation given its context, and whether a model would write it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from opendllm.core.checkpoints.text_codec import TextCodec, TokenFacts
from opendllm.core.evaluation.text_likelihood import ScoredText, TextToScore, score_texts, would_write
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.sequences import AttentionPattern

LETTERS = "?abcdefghi "


def characters(start: int | None = None) -> TextCodec:
    """A tokenizer of the table model: one token a character."""
    raw = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(LETTERS)}, "?"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return TextCodec(raw, TokenFacts((), {}, start))


def scored(lm: TableLM, texts: Sequence[TextToScore], longest: int = 64, draws: int = 64) -> list[ScoredText]:
    return list(score_texts(lm, characters(lm.eos_token_id), texts, longest, draws))


@torch.no_grad()
def log_probability(lm: TableLM, ids: list[int], place: int, hidden: Sequence[int]) -> float:
    tokens = torch.tensor([[lm.mask_token_id if n in hidden else token for n, token in enumerate(ids)]])
    logits = lm.project(lm.hidden_states(inputs_from_mask(tokens, None)))[0, place]
    return float(logits.log_softmax(-1)[ids[place]])


def elbo(lm: TableLM, ids: list[int], given: int) -> float:
    """LLaDA's bound by enumerating every set of hidden tokens (arXiv:2502.09992, eq. 6)."""
    places = range(given, len(ids))
    n, total = len(places), 0.0
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(places, k))
        sums = [sum(log_probability(lm, ids, place, subset) for place in subset) for subset in subsets]
        total += n / k * sum(sums) / len(subsets)
    return total / n


def test_only_the_continuation_is_scored_given_its_context() -> None:
    lm = TableLM()
    ids = [LETTERS.index(character) for character in "abcd ef"]
    [found] = scored(lm, [TextToScore("ef", 3, "abcd ")], draws=4096)
    assert found.tokens == 3  # the context's trailing space moved over
    assert found.bytes == 3
    assert found.log_likelihood == pytest.approx(elbo(lm, ids, 4), abs=5 * math.sqrt(found.variance))
    assert math.sqrt(found.variance) < 0.1
    [without_space] = scored(lm, [TextToScore(" ef", 3, "abcd")], draws=4096)
    assert without_space == found


def test_a_causal_models_continuation_is_exact() -> None:
    lm = TableLM(attention=AttentionPattern("causal"))
    ids = [LETTERS.index(character) for character in "abcdef"]
    [found] = scored(lm, [TextToScore("ef", 3, "abcd")])
    expected = sum(log_probability(lm, ids, place, ()) for place in (4, 5))
    assert found.log_likelihood == pytest.approx(expected, abs=1e-5)
    assert found.variance == 0


def test_without_a_context_the_first_token_is_given_and_with_an_empty_one_it_is_scored() -> None:
    lm = TableLM()
    [none, empty] = scored(lm, [TextToScore("abc", 3), TextToScore("abc", 3, "")])
    assert (none.tokens, empty.tokens) == (2, 3)  # the token that ends documents stands before it


def test_a_long_context_is_cut_from_the_left_and_a_long_text_comes_in_windows() -> None:
    lm = TableLM(attention=AttentionPattern("causal"))
    [cut, short] = scored(lm, [TextToScore("ef", 3, "ghiabcd"), TextToScore("ef", 3, "bcd")], longest=5)
    assert cut.log_likelihood == pytest.approx(short.log_likelihood)
    text = "abcdefghi"
    [rolled] = scored(lm, [TextToScore(text, 3, "")], longest=4)
    parts = scored(lm, [TextToScore("abc", 0, ""), TextToScore("def", 0, "c"), TextToScore("ghi", 0, "f")])
    assert rolled.tokens == len(text)
    assert rolled.bytes == len(text)
    assert rolled.log_likelihood == pytest.approx(sum(part.log_likelihood for part in parts), abs=1e-5)


@torch.no_grad()
def greedily(lm: TableLM, ids: list[int], places: list[int]) -> list[int]:
    """What greedy decoding writes at `places`, step by step and row by row."""
    ids, left = list(ids), list(places)
    while left:
        open_now = left if lm.attention.kind == "bidirectional" else left[:1]
        tokens = torch.tensor([[lm.mask_token_id if n in left else t for n, t in enumerate(ids)]])
        logits = lm.project(lm.hidden_states(inputs_from_mask(tokens, None)))[0]
        logits[:, lm.mask_token_id] = -torch.inf
        sure, token = logits.softmax(-1).max(-1)
        place = max(open_now, key=lambda n: float(sure[n]))
        ids[place] = int(token[place])
        left.remove(place)
    return ids


@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
def test_greedy_decoding_is_followed_token_by_token(kind: str) -> None:
    lm = TableLM(attention=AttentionPattern(kind))  # type: ignore[arg-type]
    contexts = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [3, 3, 1]]
    written = [greedily(lm, [*context, 1, 1, 1], [3, 4, 5]) for context in contexts]
    changed = [[*ids[:5], (ids[5] + 1) % 10] for ids in written]
    rows = torch.tensor([*written, *changed])
    wanted = torch.zeros_like(rows, dtype=torch.bool)
    wanted[:, 3:] = True
    assert would_write(lm, inputs_from_mask(rows, None), wanted).tolist() == [True] * 4 + [False] * 4
    texts = [
        TextToScore("".join(LETTERS[n] for n in ids[3:]), 1, "".join(LETTERS[n] for n in ids[:3]), True)
        for ids in (written[0], changed[0])
        if LETTERS.index(" ") not in ids
    ]
    assert [found.greedy for found in scored(lm, texts)] == [True, False][: len(texts)]


def test_greed_is_told_only_where_it_was_asked() -> None:
    assert [found.greedy for found in scored(TableLM(), [TextToScore("ab", 1, "c")])] == [None]
