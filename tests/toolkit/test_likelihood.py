"""The Monte-Carlo ELBO against the sum over all subsets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from opendllm.core.toolkit import likelihood as module
from opendllm.core.toolkit.likelihood import log_likelihood
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.sequences import ModelInputs

TOKENS = torch.tensor([[0, 2, 1, 1, 0]])
SCORABLE = torch.tensor([[False, True, True, True, True]])


def exact_elbo(lm: DiffusionLM, tokens: torch.Tensor, scorable: torch.Tensor) -> float:
    """Order-agnostic: k uniform in 1..n, any k tokens hidden, their log-probabilities times n/k."""
    places = scorable[0].nonzero()[:, 0].tolist()
    total = 0.0
    for count in range(1, len(places) + 1):
        subsets = list(itertools.combinations(places, count))
        for hidden in subsets:
            masked = tokens.clone()
            masked[0, list(hidden)] = lm.mask_token_id
            scored = torch.zeros_like(scorable)
            scored[0, list(hidden)] = True
            nll = lm.negative_log_likelihood(inputs_from_mask(masked, None), tokens, scored)
            total -= float(nll.sum()) / count / len(subsets)
    return total


def test_converges_to_the_exact_elbo(random_lm: Callable[..., DiffusionLM]) -> None:
    lm = random_lm(3)
    found = log_likelihood(lm, inputs_from_mask(TOKENS, None), SCORABLE, 8192, torch.tensor([3]), 512)
    exact = exact_elbo(lm, TOKENS, SCORABLE)
    error = float(found.variance) ** 0.5
    assert error < 0.1
    assert abs(float(found.log_likelihood) - exact) < 4 * error
    assert abs(exact - 2 * exact / 3) > 4 * error  # a wrong weight would be noticed


def test_standard_error_is_calibrated(random_lm: Callable[..., DiffusionLM]) -> None:
    lm = random_lm(3)
    runs = 200
    found = log_likelihood(
        lm,
        inputs_from_mask(TOKENS.expand(runs, -1), None),
        SCORABLE.expand(runs, -1),
        128,
        torch.arange(runs),
        1024,
    )
    scores = (found.log_likelihood - exact_elbo(lm, TOKENS, SCORABLE)) / found.variance.sqrt()
    assert abs(float(scores.mean())) < 4 / math.sqrt(runs)
    # Student's t with 15 degrees of freedom has a standard deviation of 1.07.
    assert 0.85 < float(scores.std()) < 1.35
    spread = float(found.log_likelihood.var() / found.variance.mean())
    assert 0.6 < spread < 1.5


def test_hidden_counts_are_exactly_stratified(
    random_lm: Callable[..., DiffusionLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = random_lm(3)
    counts = []
    original = lm.negative_log_likelihood

    def spy(inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        counts.extend(scored.sum(-1).tolist())
        return original(inputs, targets, scored)

    monkeypatch.setattr(lm, "negative_log_likelihood", spy)
    log_likelihood(lm, inputs_from_mask(TOKENS, None), SCORABLE, 64, torch.tensor([0]))
    assert len(counts) == 64
    assert [counts.count(number) for number in range(1, 5)] == [16, 16, 16, 16]


def test_a_rows_mean_and_variance_are_the_same_alone_to_the_last_bit() -> None:
    """A killed evaluation makes its last answers again, in other batches."""
    estimates = torch.rand(40, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = module._grouped(estimates)
    for row in range(len(estimates)):
        alone = module._grouped(estimates[row : row + 1])
        assert float(alone.log_likelihood) == float(together.log_likelihood[row])
        assert float(alone.variance) == float(together.variance[row])
    groups = estimates.view(40, -1, module.STRATA).mean(-1)
    torch.testing.assert_close(together.variance, groups.var(-1) / groups.shape[1])


@pytest.mark.parametrize("batch_rows", [1, 5, 64])
def test_rows_do_not_depend_on_each_other_or_on_the_batch(
    random_lm: Callable[..., DiffusionLM], batch_rows: int
) -> None:
    lm = random_lm(4)
    tokens = torch.randint(0, 4, (3, 7), generator=torch.Generator().manual_seed(0))
    scorable = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [0] * 7]).bool()
    seeds = torch.tensor([5, -6, 7])
    together = log_likelihood(lm, inputs_from_mask(tokens, None), scorable, 24, seeds, batch_rows)
    for row in range(3):
        alone = log_likelihood(
            lm,
            inputs_from_mask(tokens[row : row + 1], None),
            scorable[row : row + 1],
            24,
            seeds[row : row + 1],
        )
        assert float(alone.log_likelihood) == pytest.approx(float(together.log_likelihood[row]), abs=1e-6)
        assert float(alone.variance) == pytest.approx(float(together.variance[row]), abs=1e-6)
    assert float(together.log_likelihood[2]) == 0
    assert float(together.variance[2]) == 0


def test_one_token_is_exact(random_lm: Callable[..., DiffusionLM]) -> None:
    lm = random_lm(3)
    scorable = torch.tensor([[False, False, True, False, False]])
    found = log_likelihood(lm, inputs_from_mask(TOKENS, None), scorable, 16, torch.tensor([1]))
    assert float(found.log_likelihood) == pytest.approx(exact_elbo(lm, TOKENS, scorable), abs=1e-6)
    assert float(found.variance) == pytest.approx(0, abs=1e-12)


def test_a_causal_models_rows_are_read_as_many_at_once_as_asked() -> None:
    backbone = installed_plugins().backbones.get("open-dcoder").build({"attention": "causal"})
    torch.manual_seed(0)
    lm = backbone.build(Vocabulary(64, 1, 0))
    read: list[int] = []
    lm.network.get_decoder().register_forward_hook(lambda _, __, output: read.append(len(output[0])))
    tokens = torch.arange(5 * 12).view(5, 12)
    scorable = torch.ones_like(tokens, dtype=torch.bool)
    scorable[:, 0] = False
    found = {
        rows: log_likelihood(lm, inputs_from_mask(tokens, None), scorable, 1, torch.arange(5), rows)
        for rows in (5, 2)
    }
    assert read == [5, 2, 2, 1]
    assert torch.allclose(found[5].log_likelihood, found[2].log_likelihood, rtol=1e-5)


Indifferent = tuple[DiffusionLM, list[list[bool]]]


@pytest.fixture
def indifferent(random_lm: Callable[..., DiffusionLM], monkeypatch: pytest.MonkeyPatch) -> Indifferent:
    """(a model that finds every token as likely as e^-1, the list of what it was asked to score)."""
    lm, asked = random_lm(3), list[list[bool]]()

    def likelihoods(inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        asked.extend(scored.tolist())
        return torch.ones(int(scored.sum()))

    monkeypatch.setattr(lm, "negative_log_likelihood", likelihoods)
    return lm, asked


def test_mdlms_times_begin_at_a_thousandth(indifferent: Indifferent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest draw of each stratum hides everything, with the weight of that time."""
    monkeypatch.setattr(module, "uniform", lambda seeds, *_: torch.zeros(SCORABLE.shape, dtype=torch.float64))
    inputs, seeds = inputs_from_mask(TOKENS, None), torch.tensor([0])
    found = log_likelihood(indifferent[0], inputs, SCORABLE, 16, seeds, 1, estimator="mdlm")
    times = [(1 - 1e-3) * stratum / 8 + 1e-3 for stratum in range(8)]
    assert float(found.log_likelihood) == pytest.approx(-sum(4 / time for time in times) / 8)


def test_each_draw_hides_other_tokens(indifferent: Indifferent) -> None:
    """Also within a stratified group, of those that hide as many."""
    (lm, asked), rows, draws = indifferent, 20, 16
    inputs = inputs_from_mask(TOKENS.expand(rows, -1), None)
    log_likelihood(lm, inputs, SCORABLE.expand(rows, -1), draws, torch.arange(rows))
    first_groups = [asked[start : start + 8] for start in range(0, rows * draws, draws)]
    others = [{tuple(hidden) for hidden in group if sum(hidden) == 2} for group in first_groups]
    assert sum(len(hidden) == 2 for hidden in others) > rows / 2  # two of the eight draws hide two tokens
