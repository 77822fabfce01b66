"""The policy losses of published trainers (DiffuCoder, d1, dllm, dLLM-RL), to their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from opendllm.core.toolkit.policy_advantages import group_advantages
from opendllm.core.toolkit.policy_updates import PolicyStatistics, PolicyUpdate, log_probabilities
from opendllm.core.toolkit.rollout_tokens import until_first_stop
from opendllm.registries.errors import UserError
from opendllm.registries.policies import FixedTerms, PolicyObjective, PolicyReading, Rollouts
from opendllm.registries.sequences import TokenIds

from ..golden_vectors import Entry, Vectors, golden, golden_entries
from .rollouts import GivenNoise, masking, policy_objective, rows_of

LOG_PROBABILITY, LOSS, GRADIENT = 3e-4, 1e-4, 1e-3
"""The vectors' own tolerances."""


@dataclass(frozen=True)
class Case:
    """One update, read by the published checkpoint.

    Attributes:
        vectors: whose model reads it.
        objective: with the entry's options.
        rollouts: the entry's answers.
        reading: what is read of them.
    """

    vectors: Vectors
    objective: PolicyObjective
    rollouts: Rollouts
    reading: PolicyReading

    def at_terms(self, values: Tensor) -> Tensor:
        """[M] of values [B, length of the completions]."""
        prompt = self.rollouts.rows.tokens.shape[1] - values.shape[1]
        return values.double()[self.reading.row, self.reading.column - prompt]

    def new(self) -> Tensor:
        return log_probabilities(self.vectors.model.lm.module, self.reading)

    def step(self, fixed: FixedTerms) -> tuple[float, dict[str, float], dict[str, Tensor]]:
        """The loss, its statistics and its gradients, by the published names of the parameters."""
        reading, module = self.reading, self.vectors.model.lm.module
        update = PolicyUpdate(self.objective, reading, fixed, float(reading.count))
        loss = module(reading.inputs, reading.targets, reading.scored, update.loss_part)
        parameters = dict(module.named_parameters())
        slopes = torch.autograd.grad(loss, list(parameters.values()))
        gradients = {
            name.removeprefix("network."): slope for name, slope in zip(parameters, slopes, strict=True)
        }
        assert update.statistics is not None
        return float(loss.detach()), update.statistics.means(), gradients


def rollouts_of(
    vectors: Vectors, entry: Entry, counted: Tensor, hidden: Tensor | None = None, longest: int | None = None
) -> Rollouts:
    """The prompts and completions of an entry, side by side as they were read."""
    prompts, completions = torch.tensor(entry.take("prompt_ids")), torch.tensor(entry.take("completion_ids"))
    tokens = torch.cat([prompts, completions], dim=1)
    maskable = torch.arange(tokens.shape[1]).expand_as(tokens) >= prompts.shape[1]
    rows = rows_of(
        tokens, maskable, TokenIds(vectors.model.lm.vocab_size, vectors.expected["mask_token_id"]), hidden
    )
    counted = torch.cat([torch.zeros_like(prompts).bool(), counted.bool()], dim=1)
    longest = completions.shape[1] if longest is None else longest
    return Rollouts(rows, counted, torch.zeros_like(tokens), longest)


