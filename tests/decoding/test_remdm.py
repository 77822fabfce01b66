"""The remasking sampler against its formulas (arXiv:2503.00307)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from opendllm.core.language_model import LanguageModel
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Selection, SpecialTokens, Step

STEPS = 10
STRATEGIES = [{"strategy": "cap", "eta": 0.3}, {"strategy": "rescale", "eta": 0.4}, {"strategy": "conf"}]


class Constant:
    """The same uniform number everywhere."""

    def __init__(self, number: float) -> None:
        self._number = number

    def uniform(self, stream: str) -> torch.Tensor:
        return torch.full((1, 4), self._number, dtype=torch.float64)


def select(
    index: int, number: float, masked: list[bool], committed: list[float], **options: object
) -> Selection:
    sampler = installed_plugins().samplers.get("remdm").build(options)
    mask, one = torch.tensor([masked]), torch.tensor([1])
    step = Step(
        canvas=torch.where(mask, 0, 1),
        masked=mask,
        editable=torch.ones(1, 4).bool(),
        tokens=torch.ones(1, 4).long(),
        confidence=torch.zeros(1, 4),
        committed_confidence=torch.tensor([committed]),
        memory=torch.full((1, 4), -1),
        index=one * index,
        steps=one * STEPS,
        target=one * 4,
        block=torch.zeros(1, 4).long(),
        width=one * 4,
        room=one * 0,
        alg_temp=0.0,
        special=SpecialTokens(0),
        vocab_size=3,
        draws=Constant(number),
    )
    return sampler.select(step)


def alphas(index: int) -> tuple[float, float]:
    """alpha_t and alpha_s of a step, on the grid from 1 to 1e-3."""
    return tuple((1 - 1e-3) * (index + later) / STEPS for later in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize("index", range(1, STEPS - 1))
@pytest.mark.parametrize("options", STRATEGIES)
def test_probabilities(index: int, options: dict[str, Any]) -> None:
    """A position changes exactly where the uniform number lies below its probability."""
    alpha_t, alpha_s = alphas(index)
    largest = min(1.0, (1 - alpha_s) / alpha_t)
    confidences = [0.0, 0.75, 0.25, 0.0]
    masked = [True, False, False, True]
    if options["strategy"] == "cap":
        sigma = [min(0.3, largest)] * 4
    elif options["strategy"] == "rescale":
        sigma = [0.4 * largest] * 4
    else:
        weights = [math.exp(-0.75), math.exp(-0.25)]
        sigma = [0.0, *(largest * weight / sum(weights) for weight in weights), 0.0]
    for position in range(4):
        s = sigma[position]
        chance = (alpha_s - (1 - s) * alpha_t) / (1 - alpha_t) if masked[position] else s
        for number, changes in ((chance - 1e-9, True), (chance + 1e-9, False)):
            found = select(index, number, masked, confidences, **options)
            assert found.remask is not None
            decided = found.commit if masked[position] else found.remask
            assert decided is not None
            assert bool(decided[0, position]) == changes
    found = select(index, 0.0, masked, confidences, **options)
    assert found.remask is not None
    assert found.commit is not None
    assert found.commit[0].tolist() == masked
    assert found.remask[0].tolist() == [not m for m in masked]


def test_conf_without_a_committed_token() -> None:
    found = select(1, 0.5, [True] * 4, [0.0] * 4, strategy="conf")
    assert not bool(found.remask.any())


@pytest.mark.parametrize("options", [{"eta": 0.5}, {"strategy": "rescale", "eta": 0.9}, {"strategy": "conf"}])
def test_the_marginal_is_the_schedules_whatever_is_masked_again(
    options: dict[str, Any], written_model: Callable[..., LanguageModel]
) -> None:
    """After every step a share alpha_s is committed: remasking keeps it (theorem 3.1)."""
    canvas = torch.zeros(1, 4000, dtype=torch.int64)
    model = written_model(torch.tensor([0.0, 1.0, 0.5]))
    trace = model.sample(canvas, "remdm", trace=True, steps=STEPS, temperature=1.0, **options).trace
    remasked = 0
    for index, (before, after) in enumerate(itertools.pairwise(trace)):
        if index == STEPS - 1:
            break
        share = float((after != 0).double().mean())
        wanted = alphas(index)[1]
        assert abs(share - wanted) < 5 * (wanted * (1 - wanted) / 4000) ** 0.5
        remasked += int(((before != 0) & (after == 0)).sum())
    assert remasked > 0
    assert not bool((trace[-1] == 0).any())


def test_no_remasking_is_the_ancestral_sampler(golden_model: Callable[[str], LanguageModel]) -> None:
    canvas = torch.tensor([[5, *[150] * 12, 7]])
    options: dict[str, Any] = {"steps": 8, "temperature": 1.0, "seed": [3]}
    remdm = golden_model("llada").sample(canvas, "remdm", eta=0.0, **options).tokens
    assert torch.equal(remdm, golden_model("llada").sample(canvas, "ancestral", **options).tokens)


@pytest.mark.parametrize("name", ["ancestral", "remdm"])
def test_the_cosine_grid_commits_less_at_first(
    name: str, written_model: Callable[..., LanguageModel]
) -> None:
    """MD4's grid: after step i a share 1 - cos(pi/2 (1 - (1 - i/S))) of the masks is left, but for eps."""
    canvas = torch.zeros(1, 4000, dtype=torch.int64)
    for grid, wanted in (("uniform", 1 - 1 / STEPS), ("cosine", math.cos(math.pi / 2 / STEPS))):
        options: dict[str, Any] = {"steps": STEPS, "grid": grid, "temperature": 1.0}
        options |= {"eta": 0.0} if name == "remdm" else {}
        after = written_model(torch.zeros(3)).sample(canvas, name, trace=True, **options).trace[1]
        assert float((after == 0).double().mean()) == pytest.approx(wanted, abs=0.02)


def test_eta_is_refused_where_it_has_no_effect(golden_model: Callable[[str], LanguageModel]) -> None:
    with pytest.raises(ValidationError, match="eta has no effect"):
        installed_plugins().samplers.get("remdm").options.model_validate({"strategy": "conf", "eta": 0.1})
    with pytest.raises(UserError, match="eta has no effect with strategy 'conf'"):
        golden_model("llada").sample(torch.tensor([[150]]), "remdm", strategy="conf", eta=0.1)
