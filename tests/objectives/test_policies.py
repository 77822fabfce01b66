"""Policy objectives: masks and traces by enumeration and invariants, the first step, what options refuse."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import cross_entropy

from opendllm.core import load
from opendllm.core.rewards.weighing import weighed
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.policy_advantages import group_advantages
from opendllm.core.toolkit.policy_losses import ClippedRatio, term_shares
from opendllm.core.toolkit.policy_updates import PolicyStatistics, PolicyUpdate, log_probabilities
from opendllm.core.toolkit.rollout_tokens import until_first_stop
from opendllm.core.toolkit.traces import blocks_from, filled_steps, shrunk_steps, step_ranks
from opendllm.core.training.reinforcement.figures import reward_figures
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.options import ObjectiveOptions, PolicyObjectiveOptions
from opendllm.registries.policies import FixedTerms, PolicyReading, Rollouts
from opendllm.registries.sequences import AttentionPattern

from .rollouts import GivenNoise, drawn_rollouts, masking, noise_of, policy_objective

MASK = 11
BLOCKS = AttentionPattern("block-causal", 4)
SEEDS = st.integers(0, 2**31)


def views_of(reading: PolicyReading, rollouts: Rollouts) -> list[Tensor]:
    """[B, L] each: where the mask token stands, each time that the rows are read."""
    masked = reading.inputs.tokens == MASK
    return list(masked.split(len(rollouts.rows.tokens)))


@given(SEEDS, st.booleans())
@settings(max_examples=30, deadline=None)
def test_every_completion_token_is_in_one_of_mask_and_complement(seed: int, tied: bool) -> None:
    """Also where a number is the share itself; the published code has such a token in neither."""
    rollouts = drawn_rollouts(seed)
    answers, length = rollouts.rows.tokens.shape
    noise: Any = noise_of(rollouts)
    if tied:
        ties = {"mask": torch.full((answers, length), 0.5, dtype=torch.float64)}
        noise = GivenNoise(length, {"ratio": torch.full((answers,), 0.5, dtype=torch.float64)}, ties)
    [reading] = policy_objective("coupled-grpo").readings(rollouts, noise)
    whole, mask, complement = views_of(reading, rollouts)
    assert torch.equal(whole, rollouts.rows.maskable)
    assert torch.equal(mask ^ complement, rollouts.rows.maskable)
    # Each counted token is scored in the first view and in one of the others; weights are 1/2 and 1/(2 p).
    assert torch.equal(reading.token.bincount(), torch.full((int(rollouts.counted.sum()),), 2))
    assert torch.equal(rollouts.counted.nonzero(), torch.stack([reading.row, reading.column], dim=1))


@given(SEEDS, st.integers(1, 3), st.sampled_from([0, 1, 2, None]))
@settings(max_examples=30, deadline=None)
def test_pairs_learn_every_token_once_a_draw(seed: int, draws: int, post_num: int | None) -> None:
    rollouts = drawn_rollouts(seed)
    objective = policy_objective("coupled-grpo", masks="pairs", draws=draws, post_num=post_num)
    after = rollouts.rows.maskable & ~rollouts.counted
    learnt = rollouts.counted | (after if post_num is None else after & (after.cumsum(-1) <= post_num))
    readings = objective.readings(rollouts, noise_of(rollouts))
    assert len(readings) == draws
    for reading in readings:
        times = torch.zeros_like(rollouts.rows.tokens)
        times.index_put_((reading.row, reading.column), torch.tensor(1), accumulate=True)
        assert torch.equal(times, learnt.long())
        for masked in views_of(reading, rollouts):  # what is never learnt is hidden from both
            assert bool(masked[rollouts.rows.maskable & ~learnt].all())
    first, *others = (views_of(reading, rollouts)[0] for reading in readings)
    assert all(not torch.equal(first, other) for other in others) or int(learnt.sum()) < 8


@given(SEEDS, st.integers(1, 4), st.sampled_from([None, 3, 4, 20]))
@settings(max_examples=30, deadline=None)
def test_every_completion_token_is_in_one_slice_of_its_trace(
    seed: int, shrink: int, block_length: int | None
) -> None:
    rollouts = drawn_rollouts(seed, pattern=BLOCKS)
    options = {} if block_length is None else {"block_length": block_length}
    objective = policy_objective("trace-rl", shrink=shrink, post_num=None, **options)
    readings = objective.readings(rollouts, GivenNoise(0))
    times = torch.zeros_like(rollouts.rows.tokens)
    for reading in readings:
        times.index_put_((reading.row, reading.column), torch.tensor(1), accumulate=True)
        noisy, clean = reading.inputs.tokens.chunk(2, dim=1)
        assert bool((noisy[reading.scored.chunk(2, dim=1)[0]] == MASK).all())
        assert torch.equal(clean, rollouts.rows.tokens[reading.row.unique()])
    assert torch.equal(times, rollouts.rows.maskable.long())
    ended = policy_objective("trace-rl", shrink=shrink, **options).readings(rollouts, GivenNoise(0))
    assert sum(len(reading.row) for reading in ended) == int(rollouts.counted.sum())
    assert sum(float(reading.count) for reading in ended) == 9 * sum(
        len(reading.row.unique()) for reading in ended
    )


@given(SEEDS, st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_traces_ranks_and_runs_are_those_of_plain_loops(seed: int, shrink: int) -> None:
    rollouts = drawn_rollouts(seed)
    maskable, blocks = rollouts.rows.maskable, blocks_from(rollouts.rows.maskable, 4)
    steps = filled_steps(rollouts.committed_at * (rollouts.committed_at % 3 > 0), maskable)
    shrunk, ranks = shrunk_steps(steps, blocks, maskable, shrink), step_ranks(steps, blocks, maskable)
    for row, block in itertools.product(range(len(steps)), blocks.unique().tolist()):
        inside = maskable[row] & (blocks[row] == block)
        distinct = sorted(set(steps[row][inside].tolist()))
        runs = [distinct[start : start + shrink] for start in range(0, len(distinct), shrink)]
        larger = {step: run[-1] for run in runs for step in run}
        assert ranks[row][inside].tolist() == [distinct.index(step) for step in steps[row][inside].tolist()]
        assert shrunk[row][inside].tolist() == [larger[step] for step in steps[row][inside].tolist()]
    assert bool((ranks[~maskable] == -1).all())


def test_tokens_that_nothing_committed_come_last() -> None:
    """A run that stops early leaves what follows an answer's end unwritten."""
    rollouts = drawn_rollouts(3, answers=1)
    maskable = rollouts.rows.maskable
    last = maskable & (maskable.cumsum(-1) > 6)
    committed = torch.where(last, 0, rollouts.committed_at)
    found = filled_steps(committed, maskable)
    assert torch.equal(found[~last], committed[~last])
    assert set(found[last].tolist()) == {int(committed.max()) + 1}


