"""The block-wise ELBO and the block-diffusion objective, against enumeration on a tiny model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.likelihood import log_likelihood
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import document_positions, inputs_from_mask, noisy_then_clean
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.objectives import Masking
from opendllm.registries.sequences import AttentionPattern, TokenRows

BLOCK = 3
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])


def block_lm() -> TableLM:
    return TableLM(12, AttentionPattern("block-causal", BLOCK))


@torch.no_grad()
def exact_block_elbo(lm: TableLM) -> float:
    """Sum over blocks of the mean over orders of the chained log-probabilities, block by block.

    Independent of the two-half layout: the row is cut after the block, earlier blocks are clean.
    """
    total = 0.0
    for start in range(0, TOKENS.shape[1], BLOCK):
        stop = min(start + BLOCK, TOKENS.shape[1])
        places = range(start, stop)
        orders = list(itertools.permutations(places))
        for order in orders:
            canvas = TOKENS[:, :stop].clone()
            canvas[:, start:stop] = lm.mask_token_id
            for place in order:
                hidden = lm.hidden_states(inputs_from_mask(canvas, None))[0, place]
                chosen = TOKENS[0, place]
                total += float(lm.project(hidden).log_softmax(-1)[chosen]) / len(orders)
                canvas[0, place] = chosen
    return total


def test_the_estimate_converges_on_the_enumerated_block_elbo() -> None:
    lm = block_lm()
    found = log_likelihood(
        lm, inputs_from_mask(TOKENS, None), torch.ones_like(TOKENS).bool(), 4096, torch.tensor([0])
    )
    error = float(found.variance) ** 0.5
    exact = exact_block_elbo(lm)
    assert abs(float(found.log_likelihood) - exact) < 4 * error
    assert error < 0.02 * abs(exact)


def test_the_objective_averages_to_the_enumerated_block_elbo() -> None:
    """Integrate the bd3lm loss over its times and masks: enumeration of masks, quadrature of times."""
    lm = block_lm()
    plugins = installed_plugins()
    objective, schedule = (
        plugins.objectives.get("bd3lm").build(),
        plugins.noise_schedules.get("linear").build(),
    )
    segments = torch.zeros_like(TOKENS)
    rows = TokenRows(
        TOKENS, segments, document_positions(segments), torch.ones_like(TOKENS).bool(), torch.tensor([0])
    )
    rows = replace(rows, blocks=lm.attention.blocks(rows.positions))
    points = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    total = 0.0
    for block_start in range(0, TOKENS.shape[1], BLOCK):
        size = min(BLOCK, TOKENS.shape[1] - block_start)
        for pattern in itertools.product([False, True], repeat=size):
            masked = torch.zeros_like(TOKENS).bool()
            masked[0, block_start : block_start + size] = torch.tensor(pattern)
            if not masked.any():
                continue
            hits = sum(pattern)
            # The loss of one mask is c / t; its chance is t^hits (1 - t)^(size - hits).
            at = torch.ones_like(TOKENS, dtype=torch.float64)
            corruption = objective.corrupt(Masking(masked, at, at, rows), schedule, lm.mask_token_id)
            with torch.no_grad():
                nll = lm.negative_log_likelihood(corruption.inputs, corruption.targets, corruption.scored)
            loss = float(objective.loss_sum(nll.double(), corruption))
            chance_over_t = (points ** (hits - 1) * (1 - points) ** (size - hits)).mean()
            total += loss * float(chance_over_t)
    assert -total == pytest.approx(exact_block_elbo(lm), rel=1e-4)


def test_a_block_is_masked_at_one_ratio_and_blocks_differ() -> None:
    tokens = torch.arange(24).view(2, 12) % 10
    segments = torch.tensor([[0] * 7 + [1] * 5, [0] * 12])
    rows = TokenRows(
        tokens, segments, document_positions(segments), torch.ones_like(tokens).bool(), torch.tensor([4, 9])
    )
    rows = replace(rows, blocks=AttentionPattern("block-causal", BLOCK).blocks(rows.positions))
    plugins = installed_plugins()
    schedule = plugins.noise_schedules.get("linear").build()
    masking = plugins.objectives.get("bd3lm").build().mask(rows, AddressedNoise(0, rows, 2), schedule)
    ratios = masking.mask_probability
    runs = [len(list(group)) for _, group in itertools.groupby(ratios[0].tolist())]
    assert runs == [3, 3, 1, 3, 2]
    assert [len(list(group)) for _, group in itertools.groupby(ratios[1].tolist())] == [3, 3, 3, 3]


def test_llada_sft_averages_each_answer_then_the_answers() -> None:
    tokens = torch.arange(16).view(2, 8) % 10
    segments = torch.tensor([[0] * 5 + [1] * 3, [0] * 8])
    maskable = torch.tensor([[False, False, True, True, True, False, True, True], [False] * 4 + [True] * 4])
    rows = TokenRows(tokens, segments, document_positions(segments), maskable, torch.arange(2))
    probability = torch.full((2, 8), 0.5, dtype=torch.float64)
    plugins = installed_plugins()
    schedule = plugins.noise_schedules.get("linear").build()
    objective = plugins.objectives.get("llada").build({"form": "sft"})
    corruption = objective.corrupt(Masking(maskable, probability, probability, rows), schedule, 11)
    assert corruption.count == 3
    ones = torch.ones(int(maskable.sum()), dtype=torch.float64)
    # Every answer's mean of ce / p is 1 / 0.5, whatever its length.
    assert float(objective.loss_sum(ones, corruption) / corruption.count) == pytest.approx(2.0)


@pytest.fixture
def shifted_blocks() -> Callable[[int], DiffusionLM]:
    """Block-causal checkpoints with shifted logits, as Fast-dLLM v2's are."""

    def build(block_length: int) -> DiffusionLM:
        torch.manual_seed(0)
        options = {"attention": "block-causal", "block_length": block_length}
        lm = installed_plugins().backbones.get("open-dcoder").build(options).build(Vocabulary(32, 31, 0))
        lm.module.eval()
        return lm

    return build