def check_update(case: Case, entry: Entry, advantages: Tensor) -> None:
    """What all entries have: log-probabilities, the loss, what is clipped, gradients."""
    new = case.new()
    found = case.at_terms(torch.tensor(entry.take("per_token_logps")))
    torch.testing.assert_close(new, found, atol=LOG_PROBABILITY, rtol=0)
    old, reference = entry.take("old_per_token_logps"), None
    old = new if old is None else case.at_terms(torch.tensor(old))
    if "ref_per_token_logps" in entry and (given := entry.take("ref_per_token_logps")) is not None:
        reference = case.at_terms(torch.tensor(given))
    fixed = FixedTerms(old, case.reading.of_answers(advantages), reference)
    loss, statistics, gradients = case.step(fixed)
    assert loss == pytest.approx(entry.take("loss"), abs=LOSS)
    losses = case.objective.losses(new, fixed)
    clipped = case.at_terms(torch.tensor(entry.take("clipped")))
    assert torch.equal((losses.clipped_low | losses.clipped_high).double(), clipped)
    shares = entry.take("clip_fraction")
    assert statistics["clip_fraction_low"] == pytest.approx(shares["low"], abs=1e-6)
    assert statistics["clip_fraction_high"] == pytest.approx(shares["high"], abs=1e-6)
    assert statistics["clip_fraction"] == pytest.approx(shares["region"], abs=1e-6)
    if "ratio" in entry:
        ratio = case.at_terms(torch.tensor(entry.take("ratio")))
        torch.testing.assert_close((new - old).exp(), ratio, atol=0, rtol=1e-3)
    if "per_token_kl" in entry:
        check_terms(case, entry, losses.loss, losses.kl)
    if "mean_kl" in entry and (kl := entry.take("mean_kl")) is not None:
        assert statistics["kl"] == pytest.approx(kl, abs=LOSS)
    check_gradients(gradients, entry.take("gradient"), case.vectors.expected)


def check_terms(case: Case, entry: Entry, losses: Tensor, kl: Tensor | None) -> None:
    """Each term's loss with its penalty, and its KL estimate."""
    wanted, given = case.at_terms(torch.tensor(entry.take("per_token_loss"))), entry.take("per_token_kl")
    assert (kl is None) == (given is None)
    if kl is not None:
        torch.testing.assert_close(kl, case.at_terms(torch.tensor(given)), atol=LOG_PROBABILITY, rtol=2e-3)
        strength = case.reading.kl_share / case.reading.share
        losses = losses + strength * kl
    torch.testing.assert_close(losses, wanted, atol=2e-3, rtol=2e-3)


def check_gradients(found: Mapping[str, Tensor], wanted: dict[str, Any], said: dict[str, Any]) -> None:
    mask = said["mask_token_id"]
    # The published embedding has it as `padding_idx`.
    found["model.embed_tokens.weight"][said["pad_token_id"]] = 0
    with Entry(wanted) as entry:
        norms = entry.take("l2_norm_by_parameter")
        assert set(norms) == set(found)
        for name, norm in norms.items():
            assert float(found[name].norm()) == pytest.approx(norm, rel=GRADIENT, abs=1e-6), name
        whole = torch.stack([slope.norm() for slope in found.values()]).norm()
        wanted_norm = entry.take("l2_norm")
        # Equal rewards without a penalty have no slope at all.
        assert float(whole) == pytest.approx(wanted_norm, rel=GRADIENT, abs=0 if wanted_norm else 1e-6)
        for rows, key, name in (
            ([0, 1, 2], "lm_head_rows_0_1_2", "lm_head.weight"),
            ([mask], "embed_tokens_mask_row", "model.embed_tokens.weight"),
        ):
            slope = torch.tensor(entry.take(key)).view(len(rows), -1)
            allowed = GRADIENT * float(slope.norm()) or 1e-6
            assert float((found[name][rows] - slope).norm()) < allowed, key


def advantages_of(objective: PolicyObjective, entry: Entry, group_size: int) -> Tensor:
    """The entry's, which the objective must find, too.

    Ours of equal rewards are 0, where published float32 divides what it rounded off by 1e-4.
    """
    rewards = torch.tensor(entry.take("rewards"), dtype=torch.float64).view(-1, group_size)
    found = objective.advantages(rewards)
    wanted = torch.tensor(entry.take("advantages"), dtype=torch.float64)
    equal = (rewards == rewards[:, :1]).all(-1)
    assert not found[equal].any()
    torch.testing.assert_close(found[~equal], wanted.view_as(found)[~equal], atol=2e-6, rtol=0)
    return wanted


def penalty(beta: float, **options: Any) -> dict[str, Any]:
    """The options of a KL penalty; without one they would have no effect."""
    return {"beta": beta, **(options if beta else {})}


