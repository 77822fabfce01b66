"""Samplers that commit as many as are sure enough, against the rule written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opendllm.registries.discovery import installed_plugins
from opendllm.registries.samplers import SpecialTokens, Step


def committed(sampler: str, values: list[float], masked: list[bool], **options: float) -> list[int]:
    confidence = torch.tensor([values]) * (-1 if sampler == "entropy-bounded" else 1)
    mask = torch.tensor([masked])
    one = torch.tensor([1])
    step = Step(
        canvas=torch.zeros_like(mask).long(),
        masked=mask,
        editable=mask,
        tokens=torch.ones_like(mask).long(),
        confidence=confidence.masked_fill(~mask, -torch.inf),
        committed_confidence=torch.zeros_like(confidence),
        memory=torch.full(mask.shape, -1),
        index=one * 0,
        steps=one * 9,
        target=one * len(values),
        block=torch.zeros_like(mask).long(),
        width=one * len(values),
        room=one * 0,
        alg_temp=0.0,
        special=SpecialTokens(0),
        vocab_size=2,
        draws=None,  # type: ignore[arg-type]
    )
    commit = installed_plugins().samplers.get(sampler).build(options).select(step).commit
    assert commit is not None
    return commit[0].nonzero()[:, 0].tolist()


SCORES = st.lists(st.tuples(st.floats(0.0, 1.0, width=32), st.booleans()), min_size=1, max_size=9).filter(
    lambda pairs: any(masked for _, masked in pairs)
)


@given(pairs=SCORES, threshold=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
@settings(max_examples=80, deadline=None)
def test_the_threshold_commits_all_above_it_and_always_the_best(
    pairs: list[tuple[float, bool]], threshold: float
) -> None:
    values, masked = (list(column) for column in zip(*pairs, strict=True))
    positions = [i for i, is_masked in enumerate(masked) if is_masked]
    best = max(positions, key=lambda i: (values[i], -i))
    expected = [i for i in positions if values[i] >= torch.tensor(threshold).item() or i == best]
    assert committed("confidence-threshold", values, masked, threshold=threshold) == expected


@given(pairs=SCORES, factor=st.sampled_from([0.25, 1.0, 2.5]))
@settings(max_examples=80, deadline=None)
def test_the_factor_commits_down_to_the_first_that_falls_short(
    pairs: list[tuple[float, bool]], factor: float
) -> None:
    values, masked = (list(column) for column in zip(*pairs, strict=True))
    positions = [i for i, is_masked in enumerate(masked) if is_masked]
    ordered = sorted(positions, key=lambda i: (-values[i], i))
    expected = ordered[:1]
    for number, position in enumerate(ordered[1:], start=2):
        if values[position] < (1 - factor / torch.tensor(float(number + 1))).item():
            break
        expected.append(position)
    assert committed("confidence-factor", values, masked, factor=factor) == sorted(expected)


@given(pairs=SCORES, gamma=st.sampled_from([0.0, 0.35, 1.5]))
@settings(max_examples=80, deadline=None)
def test_the_entropy_bound_holds_and_is_used_up(pairs: list[tuple[float, bool]], gamma: float) -> None:
    values, masked = (list(column) for column in zip(*pairs, strict=True))
    positions = [i for i, is_masked in enumerate(masked) if is_masked]
    ordered = sorted(positions, key=lambda i: (values[i], i))
    expected = [
        position
        for number, position in enumerate(ordered)
        if sum(values[i] for i in ordered[:number]) <= gamma
    ]
    assert committed("entropy-bounded", values, masked, gamma=gamma) == sorted(expected)


@pytest.mark.parametrize(("sampler", "option"), [("confidence-threshold", {"threshold": 1.0})])
def test_one_position_a_step_is_the_least(sampler: str, option: dict[str, Any]) -> None:
    assert committed(sampler, [0.1, 0.2, 0.15], [True] * 3, **option) == [1]
