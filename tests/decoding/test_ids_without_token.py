"""A padded vocabulary's rows: never proposed, nor counted, by any sampler at any temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from opendllm.core.evaluation.text_likelihood import would_write
from opendllm.core.language_model import LanguageModel
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.errors import UserError

from .samplers_by_noise import OF_MASKS

TOKENS, PADDING, LENGTH = 9, 5, 6
Written = Callable[..., LanguageModel]


def tables(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """[L, V] logits without, and with rows at the end that are likelier than every token."""
    own = torch.randn(LENGTH, TOKENS, generator=torch.Generator().manual_seed(3)) * scale
    return own, torch.cat([own, own.amax() + torch.rand(LENGTH, PADDING) * scale + 1], dim=-1)


def by_position(written_model: Written, table: Tensor) -> LanguageModel:
    """Rows may grow: the table begins again at its end."""
    model = written_model(lambda inputs: table[inputs.positions % LENGTH])
    model.lm.eos_token_id = 1
    return model


def padded(written_model: Written, table: Tensor) -> LanguageModel:
    model = by_position(written_model, table)
    model.lm.ids_without_token = tuple(range(TOKENS, table.shape[-1]))
    return model


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 3}, {"guidance_scale": 0.5}])
@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", OF_MASKS)
def test_the_canvas_is_the_one_of_a_vocabulary_without_them(
    written_model: Callable[..., LanguageModel],
    usable: Callable[..., dict[str, Any]],
    name: str,
    temperature: float,
    filters: dict[str, Any],
) -> None:
    own, more = tables()
    options = usable(name, {"temperature": temperature, "steps": LENGTH, **filters})
    canvas = torch.zeros(4, LENGTH, dtype=torch.int64)
    expected, found = (
        padded(written_model, table).sample(canvas, name, seed=5, trace=True, **options)
        for table in (own, more)
    )
    assert torch.equal(found.tokens, expected.tokens)
    assert all(torch.equal(one, other) for one, other in zip(found.trace, expected.trace, strict=True))
    assert int(found.tokens.max()) < TOKENS


@pytest.mark.parametrize("name", OF_MASKS)
def test_ids_in_the_middle_are_holes_all_the_same(
    written_model: Callable[..., LanguageModel], usable: Callable[..., dict[str, Any]], name: str
) -> None:
    own, _ = tables()
    own[:, 4] = 30.0
    model = by_position(written_model, own)
    canvas = torch.zeros(3, LENGTH, dtype=torch.int64)
    options: dict[str, Any] = usable(name, {"temperature": 1.0, "steps": LENGTH})
    assert (model.sample(canvas, name, **options).tokens == 4).any()
    model.lm.ids_without_token = (4,)
    assert not (model.sample(canvas, name, **options).tokens == 4).any()


def test_nothing_is_suppressed_where_no_tokenizer_is_known(
    written_model: Callable[..., LanguageModel],
) -> None:
    model = written_model(tables()[1])
    assert model.lm.ids_without_token == ()
    assert int(model.sample(torch.zeros(1, LENGTH, dtype=torch.int64), "entropy").tokens.min()) >= TOKENS


def test_greedy_likelihood_asks_for_tokens_only(written_model: Callable[..., LanguageModel]) -> None:
    model = padded(written_model, tables()[1])
    best = tables()[0][:, 1:].argmax(-1) + 1
    inputs = inputs_from_mask(best[None], None)
    assert would_write(model.lm, inputs, torch.ones(1, LENGTH, dtype=torch.bool)).tolist() == [True]


@pytest.mark.parametrize("value", [5e-324, 1e-310, 1e-45, 1e-30, 9.9e-7, 1.1e6, 1e38, 1e308])
@pytest.mark.parametrize("name", OF_MASKS)
def test_temperatures_that_nothing_can_be_divided_by_are_refused(
    written_model: Callable[..., LanguageModel],
    usable: Callable[..., dict[str, Any]],
    name: str,
    value: float,
) -> None:
    model = padded(written_model, tables()[1])
    for option in usable(name, {"temperature": value, "alg_temp": value}):
        if option in ("temperature", "alg_temp"):
            with pytest.raises(UserError, match=f"{option}.*must be 0, which takes the best") as caught:
                model.sample(
                    torch.zeros(1, LENGTH, dtype=torch.int64), name, **dict[str, Any]({option: value})
                )
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 2}])
@pytest.mark.parametrize("value", [1e-6, 1e6])
@pytest.mark.parametrize("name", OF_MASKS)
def test_the_extremes_that_are_allowed_work_with_large_logits(
    written_model: Callable[..., LanguageModel],
    usable: Callable[..., dict[str, Any]],
    name: str,
    value: float,
    filters: dict[str, Any],
) -> None:
    own, more = tables(scale=1e4)
    canvas = torch.zeros(2, LENGTH, dtype=torch.int64)
    alg_temp = {} if name == "ancestral" else {"alg_temp": value}
    options = usable(name, {"temperature": value, "steps": LENGTH, **alg_temp, **filters})
    decoded = padded(written_model, more).sample(canvas, name, **options)
    tokens = decoded.tokens[decoded.real]
    assert ((tokens > 0) & (tokens < TOKENS)).all()
    if value < 1 and name not in ("dreamon", "remdm"):
        assert torch.equal(tokens, (own[:, 1:].argmax(-1) + 1).repeat(2))
