"""Strings in, strings out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opendllm.core.checkpoints.loading import Checkpoint
from opendllm.core.checkpoints.text_codec import codec_of
from opendllm.core.language_model import LanguageModel
from opendllm.core.toolkit.draws import hash_address
from opendllm.core.toolkit.likelihood import log_likelihood
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import Vocabulary, WholeReader
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.sequences import ModelInputs

from .samplers_by_noise import ONE_WAY

LETTERS = "abcdefgh \n"
EOS, MASK = len(LETTERS), len(LETTERS) + 1


@pytest.fixture(scope="module")
def make_model() -> Callable[..., LanguageModel]:
    """A tiny model of one-letter tokens."""
    vocabulary = {letter: number for number, letter in enumerate([*LETTERS, "</s>", "<M>"])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens(["</s>", "<M>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", mask_token="<M>")

    def make(family: str = "llada", **options: str) -> LanguageModel:
        torch.manual_seed(0)
        registration: Any = installed_plugins().backbones.get(family)
        lm = registration.build(options).build(Vocabulary(MASK + 1, MASK, EOS))
        lm.module.eval()
        checkpoint = Checkpoint(lm, tokenizer, codec_of(tokenizer, [MASK]))
        return LanguageModel(checkpoint, registration.options.default_sampler, installed_plugins())

    return make


@pytest.mark.parametrize("text", ["<M>", "ab<M>cd", "a</s>"])
def test_a_text_that_spells_a_special_token_is_text(
    text: str, make_model: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    [written] = model.fill([Gap("ab", text, 3)], {}, trace=True)
    assert written.trace[0].count(MASK) == 3
    assert EOS not in written.trace[0]
    assert len(written.trace[0]) == 2 + 3 + len(text)
    assert model.score([f"ab{text}"])[0][0] < 0


@pytest.mark.parametrize("stop", [0, 3])
def test_a_text_ends_at_the_first_of_its_checkpoints_stop_ids(
    stop: int, make_model: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    monkeypatch.setattr(model.lm, "stop_token_ids", (EOS, stop))
    forcing(model, monkeypatch, [8, 1, stop, 2, EOS], 2)
    assert model.generate(["ab"], max_new_tokens=5) == [" b"]
    assert model.generate(["ab"], max_new_tokens=5, early_stop=True, block_length=1) == [" b"]


def test_logits_that_are_not_finite_are_named_by_prompt(make_model: Callable[..., LanguageModel]) -> None:
    """Not by their row in a batch of prompts that were sorted by length."""
    model = make_model()
    with torch.no_grad():
        model.lm.module.network.get_input_embeddings().weight[LETTERS.index("h")] = torch.nan
    with pytest.raises(UserError, match="prompt 2: the model's logits at position 3 are not finite"):
        model.generate(["abcd", "ab", "abh", "a"], max_new_tokens=2, batch_size=2)


def test_empty_and_long_prompts_are_refused(make_model: Callable[..., LanguageModel]) -> None:
    with pytest.raises(UserError, match="prompt 1 is empty"):
        make_model().generate(["a", ""])
    with pytest.raises(UserError, match=r"prompt 0 has 2049 tokens .*2048"):
        make_model().generate(["a" * 2000], max_new_tokens=49)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_texts_do_not_depend_on_the_batch(batch_size: int, make_model: Callable[..., LanguageModel]) -> None:
    model = make_model()
    prompts = ["abc", "a", "hgfedcba", "dd dd", "b\n"]
    options: dict[str, Any] = {"max_new_tokens": 9, "temperature": 1.0, "seed": [4, 3, 2, 1, 0]}
    together = model.generate(prompts, batch_size=batch_size, **options)
    alone = [
        model.generate([prompt], **options | {"seed": [seed]})[0]
        for prompt, seed in zip(prompts, options["seed"], strict=True)
    ]
    assert together == alone


def forcing(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, written: list[int], start: int) -> None:
    """Let the model propose `written` from position `start` on."""

    def hidden_states(inputs: ModelInputs) -> torch.Tensor:
        logits = torch.zeros(*inputs.tokens.shape, MASK + 1)
        for offset, token in enumerate(written):
            logits[:, start + offset, token] = 9
        return logits

    monkeypatch.setattr(model.lm, "hidden_states", hidden_states)
    monkeypatch.setattr(model.lm, "reader", lambda inputs, *_: WholeReader(model.lm, inputs))
    monkeypatch.setattr(model.lm, "project", lambda hidden: hidden)


def test_texts_end_at_eos_and_keep_white_space(
    make_model: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    forcing(model, monkeypatch, [8, 0, 9, 8, EOS, 3], 2)
    assert model.generate(["ab"], max_new_tokens=6) == [" a\n "]
    assert model.infill([("ab", "cd")], 6) == [" a\n "]
    assert model.sample(torch.tensor([[0, 1, *[MASK] * 6]])).tokens[0].tolist() == [0, 1, 8, 0, 9, 8, EOS, 3]


def test_a_text_that_is_eos_at_once_is_empty(
    make_model: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    forcing(model, monkeypatch, [EOS] * 3, 1)
    assert model.generate(["a"], max_new_tokens=3) == [""]


@pytest.mark.parametrize("family", ["open-dcoder", "dream"])
@pytest.mark.parametrize("sampler", ONE_WAY)
def test_a_causal_checkpoint_writes_from_left_to_right(
    family: str, sampler: str, make_model: Callable[..., LanguageModel]
) -> None:
    """Whatever the sampler: token i is the mode of p(token i | tokens before it)."""
    model = make_model(family, attention="causal")
    canvas = torch.tensor([[0, 1, *[MASK] * 6]])
    decoded = model.sample(canvas, sampler, trace=True)
    tokens = decoded.tokens[0]
    for end in range(2, 8):
        logits = model.logits(tokens[None, : end + 1])[0, end]
        logits[MASK] = -torch.inf
        assert int(tokens[end]) == int(logits.argmax())
    for step, state in enumerate(decoded.trace):
        assert (state[0] == MASK).nonzero()[:, 0].tolist() == list(range(2 + step, 8))


def test_score_is_reproducible_and_carries_its_error(make_model: Callable[..., LanguageModel]) -> None:
    model = make_model()
    (first, error), (second, _) = model.score(["abcde", "hh"], draws=64, seed=1)
    assert first < 0
    assert second < 0
    assert error > 0
    assert model.score(["abcde", "hh"], draws=64, seed=1)[0] == (first, error)
    (exact, none), *_ = make_model("dream", attention="causal").score(["abcde"])
    assert exact < 0
    assert none == 0


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_a_score_is_that_of_its_text_alone(make_model: Callable[..., LanguageModel], attention: str) -> None:
    """Whatever is scored beside it: the texts go through the model together, more than one batch of them."""
    model = make_model("dream", attention=attention)
    texts = [LETTERS[: 2 + index % 7] * (1 + index) for index in range(11)]
    together = model.score(texts, draws=16, seed=3)
    for index, text in enumerate(texts):
        assert model.tokenizer is not None
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        scorable = torch.ones_like(ids, dtype=torch.bool)
        scorable[:, 0] = False
        seeds = hash_address(3, torch.arange(len(texts)))[index : index + 1]
        alone = log_likelihood(model.lm, inputs_from_mask(ids, None), scorable, 16, seeds)
        expected = (float(alone.log_likelihood), float(alone.variance) ** 0.5)
        assert together[index] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_text_that_cannot_be_scored_is_named(make_model: Callable[..., LanguageModel]) -> None:
    with pytest.raises(UserError, match="text 1 has fewer than two tokens"):
        make_model().score(["ab", "a"])
    model = make_model()
    with pytest.raises(UserError, match=r"text 1 has \d+ tokens, more than the model's context"):
        model.score(["ab", "a" * (model.lm.context_length + 1)])
    assert make_model().score([]) == []


def test_without_a_tokenizer_text_is_refused(goldens: Path) -> None:
    from opendllm.core import load

    model = load(goldens / "dream", device="cpu")
    with pytest.raises(UserError, match="no tokenizer"):
        model.generate(["a"])