def test_a_slice_reads_what_stood_there_when_its_tokens_were_committed() -> None:
    """The canvas of each forward pass, replayed: the block's earlier tokens, and masks for all others."""
    rollouts = drawn_rollouts(3, answers=1, pattern=BLOCKS)
    rows, steps = rollouts.rows, rollouts.committed_at[0]
    assert rows.blocks is not None
    blocks = rows.blocks[0]
    seen = set()
    for reading in policy_objective("trace-rl", post_num=None).readings(rollouts, GivenNoise(0)):
        noisy = reading.inputs.tokens[0, : rows.tokens.shape[1]]
        for column in reading.column.tolist():
            block = (blocks == blocks[column]) & (rows.segments[0] >= 0)
            stood = (steps < steps[column]) | ~rows.maskable[0]
            wanted = torch.where(stood, rows.tokens[0], MASK)
            assert torch.equal(noisy[block], wanted[block])
            seen.add(column)
    assert seen == set(rows.maskable[0].nonzero().squeeze(1).tolist())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("coupled-grpo", {"beta": 0}),
        ("coupled-grpo", {"masks": "pairs", "beta": 0.1, "kl_to": "old", "normalisation": "dllm_rl"}),
        ("diffu-grpo", {"beta": 0, "normalisation": "grpo"}),
        ("diffu-grpo", {"beta": 0, "guidance_scale": 1.5}),
        ("trace-rl", {"beta": 0.1}),
    ],
)
def test_the_first_update_is_reinforce(name: str, options: dict[str, Any]) -> None:
    """Ratio 1, nothing clipped, KL 0, and the gradient of -sum share A log p, by a plain computation."""
    pattern = BLOCKS if name == "trace-rl" else AttentionPattern()
    rollouts = drawn_rollouts(11, pattern=pattern)
    objective, lm = policy_objective(name, **options), TableLM(12, pattern)
    readings = objective.readings(rollouts, noise_of(rollouts))
    count = sum(float(reading.count) for reading in readings)
    advantages = torch.linspace(-1, 2, len(rollouts.rows.tokens), dtype=torch.float64)
    found, plain = torch.zeros(2, dtype=torch.float64)
    for reading in readings:
        old = log_probabilities(lm.module, reading)
        update = PolicyUpdate(objective, reading, FixedTerms(old, reading.of_answers(advantages), old), count)
        found = found + lm.module(reading.inputs, reading.targets, reading.scored, update.loss_part)
        assert update.statistics is not None
        means = update.statistics.means()
        assert means["clip_fraction"] == 0
        assert means.get("kl", 0) == pytest.approx(0, abs=1e-12)
        logits = lm.project(lm.hidden_states(reading.inputs)[reading.scored])
        if reading.guidance_scale:
            of_prompt, without = logits.chunk(2)
            logits = without + (1 + reading.guidance_scale) * (of_prompt - without)
        nll = cross_entropy(logits, reading.targets[reading.scored][: len(logits)], reduction="none").double()
        weight = reading.weight * (reading.share * reading.of_answers(advantages))[reading.token]
        plain = plain + (weight * nll).sum() / count
    slopes = [torch.autograd.grad(loss, list(lm.module.parameters())) for loss in (found, plain)]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
        assert bool(theirs.any())