@torch.no_grad()
def test_a_shifted_model_of_single_token_blocks_is_autoregressive(
    shifted_blocks: Callable[[int], DiffusionLM],
) -> None:
    """Each token is predicted at the clean token before it: not at a mask, which noise would put there."""
    lm = shifted_blocks(1)
    inputs = inputs_from_mask(torch.randint(1, 31, (3, 9), generator=torch.Generator().manual_seed(0)), None)
    scorable = torch.ones_like(inputs.tokens, dtype=torch.bool)
    scorable[:, 0] = False
    found = log_likelihood(lm, inputs, scorable, 16, torch.arange(3))
    log_p = lm.project(lm.hidden_states(inputs)).log_softmax(-1)
    exact = log_p.gather(2, inputs.tokens[:, :, None])[:, 1:, 0].sum(1)
    torch.testing.assert_close(found.log_likelihood.float(), exact, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_shifted_blocks_first_token_is_as_likely_as_it_is_decoded(
    shifted_blocks: Callable[[int], DiffusionLM],
) -> None:
    """Given the clean blocks before it, whatever noise the block before it was trained under."""
    lm = shifted_blocks(4)
    tokens = torch.randint(1, 31, (1, 8), generator=torch.Generator().manual_seed(0))
    inputs = inputs_from_mask(tokens, None)
    blocks = lm.attention.blocks(inputs.positions)
    assert blocks is not None
    noisy = torch.full_like(tokens, lm.mask_token_id)
    scored = torch.zeros(1, 16, dtype=torch.bool)
    scored[0, 4] = True
    read = noisy_then_clean(inputs, noisy, blocks)
    nll = lm.negative_log_likelihood(read, torch.cat([tokens, tokens], 1), scored)
    given = inputs_from_mask(torch.cat([tokens[:, :4], noisy[:, 4:]], 1), None)
    decoded = lm.project(lm.hidden_states(given))[0, 4].log_softmax(-1)[tokens[0, 4]]
    torch.testing.assert_close(-nll[0], decoded, atol=1e-5, rtol=1e-5)
