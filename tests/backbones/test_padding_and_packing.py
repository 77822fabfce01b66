"""Rows never see their padding, documents never see each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from opendllm.core.language_model import LanguageModel
from opendllm.core.toolkit.segments import document_positions, inputs_from_mask
from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs

LENGTH, PADS = 9, 5


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(2, 150, (1, LENGTH), generator=torch.Generator().manual_seed(5))


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """To 1e-5 of the largest value: LLaDA's random logits reach 20."""
    torch.testing.assert_close(found, wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())), rtol=0)


def padded(tokens: torch.Tensor, gaps: list[int], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`tokens` with padding before the columns in `gaps`, and the attention mask."""
    row, mask = [], []
    for column, token in enumerate([*tokens[0].tolist(), None]):
        row += [filler] * gaps.count(column)
        mask += [0] * gaps.count(column)
        if token is not None:
            row.append(token)
            mask.append(1)
    return torch.tensor([row]), torch.tensor([mask])


@pytest.mark.parametrize(
    "gaps",
    [[0] * PADS, [LENGTH] * PADS, [0, 0, LENGTH, LENGTH, LENGTH], [4] * PADS, [0, 1, 4, 4, LENGTH]],
    ids=["left", "right", "both", "inside", "everywhere"],
)
@pytest.mark.parametrize("filler", [0, 1, 150])
def test_padded_row_equals_the_row_alone(
    family: str,
    golden_model: Callable[[str], LanguageModel],
    tokens: torch.Tensor,
    gaps: list[int],
    filler: int,
) -> None:
    model = golden_model(family)
    row, mask = padded(tokens, gaps, filler)
    logits = model.logits(row, mask)[mask.bool()]
    assert_same(logits, model.logits(tokens)[0])


@pytest.mark.parametrize("gaps", [[0, 0], [LENGTH, LENGTH], []])
def test_padding_does_not_turn_attention_causal(
    family: str, golden_model: Callable[[str], LanguageModel], tokens: torch.Tensor, gaps: list[int]
) -> None:
    model = golden_model(family)
    row, mask = padded(tokens, gaps, 1)
    first, last = mask[0].nonzero()[[0, -1], 0].tolist()
    before = model.logits(row, mask)[0, first]
    row[0, last] = (row[0, last] + 7) % 140 + 2
    assert (model.logits(row, mask)[0, first] - before).abs().max() > 1e-4


def packed(documents: list[list[int]], padding: int = 3) -> ModelInputs:
    tokens = [token for document in documents for token in document] + [1] * padding
    numbers = [number for number, document in enumerate(documents) for _ in document]
    segments = torch.tensor([numbers + [PADDING_SEGMENT] * padding])
    return ModelInputs(torch.tensor([tokens]), segments, document_positions(segments))


@pytest.fixture
def documents() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, 150, (length,), generator=generator).tolist() for length in (6, 1, 9, 4)]


def test_packed_documents_equal_each_alone(
    family: str, golden_model: Callable[[str], LanguageModel], documents: list[list[int]]
) -> None:
    model = golden_model(family)
    logits = model.lm.project(model.lm.hidden_states(packed(documents)))[0]
    start = 0
    for document in documents:
        alone = model.logits(torch.tensor([document]))[0]
        assert_same(logits[start : start + len(document)], alone)
        start += len(document)


def test_packed_likelihoods_equal_each_alone(
    family: str, golden_model: Callable[[str], LanguageModel], documents: list[list[int]]
) -> None:
    lm = golden_model(family).lm
    inputs = packed(documents)
    scored = inputs.segments != PADDING_SEGMENT
    with torch.no_grad():
        together = lm.negative_log_likelihood(inputs, inputs.tokens, scored)
        alone = [
            lm.negative_log_likelihood(
                inputs_from_mask(torch.tensor([document]), None),
                torch.tensor([document]),
                torch.ones(1, len(document), dtype=torch.bool),
            )
            for document in documents
        ]
    assert_same(together, torch.cat(alone))


def test_restarting_positions_alone_would_leak(
    family: str, golden_model: Callable[[str], LanguageModel], documents: list[list[int]]
) -> None:
    """The control of the two tests above."""
    lm = golden_model(family).lm
    inputs = packed(documents, padding=0)
    leaky = ModelInputs(inputs.tokens, torch.zeros_like(inputs.segments), inputs.positions)
    difference = lm.hidden_states(leaky) - lm.hidden_states(inputs)
    assert difference.abs().max() > 1e-2


def test_likelihoods_are_the_logits_log_softmax(
    family: str, golden_model: Callable[[str], LanguageModel], tokens: torch.Tensor
) -> None:
    model = golden_model(family)
    scored = torch.zeros_like(tokens, dtype=torch.bool)
    scored[0, [0, 2, 3, 8]] = True
    with torch.no_grad():
        found = model.lm.negative_log_likelihood(inputs_from_mask(tokens, None), tokens, scored)
    wanted = -model.logits(tokens).log_softmax(-1).gather(-1, tokens[:, :, None])[scored].squeeze(-1)
    assert_same(found, wanted)


def test_nothing_scored_gives_no_likelihoods(
    family: str, golden_model: Callable[[str], LanguageModel], tokens: torch.Tensor
) -> None:
    nothing = torch.zeros_like(tokens, dtype=torch.bool)
    found = golden_model(family).lm.negative_log_likelihood(inputs_from_mask(tokens, None), tokens, nothing)
    assert found.shape == (0,)


def test_gradients_of_packed_documents_are_the_sum_of_each_alones(
    family: str, golden_model: Callable[[str], LanguageModel], documents: list[list[int]]
) -> None:
    lm = golden_model(family).lm
    inputs = packed(documents)
    lm.negative_log_likelihood(inputs, inputs.tokens, inputs.segments != PADDING_SEGMENT).sum().backward()
    together = {name: parameter.grad for name, parameter in lm.module.named_parameters()}
    lm.module.zero_grad()
    for document in documents:
        tokens = torch.tensor([document])
        alone = inputs_from_mask(tokens, None)
        lm.negative_log_likelihood(alone, tokens, torch.ones_like(tokens, dtype=torch.bool)).sum().backward()
    largest = max(float(p.grad.abs().max()) for p in lm.module.parameters())
    for name, parameter in lm.module.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, atol=1e-5 * largest, rtol=1e-4, msg=name)
    lm.module.zero_grad()
