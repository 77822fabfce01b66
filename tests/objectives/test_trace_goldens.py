"""TraceRL as dLLM-RL computes it on SDAR: slices, log-probabilities, losses, returns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from opendllm.core.toolkit.policy_losses import ClippedRatio
from opendllm.core.toolkit.policy_updates import PolicyUpdate, log_probabilities
from opendllm.core.toolkit.rollout_tokens import learnt_tokens
from opendllm.core.toolkit.segments import visibility
from opendllm.core.toolkit.trace_values import token_values
from opendllm.core.toolkit.traces import blocks_from, filled_steps, shrunk_steps
from opendllm.registries.policies import FixedTerms, PolicyObjective, PolicyReading, Rollouts
from opendllm.registries.sequences import TokenIds

from ..golden_vectors import Entry, Vectors, golden_entries
from .rollouts import GivenNoise, policy_objective, rows_of

LOG_PROBABILITY, LOSS = 3e-4, 1e-4


def token_ids(vectors: Vectors) -> TokenIds:
    return TokenIds(vectors.model.lm.vocab_size, vectors.expected["mask_token_id"])


def rollouts_of(
    vectors: Vectors, entry: Entry, responses: list[list[int]], padding: int, longest: int
) -> Rollouts:
    """Prompts padded on the left, responses on the right, as they were read; some were cut to `longest`.

    A response's own token of padding is its end, and after it to the published code.
    """
    tokens, start = torch.tensor(entry.take("input_ids")), entry.take("start_pos")
    for row, response in zip(tokens.tolist(), responses, strict=True):
        kept = response[:longest]
        assert row[start:] == kept + [padding] * (longest - len(kept))
    prompts = entry.take("prompts")
    columns = torch.arange(tokens.shape[1]).expand_as(tokens)
    hidden = columns < start - torch.tensor([len(prompt) for prompt in prompts])[:, None]
    maskable = columns >= start
    counted = maskable & (tokens != padding)
    committed = torch.zeros_like(tokens)
    for row, steps in enumerate(entry.take("step_map")):
        given = torch.tensor(steps[:longest])
        committed[row, start : start + len(given)] = given
    rows = rows_of(tokens, maskable, token_ids(vectors), hidden)
    rows = replace(rows, positions=(columns - hidden.sum(-1, keepdim=True)).clamp(min=0))
    return Rollouts(rows, counted, committed, longest)


def ordered_slices(readings: list[PolicyReading]) -> list[tuple[int, int, int]]:
    """(answer, slice, row of that slice's reading), an answer's slices one after the other."""
    found = []
    for number, reading in enumerate(readings):
        for row, answer in enumerate(reading.row.unique().tolist()):
            found.append((answer, number, row))
    return sorted(found)


def check_slices(rollouts: Rollouts, readings: list[PolicyReading], wanted: dict[str, Any]) -> Tensor:
    """What the model reads, where, and which tokens are learnt: [slices, L] bool."""
    start = int(rollouts.rows.maskable[0].int().argmax())
    length = rollouts.rows.tokens.shape[1]
    order = ordered_slices(readings)
    assert [answer for answer, _, _ in order] == wanted["rollout"]
    real = rollouts.rows.segments >= 0
    for (answer, number, row), read, position, learnt in zip(
        order, wanted["extended_input_ids"], wanted["position_ids"], wanted["p_mask"], strict=True
    ):
        reading = readings[number]
        inputs, scored = reading.inputs, reading.scored
        assert inputs.tokens[row, length:].tolist() == read[:length]  # the clean half stands last
        assert inputs.tokens[row, start:length].tolist() == read[length:]
        ours = inputs.positions[row, length:][real[answer]].tolist()
        assert ours == torch.tensor(position[:length])[real[answer]].tolist()
        assert inputs.positions[row, start:length].tolist() == position[length:]
        assert scored[row, :length].tolist() == learnt
        assert not scored[row, length:].any()
    return torch.tensor(wanted["p_mask"])


def check_attention(reading: PolicyReading, rollouts: Rollouts, wanted: list[list[int]]) -> None:
    """Of the first answer's first slice, between [prompt, response, noisy response]."""
    start, length = int(rollouts.rows.maskable[0].int().argmax()), rollouts.rows.tokens.shape[1]
    seen = visibility(reading.inputs, reading.inputs.blocks)
    assert seen is not None
    columns = torch.cat([torch.arange(length, 2 * length), torch.arange(start, length)])
    real = (rollouts.rows.segments[0] >= 0).repeat(2)[
        torch.cat([columns[:length] - length, columns[length:]])
    ]
    found = seen[0][columns][:, columns]
    assert torch.equal(found[real].long(), torch.tensor(wanted)[real])
    # The noisy half of the prompt, which the published layout doesn't have, is seen by nothing that counts.
    assert not seen[0, start:length, :start].any()
    assert not seen[0, length:, :length].any()


def at_terms(rollouts: Rollouts, readings: list[PolicyReading], values: Any) -> list[Tensor]:
    """[M] of each reading, of values [slices, L]."""
    found: list[list[Tensor]] = [[] for _ in readings]
    for (_, number, row), of_slice in zip(
        ordered_slices(readings), torch.tensor(values).double(), strict=True
    ):
        scored = readings[number].scored[row, : rollouts.rows.tokens.shape[1]]
        found[number].append(of_slice[scored])
    return [torch.cat(parts) for parts in found]


@golden_entries("trace_rl", "sdar")
def test_trace_rl(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry({"attention": None, **entry}) as case:
        assert "rl_sdar" in case.take("code")
        case.take("batch")
        blocks = case.take("block_length")
        options = {"block_length": blocks, "shrink": case.take("shrink"), "post_num": case.take("post_num")}
        longest, responses = case.take("response_length"), case.take("responses")
        rollouts = rollouts_of(vectors, case, responses, case.take("pad_token_id"), longest)
        check_shrunk_steps(rollouts, case.take("step_map_after_shrink"), blocks, options["shrink"])
        objective = policy_objective("trace-rl", **options)
        readings = list(objective.readings(rollouts, GivenNoise(0)))
        with Entry(case.take("slices")) as slices:
            rewards = torch.tensor(case.take("rewards"), dtype=torch.float64)
            assert slices.take("advantage") == rewards[entry["slices"]["rollout"]].tolist()
            names = ("rollout", "extended_input_ids", "position_ids", "p_mask")
            check_slices(rollouts, readings, {name: slices.take(name) for name in names})
            published = at_terms(rollouts, readings, slices.take("token_log_probability"))
        seen = case.take("attention")
        if seen is not None:
            check_attention(readings[0], rollouts, seen)
        module = vectors.with_blocks(blocks).lm.module
        for reading, values in zip(readings, published, strict=True):
            torch.testing.assert_close(
                log_probabilities(module, reading), values, atol=LOG_PROBABILITY, rtol=0
            )
        old = {
            name: at_terms(rollouts, readings, values)
            for name, values in case.take("old_log_probability").items()
        }
        for loss in case.take("losses"):
            with Entry(loss) as given:
                check_losses(
                    vectors, readings, old[given.take("old_log_probability")], rewards, given, options
                )


def check_shrunk_steps(rollouts: Rollouts, wanted: Any, block_length: int, shrink: int) -> None:
    maskable = rollouts.rows.maskable
    steps = filled_steps(rollouts.committed_at, maskable)
    found = shrunk_steps(steps, blocks_from(maskable, block_length), maskable, shrink)
    assert found[maskable].view(len(wanted), -1).tolist() == wanted


def check_losses(
    vectors: Vectors,
    readings: list[PolicyReading],
    old: list[Tensor],
    advantages: Tensor,
    entry: Entry,
    options: dict[str, Any],
) -> None:
    """All slices together, which the published code had in one batch."""
    epsilon, beta, estimator = entry.take("eps"), entry.take("beta"), entry.take("kl_estimator")
    penalty = {"beta": beta, **({"kl_estimator": estimator} if estimator else {})}
    objective = policy_objective("trace-rl", epsilon_low=epsilon, epsilon_high=epsilon, **options, **penalty)
    rollout_readings = [with_penalty(reading, beta) for reading in readings]
    module = vectors.with_blocks(options["block_length"]).lm.module
    count = sum(float(reading.count) for reading in readings)
    policy = kl = total = bounded = 0.0
    gradients = {name: torch.zeros_like(value) for name, value in module.named_parameters()}
    for reading, before in zip(rollout_readings, old, strict=True):
        fixed = FixedTerms(before, reading.of_answers(advantages))
        losses = objective.losses(log_probabilities(module, reading), fixed)
        policy += float((reading.share * losses.loss).sum()) / count
        kl += 0.0 if losses.kl is None else float((reading.kl_share * losses.kl).sum()) / count
        ratio = (log_probabilities(module, reading) - before).clamp(-10, 10).exp()
        bounded += int(((ratio < 1 - epsilon) | (ratio > 1 + epsilon)).sum())
        update = PolicyUpdate(objective, reading, fixed, count)
        loss = module(reading.inputs, reading.targets, reading.scored, update.loss_part)
        total += float(loss.detach())
        for name, slope in zip(gradients, torch.autograd.grad(loss, list(module.parameters())), strict=True):
            gradients[name] += slope
    assert policy == pytest.approx(entry.take("policy_loss"), abs=LOSS, rel=1e-5)  # ratios reach exp(10)
    assert kl == pytest.approx(entry.take("kl_term"), abs=LOSS, rel=1e-3)
    assert total == pytest.approx(entry.take("total_loss"), abs=LOSS, rel=1e-3)
    terms = sum(len(reading.row) for reading in readings)
    assert bounded / terms == pytest.approx(
        entry.take("clipped_fraction"), abs=1e-4
    )  # whatever its advantage
    if "gradient_norm" in entry:
        norm = torch.stack([slope.norm() for slope in gradients.values()]).norm()
        assert float(norm) == pytest.approx(entry.take("gradient_norm"), rel=1e-3)


def with_penalty(reading: PolicyReading, beta: float) -> PolicyReading:
    """The same reading, made with another strength."""
    return replace(reading, kl_share=beta * reading.share)


@golden_entries("trace_rl_value", "sdar")
def test_returns_and_advantages_of_values(vectors: Vectors, entry: dict[str, Any]) -> None:
    """And the loss with an advantage a token; the value model isn't trained here."""
    with Entry(entry) as case:
        assert "train_sdar_value" in case.take("code")
        blocks, shrink, post_num = case.take("block_length"), case.take("shrink"), case.take("post_num")
        responses, start = case.take("responses"), case.take("start_pos")
        read, positions = torch.tensor(case.take("extended_input_ids")), case.take("position_ids")
        rollout, p_mask = torch.tensor(case.take("rollout_of_slice")), torch.tensor(case.take("p_mask"))
        length = p_mask.shape[1]
        there, rollout = rollout.unique(return_inverse=True)  # an answer may have nothing to learn
        responses = [responses[answer] for answer in there]
        steps_given = torch.tensor(case.take("step_map"))[there]
        first = [rollout.tolist().index(answer) for answer in range(len(responses))]
        rollouts = value_rollouts(
            vectors, read[first][:, :length], positions, first, steps_given, responses, start
        )
        # Here no `post_num` is no padding, of which slices have what the policy's code leaves them.
        learnt = learnt_tokens(rollouts, post_num or 0)
        steps = filled_steps(rollouts.committed_at, rollouts.rows.maskable)
        steps = shrunk_steps(
            steps, blocks_from(rollouts.rows.maskable, blocks), rollouts.rows.maskable, shrink
        )
        rewards = torch.tensor(case.take("rewards"), dtype=torch.float64)[there]
        values, returns, advantages = (
            torch.tensor(case.take(key), dtype=torch.float64)
            for key in ("old_values", "returns", "advantages")
        )
        by_token = [torch.zeros(rollouts.rows.tokens.shape, dtype=torch.float64) for _ in range(3)]
        for row, answer in enumerate(rollout.tolist()):
            for whole, of_slice in zip(by_token, (values, returns, advantages), strict=True):
                whole[answer][p_mask[row]] = of_slice[row][p_mask[row]]
        found = token_values(rewards, steps, by_token[0], learnt, (case.take("gamma"), case.take("lambda")))
        torch.testing.assert_close(found.returns, by_token[1], atol=2e-5, rtol=0)
        torch.testing.assert_close(found.advantages, by_token[2], atol=2e-5, rtol=0)
        objective = policy_objective("trace-rl", block_length=blocks, shrink=shrink, post_num=post_num)
        module = vectors.with_blocks(blocks).lm.module
        check_value_loss(module, objective, rollouts, found.advantages, case)


def value_rollouts(
    vectors: Vectors,
    tokens: Tensor,
    positions: list[list[int]],
    first: list[int],
    steps: Tensor,
    responses: list[list[int]],
    start: int,
) -> Rollouts:
    """These entries have no prompts of their own: their padding is what stands before position 0."""
    columns = torch.arange(tokens.shape[1]).expand_as(tokens)
    begins = torch.tensor([positions[row].index(0) for row in first])[:, None]
    maskable = columns >= start
    assert tokens[:, start:].tolist() == responses
    counted = maskable & (tokens != vectors.expected["pad_token_id"])
    committed = torch.zeros_like(tokens)
    committed[:, start:] = steps
    rows = rows_of(tokens, maskable, token_ids(vectors), columns < begins)
    rows = replace(rows, positions=(columns - begins).clamp(min=0))
    return Rollouts(rows, counted, committed, tokens.shape[1] - start)


def check_value_loss(
    module: torch.nn.Module, objective: PolicyObjective, rollouts: Rollouts, advantages: Tensor, entry: Entry
) -> None:
    epsilon = entry.take("eps")
    ratio = ClippedRatio(epsilon, epsilon, entry.take("kl_estimator"), "old", 10.0)
    readings = list(objective.readings(rollouts, GivenNoise(0)))
    old = at_terms(rollouts, readings, entry.take("old_log_probability"))
    count, beta = sum(float(reading.count) for reading in readings), entry.take("beta")
    policy = kl = 0.0
    for reading, before in zip(readings, old, strict=True):
        fixed = FixedTerms(before, reading.of_answers(advantages))
        losses = ratio.losses(log_probabilities(module, reading), fixed)
        assert losses.kl is not None
        policy += float((reading.share * losses.loss).sum()) / count
        kl += beta * float(losses.kl.sum()) / count
    assert policy == pytest.approx(entry.take("policy_loss"), abs=LOSS)
    assert kl == pytest.approx(entry.take("kl_term"), abs=LOSS)
    assert policy + kl == pytest.approx(entry.take("total_loss"), abs=LOSS)
