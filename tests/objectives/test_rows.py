"""What holds for every registered objective that masks, on packed and padded rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import document_positions
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.objectives import Corruption, Objective
from opendllm.registries.options import ObjectiveOptions, PolicyObjectiveOptions
from opendllm.registries.sequences import PADDING_SEGMENT, TokenRows

PLUGINS = installed_plugins()
ROWS, LENGTH, MASK = 48, 24, 10_000
LINEAR = PLUGINS.noise_schedules.get("linear").build()


MASKING = [
    each.name
    for each in PLUGINS.objectives
    if issubclass(each.options, ObjectiveOptions)
    and "mask" in each.options.destinations
    and not issubclass(each.options, PolicyObjectiveOptions)  # tests/objectives/test_policies.py has them
]


@pytest.fixture(params=MASKING)
def objective(request: pytest.FixtureRequest) -> Objective:
    return PLUGINS.objectives.get(request.param).build()


@pytest.fixture
def rows() -> TokenRows:
    """Every token has an id of its own; three documents, each with a prompt of two, then padding."""
    tokens = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH)
    segments = torch.tensor([0] * 9 + [1] * 4 + [2] * 6 + [PADDING_SEGMENT] * 5).expand(ROWS, -1)
    positions = document_positions(segments)
    maskable = (segments != PADDING_SEGMENT) & (positions >= 2)
    return TokenRows(tokens, segments, positions, maskable, torch.arange(ROWS) + 1000, positions // 3)


def some(rows: TokenRows, chosen: list[int]) -> TokenRows:
    return TokenRows(
        rows.tokens[chosen],
        rows.segments[chosen],
        rows.positions[chosen],
        rows.maskable[chosen],
        rows.sample_index[chosen],
        None if rows.blocks is None else rows.blocks[chosen],
    )


def corrupted(objective: Objective, rows: TokenRows, seed: int = 0) -> Corruption:
    masking = objective.mask(rows, AddressedNoise(seed, rows, ROWS), LINEAR)
    return objective.corrupt(masking, LINEAR, MASK)


def scored_tokens(corruption: Corruption) -> list[tuple[int, float]]:
    """(token, weight) of every scored position."""
    return list(zip(corruption.targets[corruption.scored].tolist(), corruption.weight.tolist(), strict=True))


def test_only_maskable_tokens_are_scored(objective: Objective, rows: TokenRows) -> None:
    """So neither prompts nor padding are."""
    tokens = {token for token, _ in scored_tokens(corrupted(objective, rows))}
    assert tokens
    assert tokens <= set(rows.tokens[rows.maskable].tolist())


def test_prompts_and_padding_are_never_hidden(objective: Objective, rows: TokenRows) -> None:
    inputs = corrupted(objective, rows).inputs
    fixed = set(rows.tokens[~rows.maskable].tolist())
    assert fixed <= set(inputs.tokens.flatten().tolist())
    if objective.__class__.__name__ != "Autoregressive":
        assert MASK in inputs.tokens


def test_masks_change_nothing_but_masked_tokens(objective: Objective, rows: TokenRows) -> None:
    inputs = corrupted(objective, rows).inputs
    assert set(inputs.tokens.flatten().tolist()) - {MASK} <= set(rows.tokens.flatten().tolist())


def test_rows_alone_equal_rows_in_a_batch(objective: Objective, rows: TokenRows) -> None:
    """So micro-batches, ranks and resumed runs see the same corruption."""
    together = corrupted(objective, rows)
    count, scored = 0.0, []
    for chosen in ([0], [1, 2], list(range(3, 20)), list(range(20, ROWS))):
        part = corrupted(objective, some(rows, chosen))
        scored += scored_tokens(part)
        count += float(part.count)
    assert sorted(scored) == sorted(scored_tokens(together))
    assert count == float(together.count)


def test_corruption_is_a_function_of_the_seed(objective: Objective, rows: TokenRows) -> None:
    assert scored_tokens(corrupted(objective, rows)) == scored_tokens(corrupted(objective, rows))
    if objective.__class__.__name__ != "Autoregressive":
        assert scored_tokens(corrupted(objective, rows)) != scored_tokens(corrupted(objective, rows, seed=1))


def test_weights_and_counts_fit(objective: Objective, rows: TokenRows) -> None:
    corruption = corrupted(objective, rows)
    scored = int(corruption.scored.sum())
    assert corruption.weight.shape == (scored,)
    assert corruption.count.ndim == 0
    assert corruption.count.dtype == torch.float64
    assert bool((corruption.weight >= 0).all())
    assert float(objective.loss_sum(torch.zeros(scored), corruption)) == 0


def test_nothing_to_score_is_no_error(objective: Objective, rows: TokenRows) -> None:
    bare = replace(rows, maskable=torch.zeros_like(rows.maskable))
    corruption = corrupted(objective, bare)
    assert not corruption.scored.any()
    assert float(objective.loss_sum(torch.zeros(0), corruption)) == 0


COUNTS = {
    "mdlm": lambda rows, corruption: rows.maskable.sum(),
    "bd3lm": lambda rows, corruption: rows.maskable.sum(),
    "llada": lambda rows, corruption: (corruption.inputs.segments != PADDING_SEGMENT).sum(),
    "dream": lambda rows, corruption: corruption.scored.sum(),
    "open-dcoder": lambda rows, corruption: corruption.scored.sum(),
    "ar": lambda rows, corruption: corruption.scored.sum(),
}


@pytest.mark.parametrize("name", COUNTS)
def test_what_the_loss_is_divided_by(name: str, rows: TokenRows) -> None:
    corruption = corrupted(PLUGINS.objectives.get(name).build(), rows)
    assert float(corruption.count) == float(COUNTS[name](rows, corruption))