@golden_entries("coupled_grpo", "policy")
def test_coupled_grpo(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry(entry) as case:
        entry_name, ratio = case.take("name"), case.take("mask_ratio")
        scaled = case.take("advantages_scaled")
        objective = policy_objective(
            "coupled-grpo",
            epsilon_low=case.take("epsilon_low"),
            epsilon_high=case.take("epsilon_high"),
            advantages="leave-one-out-scaled" if scaled else "leave-one-out",
            **penalty(case.take("beta")),
        )
        counted = torch.tensor(case.take("completion_mask"))
        rollouts = rollouts_of(vectors, case, counted)
        rows, (answers, completion) = rollouts.rows, counted.shape
        drawn = torch.zeros_like(rows.tokens)
        drawn[:, -completion:] = torch.tensor(case.take("masked"))
        share = torch.full((answers,), (ratio - 0.2) / 0.6, dtype=torch.float64)
        noise = GivenNoise(rows.tokens.shape[1], {"ratio": share}, {"mask": masking(drawn)})
        [reading] = objective.readings(rollouts, noise)
        versions = torch.cat([torch.tensor(canvas) for canvas in case.take("versions").values()])
        assert torch.equal(reading.inputs.tokens, versions), entry_name
        found = Case(vectors, objective, rollouts, reading)
        check_versions(found, case)
        assert len(reading.row) == float(reading.count) == case.take("token_count")
        check_update(found, case, advantages_of(objective, case, case.take("group_size")))
        case.take("metrics_as_logged")  # wrong: shapes that broadcast


def check_versions(case: Case, entry: Entry) -> None:
    """Each canvas's own log-probabilities, and its weight."""
    reading, module = case.reading, case.vectors.model.lm
    nll = module.negative_log_likelihood(reading.inputs, reading.targets, reading.scored).detach()
    rows, columns = reading.scored.nonzero(as_tuple=True)
    answers = len(case.rollouts.rows.tokens)
    weights, versions = entry.take("version_weights"), entry.take("version_logps")
    for number, wanted in enumerate(versions.values()):
        of_version = rows // answers == number
        values = torch.tensor(wanted)
        prompt = case.rollouts.rows.tokens.shape[1] - values.shape[1]
        there = values[rows[of_version] % answers, columns[of_version] - prompt]
        torch.testing.assert_close(-nll[of_version], there, atol=LOSS, rtol=0)
        due = torch.full((int(of_version.sum()),), weights[number] / 2, dtype=torch.float64)
        torch.testing.assert_close(reading.weight[of_version], due, atol=1e-7, rtol=1e-7)


@golden_entries("diffu_grpo", "policy")
def test_diffu_grpo(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry(entry) as case:
        case.take("name")
        epsilon = case.take("epsilon")
        objective = policy_objective(
            "diffu-grpo",
            epsilon_low=epsilon,
            epsilon_high=epsilon,
            guidance_scale=case.take("cfg_scale"),
            prompt_mask_probability=case.take("mask_probability_prompt"),
            **penalty(case.take("beta")),
        )
        rollouts = rollouts_of(vectors, case, torch.tensor(case.take("completion_mask")))
        found = Case(vectors, objective, rollouts, prompt_masked_reading(objective, rollouts, case))
        assert len(found.reading.row) == float(found.reading.count) == case.take("token_count")
        check_update(found, case, advantages_of(objective, case, case.take("group_size")))
        case.take("metrics_as_logged")  # wrong: the side that isn't clipped


def prompt_masked_reading(objective: PolicyObjective, rollouts: Rollouts, entry: Entry) -> PolicyReading:
    """With the entry's masked prompts; what is hidden may stand there as it likes."""
    tokens = rollouts.rows.tokens
    drawn = torch.zeros_like(tokens)
    prompt_masked = torch.tensor(entry.take("prompt_masked"))
    drawn[:, : prompt_masked.shape[1]] = prompt_masked
    [reading] = objective.readings(rollouts, GivenNoise(tokens.shape[1], {}, {"prompt": masking(drawn)}))
    seen = rollouts.rows.segments >= 0
    canvas = torch.tensor(entry.take("canvas"))
    assert torch.equal(reading.inputs.tokens[: len(tokens)][seen], canvas[seen])
    return reading


@golden_entries("dllm_grpo", "policy")
def test_dllms_grpo(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry(entry) as case:
        case.take("name")
        objective = policy_objective(
            "diffu-grpo",
            epsilon_low=case.take("epsilon_low"),
            epsilon_high=case.take("epsilon_high"),
            normalisation=case.take("loss_type"),
            hide_after_end=True,
            prompt_mask_probability=case.take("mask_probability_prompt"),
            advantages="z-score" if case.take("advantages_scaled") else "group-mean",
            **penalty(case.take("beta")),
        )
        attended = torch.tensor(case.take("attention_mask")).bool()
        counted = torch.tensor(case.take("completion_mask"))
        hidden = ~attended
        hidden[:, -counted.shape[1] :] = False  # of the completion, by `hide_after_end`
        longest = case.take("max_completion_length")
        rollouts = rollouts_of(vectors, case, counted, hidden, longest)
        found = Case(vectors, objective, rollouts, prompt_masked_reading(objective, rollouts, case))
        assert torch.equal(found.reading.inputs.segments >= 0, attended)
        assert len(found.reading.row) == case.take("token_count")
        check_update(found, case, advantages_of(objective, case, case.take("group_size")))
        case.take("metrics_as_logged")


@golden_entries("dllm_rl", "policy")
def test_dllm_rl_on_dream(vectors: Vectors, entry: dict[str, Any]) -> None:
    with Entry(entry) as case:
        case.take("name")
        pairs, draws = case.take("method") == "coupled", case.take("mask_times_per_sample")
        epsilon = case.take("epsilon")
        objective = policy_objective(
            "coupled-grpo",
            masks="pairs" if pairs else "random",
            draws=draws,
            ratio_range=(0.1, 0.9),
            post_num=case.take("post_num"),
            normalisation="dllm_rl",
            epsilon_low=epsilon,
            epsilon_high=epsilon,
            **penalty(case.take("beta"), kl_estimator=case.take("kl_estimator"), kl_to="old"),
        )
        padding = case.take("pad_token_id")
        prompts, completions = torch.tensor(entry["prompt_ids"]), torch.tensor(entry["completion_ids"])
        assert case.take("prompt_padding_hidden")
        hidden = torch.cat([prompts == padding, torch.zeros_like(completions).bool()], dim=1)
        rollouts = rollouts_of(vectors, case, completions != padding, hidden)
        readings = objective.readings(rollouts, dllm_rl_noise(rollouts, case, draws))
        check_dllm_rl(vectors, objective, rollouts, readings, case)


def dllm_rl_noise(rollouts: Rollouts, entry: Entry, draws: int) -> GivenNoise:
    """Masks of [answers x draws], those of an answer one after the other."""
    tokens = rollouts.rows.tokens
    masks = torch.tensor(entry.take("drawn_masks")).view(len(tokens), draws, -1)
    rates = (torch.tensor(entry.take("drawn_rates"), dtype=torch.float64) - 0.1) / 0.8
    by_token = {}
    for draw in range(draws):
        drawn = torch.zeros_like(tokens)
        drawn[:, -masks.shape[2] :] = masks[:, draw]
        by_token[f"mask-{draw}"] = masking(drawn)
    by_row = {f"ratio-{draw}": rates.view(-1, draws)[:, draw] for draw in range(draws)}
    return GivenNoise(tokens.shape[1], by_row, by_token)


def published_rows(readings: Sequence[PolicyReading], answers: int) -> list[Tensor]:
    """Of each draw's reading: where its rows stand in the published batch; -1 where nothing is scored.

    Ours are m of all answers, then the complement of all; theirs are an answer's side by side, draw by draw.
    """
    scored = torch.stack([reading.scored.any(-1).view(-1, answers) for reading in readings])
    batch = scored.permute(2, 0, 1)  # [answers, draws, views]
    places = torch.where(batch, (batch.flatten().cumsum(0) - 1).view_as(batch), -1)
    return [of_draw.flatten() for of_draw in places.permute(1, 2, 0)]


def check_dllm_rl(
    vectors: Vectors,
    objective: PolicyObjective,
    rollouts: Rollouts,
    readings: Sequence[PolicyReading],
    entry: Entry,
) -> None:
    """All draws' readings, which the published code has as rows of one batch."""
    answers, canvases = len(rollouts.rows.tokens), torch.tensor(entry.take("canvas"))
    masked, row_of = torch.tensor(entry.take("masked")).bool(), torch.tensor(entry.take("row_of"))
    places = published_rows(readings, answers)
    order = torch.cat(places)
    there = order >= 0
    order = order[there]
    assert sorted(order.tolist()) == list(range(len(canvases)))
    seen = rollouts.rows.segments[row_of[order]] >= 0
    read = torch.cat([reading.inputs.tokens for reading in readings])[there]
    assert torch.equal(read[seen], canvases[order][seen])
    scored = torch.cat([reading.scored for reading in readings])[there][:, -masked.shape[1] :]
    assert torch.equal(scored, masked[order])
    count = sum(float(reading.count) for reading in readings)
    given = torch.tensor(entry.take("answer_advantages"), dtype=torch.float64)
    assert torch.equal(given[row_of], torch.tensor(entry.take("advantages"), dtype=torch.float64))
    published = {key: torch.tensor(entry.take(key)) for key in ("per_token_logps", "old_per_token_logps")}
    clipped, ratio = torch.tensor(entry.take("clipped")), torch.tensor(entry.take("ratio"))
    module = vectors.model.lm.module
    policy = kl = 0.0
    parts, gradients = list[PolicyStatistics](), dict[str, Tensor]()
    for at, reading in zip(places, readings, strict=True):
        at = at[at >= 0]
        terms = masked[at]
        new = log_probabilities(module, reading)
        torch.testing.assert_close(
            new, published["per_token_logps"][at][terms].double(), atol=LOG_PROBABILITY, rtol=0
        )
        fixed = FixedTerms(published["old_per_token_logps"][at][terms].double(), reading.of_answers(given))
        losses = objective.losses(new, fixed)
        assert torch.equal((losses.clipped_low | losses.clipped_high).long(), clipped[at][terms])
        torch.testing.assert_close((new - fixed.old).exp(), ratio[at][terms].double(), atol=0, rtol=1e-3)
        policy += float((reading.share * losses.loss).sum()) / count
        kl += 0.0 if losses.kl is None else float((reading.kl_share * losses.kl).sum()) / count
        update = PolicyUpdate(objective, reading, fixed, count)
        loss = module(reading.inputs, reading.targets, reading.scored, update.loss_part)
        for (name, _), slope in zip(
            module.named_parameters(), torch.autograd.grad(loss, list(module.parameters())), strict=True
        ):
            name = name.removeprefix("network.")
            gradients[name] = gradients.get(name, torch.zeros_like(slope)) + slope
        assert update.statistics is not None
        parts.append(update.statistics)
    assert policy == pytest.approx(entry.take("policy_loss"), abs=LOSS)
    assert kl == pytest.approx(entry.take("kl_loss"), abs=LOSS)
    assert policy + kl == pytest.approx(entry.take("loss"), abs=LOSS)
    shares = entry.take("clip_fraction")
    means = PolicyStatistics.joined(parts).means()
    assert means["clip_fraction_low"] == pytest.approx(shares["low"], abs=1e-6)
    assert means["clip_fraction_high"] == pytest.approx(shares["high"], abs=1e-6)
    check_gradients(gradients, entry.take("gradient"), vectors.expected)


KINDS = {
    "leave_one_out": "leave-one-out",
    "leave_one_out_scaled": "leave-one-out-scaled",
    "group_mean": "group-mean",
    "z_scored_sample_std": "z-score",
    "z_scored_population_std": "z-score-population",
}


@golden("policy")
def test_advantages(vectors: Vectors) -> None:
    for case in vectors.expected["advantages"]["groups"]:
        with Entry(case) as entry:
            size, name = entry.take("group_size"), entry.take("name")
            rewards = torch.tensor(entry.take("rewards"), dtype=torch.float64).view(-1, size)
            for key, kind in KINDS.items():
                wanted = entry.take(key)
                if size == 1:
                    with pytest.raises(UserError, match="groups of 1"):
                        group_advantages(rewards, kind)  # type: ignore[arg-type]
                    continue
                found = group_advantages(rewards, kind)  # type: ignore[arg-type]
                assert found.flatten().tolist() == pytest.approx(wanted, abs=2e-6), (name, kind)


@golden("policy")
def test_advantages_of_weighted_rewards(vectors: Vectors) -> None:
    with Entry(vectors.expected["advantages"]["several_reward_functions"]) as entry:
        functions, weights = entry.take("reward_functions"), entry.take("weights")
        total = [
            sum(weight * (value or 0) for weight, value in zip(weights, values, strict=True))
            for values in zip(*functions, strict=True)
        ]
        assert total == pytest.approx(entry.take("weighted_sum"))
        rewards = torch.tensor(total, dtype=torch.float64).view(-1, entry.take("group_size"))
        for key in ("leave_one_out", "group_mean"):
            found = group_advantages(rewards, KINDS[key])  # type: ignore[arg-type]
            assert found.flatten().tolist() == pytest.approx(entry.take(key), abs=2e-6)


@golden("policy")
def test_dllm_rls_groups(vectors: Vectors) -> None:
    """Its answers of almost the longest length count as wrong."""
    objective = policy_objective("trace-rl", kept_rewards=(0.2, 0.8))
    with Entry(vectors.expected["advantages"]["dllm_rl_groups"]) as groups:
        cases = [(case, "answers") for case in groups.take("answers")]
        cases += [(case, "unit_tests") for case in groups.take("unit_tests")]
    for case, kind in cases:
        with Entry(case) as entry:
            correct = torch.tensor(entry.take("correctness"), dtype=torch.float64)
            if kind == "answers":
                lengths, longest = torch.tensor(entry.take("response_lengths")), entry.take("max_gen_length")
                correct = correct * (lengths < longest - 5)
            rewards = correct.view(len(correct), -1).mean(1)[None]
            wanted = entry.take("advantages")
            assert objective.advantages(rewards)[0].tolist() == pytest.approx(wanted, abs=2e-6)
            assert objective.kept(rewards).tolist() == [entry.take("kept_for_training")]


@golden("policy")
def test_completions_count_up_to_their_first_end(vectors: Vectors) -> None:
    with Entry(vectors.expected["completion_masks"]) as entry:
        tokens, stop = torch.tensor(entry.take("completion_ids")), entry.take("eos_token_id")
        found = until_first_stop(tokens, torch.ones_like(tokens).bool(), [stop])
        assert found.long().tolist() == entry.take("completion_mask")


@golden("policy")
def test_every_section_is_held(vectors: Vectors) -> None:
    """`rewards` is held by tests/rewards, the checkpoint's `forward` here."""
    with Entry(vectors.expected) as entry:
        for section in (
            "coupled_grpo", "diffu_grpo", "dllm_grpo", "dllm_rl", "advantages", "completion_masks", "rewards",
        ):  # fmt: skip
            entry.take(section)
        for said in ("checkpoint", "attention", "eos_token_id", "pad_token_id"):
            entry.take(said)
        tolerance = entry.take("tolerance")
        assert tolerance == {
            "version_logps": LOSS,
            "per_token_logps": LOG_PROBABILITY,
            "loss": LOSS,
            "gradient_relative": GRADIENT,
        }
        model = vectors.model
        assert model.lm.mask_token_id == entry.take("mask_token_id")
        assert model.lm.logit_shift is entry.take("logit_shift")
        forward = entry.take("forward")
    logits = model.logits(torch.tensor(forward["input_ids"]))
    assert logits.argmax(-1).tolist() == forward["aligned_logits_argmax"]
    torch.testing.assert_close(logits[0], torch.tensor(forward["aligned_logits_row0"]), atol=1e-4, rtol=0)