@given(SEEDS, st.sampled_from(["coupled-grpo", "diffu-grpo", "trace-rl"]), st.permutations(range(4)))
@settings(max_examples=20, deadline=None)
def test_micro_batches_and_the_order_of_answers_change_nothing(
    seed: int, name: str, order: list[int]
) -> None:
    """Losses, counts and gradients of any split are those of one batch."""
    pattern = BLOCKS if name == "trace-rl" else AttentionPattern()
    rollouts = drawn_rollouts(seed, pattern=pattern)
    objective, lm = policy_objective(name), TableLM(12, pattern)
    advantages = torch.linspace(-1, 2, 4, dtype=torch.float64)
    found = []
    for batches in ([[0, 1, 2, 3]], [order[:1], order[1:]]):
        sums, kinds = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for batch in batches:
            part = some_answers(rollouts, batch)
            for reading in objective.readings(part, AddressedNoise(5, part.rows, 4)):
                old = log_probabilities(lm.module, reading)
                away = 0.2 * torch.sin(old * 100)
                fixed = FixedTerms(old + away, reading.of_answers(advantages[batch]), old - away)
                update = PolicyUpdate(objective, reading, fixed, 1.0)
                sums = sums + lm.module(reading.inputs, reading.targets, reading.scored, update.loss_part)
                kinds += reading.count
        found.append((sums, kinds, torch.autograd.grad(sums, list(lm.module.parameters()))))
    (whole, count, slopes), (split, other_count, other_slopes) = found
    assert float(split.detach()) == pytest.approx(float(whole.detach()), rel=1e-3, abs=1e-5)
    assert float(count) == float(other_count)
    for one, other in zip(slopes, other_slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def some_answers(rollouts: Rollouts, chosen: list[int]) -> Rollouts:
    rows = rollouts.rows
    part = replace(
        rows,
        tokens=rows.tokens[chosen],
        segments=rows.segments[chosen],
        positions=rows.positions[chosen],
        maskable=rows.maskable[chosen],
        sample_index=rows.sample_index[chosen],
        blocks=None if rows.blocks is None else rows.blocks[chosen],
    )
    return Rollouts(
        part, rollouts.counted[chosen], rollouts.committed_at[chosen], rollouts.max_completion_length
    )


@pytest.mark.parametrize(
    ("name", "options"), [("coupled-grpo", {}), ("coupled-grpo", {"masks": "random"}), ("diffu-grpo", {})]
)
def test_masks_are_addressed(name: str, options: dict[str, Any]) -> None:
    """By (seed, phase, iteration, answer): another one has other masks, the same the same ones again."""
    objective = policy_objective(name, **options)
    rollouts = drawn_rollouts(1, answers=6)

    def read(seed: int, first_sample: int) -> Tensor:
        rows = replace(rollouts.rows, sample_index=torch.arange(first_sample, first_sample + 6))
        readings = objective.readings(replace(rollouts, rows=rows), AddressedNoise(seed, rows, 6))
        return torch.cat([reading.inputs.tokens for reading in readings])

    assert torch.equal(read(5, 0), read(5, 0))
    assert not torch.equal(read(5, 0), read(6, 0))
    assert not torch.equal(read(5, 0), read(5, 6))  # the next iteration's


def test_the_masked_share_is_uniform_in_its_range() -> None:
    rollouts = drawn_rollouts(1, answers=4000)
    [reading] = policy_objective("coupled-grpo").readings(rollouts, noise_of(rollouts))
    whole, mask, _ = views_of(reading, rollouts)
    share = mask.sum(-1) / whole.sum(-1)
    assert float(share.mean()) == pytest.approx(0.5, abs=0.015)
    # The variance of a share that is U(.2, .8), and of nine draws with it.
    due = 0.6**2 / 12 + (0.5 - (0.25 + 0.6**2 / 12)) / 9
    assert float(share.var()) == pytest.approx(due, rel=0.1)


@given(
    st.floats(-1e6, 1e6),
    st.integers(2, 12),
    st.sampled_from(["leave-one-out", "leave-one-out-scaled", "group-mean", "z-score", "z-score-population"]),
)
def test_equal_rewards_have_no_advantage(value: float, size: int, kind: Any) -> None:
    rewards = torch.full((1, size), value, dtype=torch.float64)
    assert torch.equal(group_advantages(rewards, kind), torch.zeros(1, size, dtype=torch.float64))
    with pytest.raises(UserError, match=r"groups of 1: .* two or more"):
        group_advantages(rewards[:, :1], kind)


@pytest.mark.parametrize(
    "kind", ["leave-one-out", "leave-one-out-scaled", "group-mean", "z-score", "z-score-population"]
)
@pytest.mark.parametrize(
    ("weights", "rows"),
    [((0.1, 0.2, 0.3), [(1, 1, 0), (0, 0, 1)]), ((0.1, 0.2, -0.3), [(1, 1, 1), (0, 0, 0)])],
    ids=["sums", "sums-that-cancel"],
)
def test_sums_that_differ_by_rounding_are_equal_rewards(kind: Any, weights: Any, rows: Any) -> None:
    """0.1 + 0.2 is not 0.3: without care a deviation of rounding makes advantages of 1 and -1 of it."""
    named = {str(index): weight for index, weight in enumerate(weights)}
    columns = {str(index): column for index, column in enumerate(zip(*rows, strict=True))}
    totals = [each.total for each in weighed(columns, named)]
    rewards = torch.tensor([totals, [0.3, 0.4]], dtype=torch.float64)
    found = group_advantages(rewards, kind)
    assert found[0].tolist() == [0, 0]
    assert found[1, 1] > 0
    figures = reward_figures(rewards, torch.zeros(4, 1), ["any"])
    assert figures["groups_without_spread"] == 0.5


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_leaving_one_out_is_the_mean_of_the_others(rewards: list[float]) -> None:
    given_rewards = torch.tensor([rewards], dtype=torch.float64)
    others = [
        reward - sum(rewards[:at] + rewards[at + 1 :]) / (len(rewards) - 1)
        for at, reward in enumerate(rewards)
    ]
    found = group_advantages(given_rewards, "leave-one-out")[0].tolist()
    assert found == pytest.approx(others, abs=1e-9)
    assert group_advantages(given_rewards, "group-mean").sum().item() == pytest.approx(0, abs=1e-9)


def test_normalisations_by_hand() -> None:
    sequence = torch.tensor([4, 4, 4, 9])  # three tokens of one answer, one of another
    shares = term_shares("bnpo", sequence, 0.1, 8)
    assert (shares.share.tolist(), float(shares.count)) == ([1, 1, 1, 1], 4)
    shares = term_shares("grpo", sequence, 0.1, 8)
    assert shares.share.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
    assert shares.kl_share.tolist() == pytest.approx([0.1 / 3, 0.1 / 3, 0.1 / 3, 0.1])
    assert float(shares.count) == 2
    shares = term_shares("dr_grpo", sequence, 0.1, 8)
    assert (shares.share.tolist(), float(shares.count)) == ([1, 1, 1, 1], 16)
    shares = term_shares("dllm_rl", sequence, 0.1, 8)
    assert shares.kl_share.tolist() == pytest.approx([0.1] * 4)
    assert float(shares.count) == 2
    for kind in ("bnpo", "grpo", "dr_grpo", "dllm_rl"):
        assert float(term_shares(kind, sequence[:0], 0.1, 8).count) == 0


def test_a_single_term_far_below_the_reference_is_told_from_the_rest() -> None:
    """k3 is exponential there; what the other terms come to stays to be seen, over several readings."""
    ratio = ClippedRatio(0.5, 0.5, "k3", "reference")
    zeros = torch.zeros(2).double()
    parts = [
        PolicyStatistics.of(ratio.losses(torch.tensor(new).double(), FixedTerms(zeros, zeros, zeros)))
        for new in ([0.0, -20.0], [-1.0, -1.0], [-2000.0, 0.0])
    ]
    near, far = math.e - 2, math.exp(20) - 21
    means = PolicyStatistics.joined(parts[:2]).means()
    assert means["kl"] == pytest.approx((far + 2 * near) / 4)
    assert means["kl_outlier_fraction"] == 0.25
    assert means["kl_without_outliers"] == pytest.approx(2 * near / 3)
    beyond = PolicyStatistics.joined(parts).means()
    assert beyond["kl"] == math.inf
    assert beyond["kl_without_outliers"] == pytest.approx(2 * near / 4)
    without = PolicyStatistics.of(ClippedRatio(0.5, 0.5, None, "old").losses(zeros, FixedTerms(zeros, zeros)))
    assert not any("kl" in name for name in without.means())


def test_ratios_far_away_stay_finite_where_they_are_cut() -> None:
    """exp(1000) is none in float64; TraceRL cuts exponents to 10."""
    new, old = torch.tensor([-1.0, -2000.0]).double(), torch.tensor([-2000.0, -1.0]).double()
    ratio = ClippedRatio(0.2, 0.2, "k3", "old", largest_log_ratio=10.0)
    losses = ratio.losses(new, FixedTerms(old, torch.tensor([-1.0, -1.0]).double()))
    assert losses.kl is not None
    assert bool(torch.isfinite(losses.loss).all() & torch.isfinite(losses.kl).all())
    assert losses.loss[0] == pytest.approx(torch.e**10)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("coupled-grpo", {"draws": 2}, "draws has no effect with masks coupled"),
        ("coupled-grpo", {"post_num": 1}, "post_num has no effect with masks coupled"),
        ("coupled-grpo", {"beta": 0, "kl_to": "old"}, "kl_to has no effect with beta 0"),
        ("trace-rl", {"beta": 0, "kl_estimator": "k1"}, "kl_estimator has no effect with beta 0"),
        ("coupled-grpo", {"ratio_range": [0.8, 0.2]}, "ratio_range is two shares between 0 and 1"),
        ("coupled-grpo", {"ratio_range": [0.0, 0.5]}, "ratio_range is two shares between 0 and 1"),
        ("coupled-grpo", {"epsilon_low": 0}, "greater than 0"),
        ("diffu-grpo", {"prompt_mask_probability": 1.5}, "less than or equal to 1"),
        ("diffu-grpo", {"normalisation": "dllm_rl"}, "'bnpo', 'grpo' or 'dr_grpo'"),
        ("trace-rl", {"shrink": 0}, "greater than or equal to 1"),
        ("trace-rl", {"kept_rewards": [0.8, 0.2]}, "the lower one first"),
        ("trace-rl", {"advantage": "z-score"}, "Extra inputs are not permitted"),
    ],
)
def test_options_without_effect_or_sense_are_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        installed_plugins().objectives.get(name).options.model_validate(options)


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [
        ("coupled-grpo", {}, True),
        ("coupled-grpo", {"beta": 0}, False),
        ("coupled-grpo", {"kl_to": "old"}, False),
        ("diffu-grpo", {}, True),
        ("trace-rl", {}, False),
        ("trace-rl", {"kl_to": "reference"}, True),
    ],
)
def test_options_say_whether_a_reference_is_needed(name: str, options: dict[str, Any], needed: bool) -> None:
    found = installed_plugins().objectives.get(name).options.model_validate(options)
    assert isinstance(found, PolicyObjectiveOptions)
    assert found.needs_reference is needed
    assert not found.loss_is_bound


