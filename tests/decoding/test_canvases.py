"""Whatever the canvas: the prompt stays, no mask remains."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opendllm.core.language_model import LanguageModel
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import ModelInputs

from .samplers_by_noise import ONE_WAY, SAMPLERS, suited, with_effect

FIXED_LENGTH = [name for name in SAMPLERS if name != "dreamon"]
M = 150


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(2, 149), st.booleans()), min_size=1, max_size=18),
        min_size=1,
        max_size=3,
    ),
    family=st.sampled_from(["open-dcoder", "llada", "dream"]),
    sampler=st.sampled_from(SAMPLERS),
    cache=st.sampled_from(["none", "prefix", "dual"]),
    steps=st.sampled_from([None, 1, 2, 3, 5, 7, 16, 40]),
    block_length=st.sampled_from([None, 1, 2, 3, 5, 16, 50]),
    temperature=st.sampled_from([0.0, 0.2, 1.0, 5.0]),
    top_p=st.sampled_from([None, 0.01, 0.9]),
    top_k=st.sampled_from([None, 1, 3]),
    guidance_scale=st.sampled_from([0.0, 1.5]),
    left=st.booleans(),
)
def test_no_mask_remains_and_the_prompt_is_never_edited(
    golden_model: Callable[[str], LanguageModel],
    usable: Callable[..., dict[str, Any]],
    rows: list[list[tuple[int, bool]]],
    family: str,
    sampler: str,
    left: int,
    **options: Any,
) -> None:
    longest = max(map(len, rows))
    canvas, mask = torch.full((len(rows), longest), 1), torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        start = longest - len(row) if left else 0
        canvas[number, start : start + len(row)] = torch.tensor([M if gap else token for token, gap in row])
        mask[number, start : start + len(row)] = True
    given_canvas = canvas.clone()
    model = suited(golden_model(family), sampler)
    decoded = model.sample(canvas, sampler, mask, **usable(sampler, options))
    assert torch.equal(canvas, given_canvas)
    assert not (decoded.tokens == M).any()
    fixed = canvas != M
    for number in range(len(rows)):
        prompt = decoded.tokens[number][decoded.real[number] & ~decoded.written[number]]
        assert torch.equal(prompt, canvas[number][fixed[number] & mask[number]])
    if sampler in FIXED_LENGTH:
        assert torch.equal(decoded.tokens[fixed], canvas[fixed])
        assert decoded.tokens.shape == canvas.shape
        assert torch.equal(decoded.written, ~fixed)
    gaps = (~fixed).any(-1)
    assert torch.equal(decoded.forward_passes > 0, gaps)


@pytest.mark.parametrize("name", ONE_WAY)
@pytest.mark.parametrize(
    ("masks", "steps", "block"), [(16, 7, 5), (10, 3, 4), (9, 100, 2), (7, 2, 1), (1, 9, 9)]
)
def test_awkward_divisions_strand_no_mask(
    name: str, masks: int, steps: int, block: int, golden_model: Callable[[str], LanguageModel]
) -> None:
    canvas = torch.tensor([[4, 5, *[M] * masks]])
    options = with_effect(name, steps=steps, block_length=block, temperature=1.0)
    decoded = golden_model("llada").sample(canvas, name, trace=True, **options)
    assert not (decoded.tokens == M).any()
    blocks = -(-masks // block)
    assert int(decoded.forward_passes) <= (max(steps, blocks) if "steps" in options else masks)
    for before, after in itertools.pairwise(decoded.trace):
        changed = (before != after)[0].nonzero()[:, 0] - 2
        assert len(set((changed // block).tolist())) <= 1
        later = before[0, 2 + (int(changed.max()) // block + 1) * block :] if len(changed) else before[0, :0]
        assert bool((later == M).all())


@pytest.mark.parametrize("name", ONE_WAY)
def test_infilling_canvases(name: str, golden_model: Callable[[str], LanguageModel]) -> None:
    """Gaps apart from each other; blocks count the editable positions in order."""
    canvas = torch.tensor([[M, 4, M, M, 5, 6, M, M, M, 7]])
    decoded = golden_model("open-dcoder").sample(canvas, name, trace=True, block_length=3)
    assert not (decoded.tokens == M).any()
    assert decoded.tokens[0, [1, 4, 5, 9]].tolist() == [4, 5, 6, 7]
    halfway = [c[0] for c in decoded.trace if (c[0, :4] != M).all() and (c[0, 6:9] == M).all()]
    assert halfway


@pytest.mark.parametrize("name", ONE_WAY)
@pytest.mark.parametrize("favourite", [60.0, 300.0])
@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_p": 0.5}, {"temperature": 0.05}])
def test_a_model_that_proposes_the_mask_itself(
    name: str, favourite: float, options: dict[str, Any], written_model: Callable[..., LanguageModel]
) -> None:
    """The mask is left out before temperature and filters, which might keep nothing else."""
    model = written_model(torch.tensor([favourite, 1.0, 3.0, 2.0]))
    options = with_effect(name, **{"temperature": 1.0, "steps": 2, **options})
    tokens = model.sample(torch.tensor([[1, 0, 0, 0, 0]]), name, **options).tokens
    assert bool((tokens > 0).all())
    if "top_k" in options or "top_p" in options or options["temperature"] < 0.1:
        assert tokens.tolist() == [[1, 2, 2, 2, 2]]


@pytest.mark.parametrize("name", ONE_WAY)
def test_a_canvas_without_masks_costs_nothing(
    name: str, golden_model: Callable[[str], LanguageModel]
) -> None:
    decoded = golden_model("dream").sample(torch.tensor([[4, 5, 6]]), name)
    assert decoded.tokens.tolist() == [[4, 5, 6]]
    assert decoded.forward_passes.tolist() == [0]


def test_rows_too_long_are_named(golden_model: Callable[[str], LanguageModel]) -> None:
    canvas = torch.full((2, 257), 4)
    mask = torch.ones_like(canvas)
    mask[0, 5:] = 0
    with pytest.raises(UserError, match=r"row 1 .*257.*256"):
        golden_model("dream").sample(canvas, attention_mask=mask)
    canvas[1, 0] = M
    mask[1, 256] = 0
    golden_model("dream").sample(canvas, attention_mask=mask)


def test_what_is_no_canvas_is_refused(golden_model: Callable[[str], LanguageModel]) -> None:
    model = golden_model("dream")
    for canvas in (
        torch.tensor([4, M]),
        torch.tensor([[4, 160]]),
        torch.tensor([[-1, M]]),
        torch.tensor([[4.0, M]]),
        torch.tensor([[4, M]], dtype=torch.int32),
        torch.zeros(0, 3, dtype=torch.int64),
    ):
        with pytest.raises(UserError, match="a canvas is int64"):
            model.sample(canvas)
    for shape in ((1, 3), (2,), (1, 2)):
        with pytest.raises(UserError, match=r"attention_mask .* isn't of the canvas's shape \[2, 2\]"):
            model.sample(torch.tensor([[4, M]] * 2), attention_mask=torch.ones(shape))


def test_empty_rows_are_named(golden_model: Callable[[str], LanguageModel]) -> None:
    mask = torch.tensor([[1, 1], [0, 0]])
    with pytest.raises(UserError, match="row 1 of the canvas has no tokens"):
        golden_model("dream").sample(torch.full((2, 2), M), attention_mask=mask)
    with pytest.raises(UserError, match="row 0"):
        golden_model("dream").sample(torch.zeros(1, 0, dtype=torch.int64))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_named(
    value: float, written_model: Callable[..., LanguageModel]
) -> None:
    """By the row of the canvas, though rows without masks take no part."""

    def answer(inputs: ModelInputs) -> torch.Tensor:
        logits = torch.zeros(*inputs.tokens.shape, 5)
        logits[inputs.tokens[:, 0] == 3, 2, 4] = value
        return logits

    canvas = torch.tensor([[1, 1, 1], [2, 0, 1], [3, 0, 0]])
    with pytest.raises(UserError, match="row 2, position 2"):
        written_model(answer).sample(canvas, "entropy", steps=1)
