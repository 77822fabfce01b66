"""Policy objectives on checkpoints: the ratio is 1 to the last bit, and a trace is what was decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from opendllm.core import load
from opendllm.core.language_model import LanguageModel
from opendllm.core.toolkit.policy_updates import PolicyUpdate, log_probabilities
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.policies import FixedTerms, Rollouts
from opendllm.registries.sequences import ModelInputs, TokenIds

from .rollouts import GivenNoise, drawn_rollouts, noise_of, policy_objective


def read_by(lm: DiffusionLM, rollouts: Rollouts) -> Rollouts:
    """With the ids and the blocks of a model."""
    rows = rollouts.rows
    blocks, ids = lm.attention.blocks(rows.positions), TokenIds(lm.vocab_size, lm.mask_token_id)
    return replace(rollouts, rows=replace(rows, blocks=blocks, ids=ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "objective"), [("dream", "coupled-grpo"), ("llada", "diffu-grpo"), ("sdar", "trace-rl")]
)
def test_the_first_ratio_is_exactly_one(
    goldens: Path, family: str, objective: str, dtype: torch.dtype
) -> None:
    """With gradients or without, by whatever kernels: nothing is clipped, and the loss is -share A."""
    lm = load(goldens / family, device="cpu", dtype=dtype).lm
    rollouts, chosen = read_by(lm, drawn_rollouts(3)), policy_objective(objective)
    lm.module.train()
    for reading in chosen.readings(rollouts, noise_of(rollouts)):
        old = log_probabilities(lm.module, reading)
        advantages = reading.of_answers(torch.tensor([1.0, -2.0, 0.5, 3.0]).double())
        update = PolicyUpdate(chosen, reading, FixedTerms(old, advantages, old), 1.0)
        loss = lm.module(reading.inputs, reading.targets, reading.scored, update.loss_part)
        assert loss.requires_grad
        assert float(loss.detach()) == pytest.approx(-float((reading.share * advantages).sum()), abs=1e-12)


def traced(lm: DiffusionLM, tokens: Tensor, prompt: int, block_length: int) -> Rollouts:
    """Two answers that were written block after block, two tokens or so at a time, ends first."""
    columns = torch.arange(tokens.shape[1]).expand_as(tokens)
    maskable = columns >= prompt
    in_block = columns[0] % block_length
    order = torch.stack([(in_block % 2) * 2 + in_block // 2 % 2, (block_length - in_block) // 2])
    committed = torch.where(maskable, (columns // block_length) * block_length + order + 1, 0)
    rows = drawn_rollouts(0, answers=2).rows
    rows = replace(rows, tokens=tokens, segments=columns * 0, positions=columns.clone(), maskable=maskable)
    return read_by(lm, Rollouts(rows, maskable, committed, tokens.shape[1] - prompt))


@pytest.mark.parametrize("family", ["sdar", "fast-dllm-v2"], ids=["unshifted", "shifted"])
def test_a_traces_log_probabilities_are_those_it_was_decoded_with(
    golden_model: Callable[..., LanguageModel], family: str
) -> None:
    """Each pass's canvas read as it stood then: blocks before it finished, those after it not begun."""
    lm = golden_model(family).lm
    block_length = lm.attention.block_length
    assert block_length is not None
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 140, (2, 3 * block_length), generator=generator)
    rollouts = traced(lm, tokens, block_length // 2 + 1, block_length)
    rows, steps = rollouts.rows, rollouts.committed_at
    wanted = torch.zeros(tokens.shape, dtype=torch.float64)
    for step in steps[rows.maskable].unique().tolist():
        canvas = torch.where(rows.maskable & (steps >= step), lm.mask_token_id, tokens)
        inputs = ModelInputs(canvas, rows.segments, rows.positions)
        with torch.no_grad():
            says = -lm.negative_log_likelihood(inputs, tokens, rows.maskable & (steps == step))
        wanted[rows.maskable & (steps == step)] = says.double()
    for reading in policy_objective("trace-rl").readings(rollouts, GivenNoise(0)):
        found = log_probabilities(lm.module, reading)
        torch.testing.assert_close(found, wanted[reading.row, reading.column], atol=1e-4, rtol=0)