def test_only_policy_objectives_are_said_to_be_ones() -> None:
    kinds = {each.name: each.options for each in installed_plugins().objectives}
    policies = {name for name, options in kinds.items() if issubclass(options, PolicyObjectiveOptions)}
    assert policies == {"coupled-grpo", "diffu-grpo", "trace-rl"}
    assert all(issubclass(options, ObjectiveOptions) for options in kinds.values())


def test_a_completion_without_a_stop_counts_whole() -> None:
    rollouts = drawn_rollouts(4)
    rows = rollouts.rows
    for stops in ([], [150]):
        assert torch.equal(until_first_stop(rows.tokens, rows.maskable, stops), rows.maskable)
    first = int(rows.maskable[0].int().argmax())
    tokens = rows.tokens.clone()
    tokens[0, first - 1] = tokens[0, first + 2] = tokens[0, first + 4] = 7  # one in the prompt
    tokens[0, [first, first + 1]] = 3
    found = until_first_stop(tokens, rows.maskable, [7])[0]
    assert found.nonzero().squeeze(1).tolist() == [first, first + 1, first + 2]


def test_prompts_are_kept_by_their_mean_reward() -> None:
    rewards = torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]).double()
    every = policy_objective("trace-rl").kept(rewards)
    assert every.tolist() == [True] * 4
    kept = policy_objective("trace-rl", kept_rewards=[0.2, 0.8]).kept(rewards)
    assert kept.tolist() == [True, False, False, True]


