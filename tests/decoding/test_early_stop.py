"""Stopping a row whose text is settled, and what EOS options of LLaDA's sampler do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from opendllm.core.decoding.early_stop import settled_tails
from opendllm.core.language_model import LanguageModel
from opendllm.registries.errors import UserError

EOS, M = 1, 0


def test_tails_are_settled_by_an_eos_that_nothing_masked_precedes() -> None:
    editable = torch.tensor([[False, True, True, True, True, False, True, True, True]])
    for tokens, tail in (
        ([5, 7, EOS, M, M, 6, M, M, M], [3, 4]),
        ([5, M, EOS, M, M, 6, M, M, M], []),
        ([5, EOS, M, M, M, 6, M, EOS, M], [2, 3, 4]),
        ([5, EOS, 8, M, M, 6, 9, EOS, M], [2, 3, 4, 8]),
        ([EOS, M, M, M, M, 6, M, M, M], []),  # an EOS of the prompt ends nothing
        ([5, M, M, M, M, 6, EOS, M, M], [7, 8]),
    ):
        found = settled_tails(
            torch.tensor([tokens]), editable, editable & (torch.tensor([tokens]) == M), [EOS]
        )
        assert found[0].nonzero()[:, 0].tolist() == tail


def eos_table(at: int, length: int) -> torch.Tensor:
    """Logits [L, 5]: EOS at one position, 3 elsewhere, surest on the left."""
    table = torch.zeros(length, 5)
    table[:, 3] = 9 - torch.arange(length) / 10
    table[at] = 0
    table[at, EOS] = 9 - at / 10
    return table


@pytest.mark.parametrize("name", ["entropy", "low-confidence", "confidence-threshold", "ancestral"])
def test_the_text_is_the_same_and_costs_less(name: str, written_model: Callable[..., LanguageModel]) -> None:
    model = written_model(eos_table(4, 16))
    model.lm.eos_token_id = EOS
    canvas = torch.tensor([[3, *[M] * 15], [3, *[M] * 10, 4, 4, 4, 4, 4]])
    options: dict[str, Any] = {"threshold": 1.0} if name == "confidence-threshold" else {"steps": 15}
    plain = model.sample(canvas, name, **options)
    stopped = model.sample(canvas, name, early_stop=True, **options)
    for row in range(2):
        assert stopped.tokens[row, :5].tolist() == plain.tokens[row, :5].tolist() == [3, 3, 3, 3, EOS]
    assert stopped.tokens[0, 5:].tolist() == [EOS] * 11
    assert stopped.tokens[1, 5:].tolist() == [EOS] * 6 + [4] * 5
    if name in ("entropy", "low-confidence"):
        assert bool((stopped.forward_passes < plain.forward_passes).all())


def test_a_second_gap_is_still_written(written_model: Callable[..., LanguageModel]) -> None:
    model = written_model(eos_table(1, 9))
    model.lm.eos_token_id = EOS
    tokens = model.sample(torch.tensor([[3, M, M, M, 4, M, M, M, 4]]), "entropy", early_stop=True).tokens
    assert tokens.tolist() == [[3, EOS, EOS, EOS, 4, 3, 3, 3, 4]]


def test_early_stop_is_refused_where_it_can_settle_nothing(
    written_model: Callable[..., LanguageModel],
) -> None:
    canvas = torch.tensor([[3, M]])
    with pytest.raises(UserError, match="early_stop needs an EOS token"):
        written_model(eos_table(1, 2)).sample(canvas, "entropy", early_stop=True)
    for name in ("p2", "remdm"):
        with pytest.raises(UserError, match=f"early_stop has no effect with sampler '{name}'"):
            written_model(eos_table(1, 2)).sample(canvas, name, early_stop=True)


def test_eos_can_be_kept_from_being_written(written_model: Callable[..., LanguageModel]) -> None:
    model = written_model(eos_table(2, 6))
    model.lm.eos_token_id = EOS
    canvas = torch.tensor([[3, *[M] * 5]])
    assert EOS in model.sample(canvas, "low-confidence").tokens
    for temperature in (0.0, 2.0):
        options: dict[str, Any] = {"temperature": temperature, "logits_eos_inf": True}
        assert EOS not in model.sample(canvas.repeat(50, 1), "low-confidence", **options).tokens


def test_eos_and_end_of_turn_can_be_committed_last(written_model: Callable[..., LanguageModel]) -> None:
    table = torch.zeros(6, 5)
    table[:, 3] = 2.0
    table[1], table[3] = torch.tensor([0, 9.0, 0, 0, 0]), torch.tensor([0, 0, 9.0, 0, 0])
    model = written_model(table)
    model.lm.eos_token_id, model.lm.end_of_turn_token_id = EOS, 2
    trace = model.sample(
        torch.tensor([[M] * 6]), "low-confidence", trace=True, steps=6, confidence_eos_eot_inf=True
    ).trace
    assert trace[4].tolist() == [[3, M, 3, M, 3, 3]]
    assert model.sample(torch.tensor([[M] * 6]), "low-confidence", steps=6).tokens.tolist() == [
        [3, EOS, 3, 2, 3, 3]
    ]


def test_eos_options_need_an_eos(written_model: Callable[..., LanguageModel]) -> None:
    for option in ("logits_eos_inf", "confidence_eos_eot_inf"):
        with pytest.raises(UserError, match="need an EOS token"):
            written_model(torch.zeros(3)).sample(
                torch.tensor([[1, M]]), "low-confidence", **dict[str, Any]({option: True})
            )
