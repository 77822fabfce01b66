"""Likelihoods of a real network: both estimators against the sum over all masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.toolkit.likelihood import log_likelihood
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM

from .conftest import VOCABULARY, load_as, train_tokenizer

TOKENS = torch.tensor([[7, 31, 2, 90, 11]])
SCORABLE = torch.tensor([[False, True, True, True, True]])
PLACES = [1, 2, 3, 4]


@torch.no_grad()
def nll(lm: DiffusionLM, hidden: Sequence[int]) -> float:
    """Summed over the hidden positions."""
    masked, scored = TOKENS.clone(), torch.zeros_like(SCORABLE)
    masked[0, list(hidden)] = lm.mask_token_id
    scored[0, list(hidden)] = True
    return float(lm.negative_log_likelihood(inputs_from_mask(masked, None), TOKENS, scored).double().sum())


def exact_elbo(lm: DiffusionLM) -> float:
    """-sum over subsets S of nll(S) B(|S|, n - |S| + 1): the integral of t^(|S|-1) (1-t)^(n-|S|)."""
    total = 0.0
    for count in range(1, len(PLACES) + 1):
        weight = math.gamma(count) * math.gamma(len(PLACES) - count + 1) / math.gamma(len(PLACES) + 1)
        total -= weight * sum(nll(lm, hidden) for hidden in itertools.combinations(PLACES, count))
    return total


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def lm(request: pytest.FixtureRequest, stock: Any, tmp_path_factory: pytest.TempPathFactory) -> DiffusionLM:
    folder = tmp_path_factory.mktemp("model")
    stock(folder, request.param)
    found: DiffusionLM = load_as("causal-lm", folder, logit_shift=request.param == "qwen2")
    return found


@pytest.mark.parametrize("estimator", ["llada", "mdlm"])
def test_an_estimator_converges_on_the_sum_over_all_masks(lm: DiffusionLM, estimator: Any) -> None:
    found = log_likelihood(
        lm, inputs_from_mask(TOKENS, None), SCORABLE, 4096, torch.tensor([1]), 512, estimator
    )
    exact, error = exact_elbo(lm), float(found.variance) ** 0.5
    assert 0 < error < 0.02 * abs(exact)
    assert abs(float(found.log_likelihood) - exact) < 4 * error


def test_lladas_estimator_has_the_smaller_variance(lm: DiffusionLM) -> None:
    found = [
        log_likelihood(
            lm, inputs_from_mask(TOKENS, None), SCORABLE, 2048, torch.tensor([1]), estimator=estimator
        )
        for estimator in ("llada", "mdlm")
    ]
    assert float(found[0].variance) < float(found[1].variance)


@pytest.mark.parametrize("estimator", ["llada", "mdlm"])
def test_a_causal_model_is_exact_whatever_the_estimator(stock: Any, tmp_path: Any, estimator: Any) -> None:
    model = stock(tmp_path)
    causal = load_as("causal-lm", tmp_path, attention="causal")
    inputs = inputs_from_mask(TOKENS, None)
    found = log_likelihood(causal, inputs, SCORABLE, 8, torch.tensor([1]), estimator=estimator)
    with torch.no_grad():
        expected = model(TOKENS).logits.double().log_softmax(-1)[0, :-1]
    total = float(expected.gather(1, TOKENS[0, 1:, None]).sum())
    assert float(found.log_likelihood) == pytest.approx(total, abs=1e-4)
    assert float(found.variance) == 0


@pytest.mark.parametrize("estimator", ["llada", "mdlm"])
def test_blocks_are_summed_given_the_clean_blocks_before_them(
    stock: Any, tmp_path: Any, estimator: Any
) -> None:
    """Blocks of one token are exact with every estimator that hides it: k = n = 1, or t and 1/t."""
    stock(tmp_path)
    lm = load_as("causal-lm", tmp_path, logit_shift=False, attention="block-causal", block_length=1)
    inputs = inputs_from_mask(TOKENS, None)
    exact = log_likelihood(lm, inputs, SCORABLE, 16, torch.tensor([1]))
    assert float(exact.variance) < 1e-9
    found = log_likelihood(lm, inputs, SCORABLE, 2048, torch.tensor([1]), estimator=estimator)
    error = max(float(found.variance) ** 0.5, 1e-4)
    assert abs(float(found.log_likelihood) - float(exact.log_likelihood)) < 4 * error


def test_score_takes_the_estimator(stock: Any, tmp_path: Any) -> None:
    stock(tmp_path, vocab_size=VOCABULARY)
    train_tokenizer(tmp_path)
    model = load(tmp_path, backbone="causal-lm", mask_token_id=VOCABULARY - 1, device="cpu")
    text = "def f(a)"
    llada, mdlm = (model.score([text], draws=1024, estimator=estimator)[0] for estimator in ("llada", "mdlm"))
    assert llada != mdlm
    assert abs(llada[0] - mdlm[0]) < 4 * math.hypot(llada[1], mdlm[1])
    assert model.score([text], draws=1024) == [llada]