def test_a_model_without_blocks_is_refused_by_trace_rl() -> None:
    rollouts = drawn_rollouts(0)
    with pytest.raises(UserError, match="trace-rl needs a model with block-causal attention"):
        policy_objective("trace-rl").readings(rollouts, GivenNoise(0))


def test_a_python_user_is_told_that_a_policy_objective_has_no_loss_of_masks(goldens: Any) -> None:
    tokens = torch.arange(8)[None]
    lm = load(goldens / "llada", device="cpu")
    with pytest.raises(UserError, match="coupled-grpo learns from answers' rewards"):
        lm.loss(tokens, tokens > 3, torch.full((1, 8), 0.5), objective="coupled-grpo")


def test_an_infilled_answer_is_learnt_between_its_ends() -> None:
    """What stands after a completion is prompt as well: seen, masked with it, never learnt."""
    rollouts = drawn_rollouts(2, answers=1)
    rows = rollouts.rows
    assert bool(rows.maskable.any())
    columns = torch.arange(rows.tokens.shape[1])[None]
    first = int(rows.maskable[0].int().argmax())
    rows = replace(rows, maskable=(columns >= first) & (columns < first + 4), segments=rows.segments * 0)
    infilled = Rollouts(rows, rows.maskable, rollouts.committed_at * rows.maskable, 4)
    prompts = {"prompt": masking(columns > first + 5)}
    [reading] = policy_objective("diffu-grpo").readings(infilled, GivenNoise(len(columns[0]), {}, prompts))
    masked = reading.inputs.tokens[0] == MASK
    assert masked.tolist() == [first <= at < first + 4 or at > first + 5 for at in range(len(columns[0]))]
    assert reading.column.tolist() == list(range(first, first + 4))
