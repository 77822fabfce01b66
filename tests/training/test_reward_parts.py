"""Answers, their order, and the numbers that a phase keeps of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opendllm.core.checkpoints.text_codec import codec_of
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.language_model import LanguageModel
from opendllm.core.manifest.reward_schema import Reference
from opendllm.core.testing.tiny_model import tiny_language_model
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.training.reinforcement.answers import Answer, Writer, part_of, rollouts_of
from opendllm.core.training.reinforcement.figures import answer_figures, answer_sums
from opendllm.core.training.reinforcement.phase import Phase
from opendllm.core.training.reinforcement.problems import ProblemOrder
from opendllm.core.training.reinforcement.reference import FrozenCopy
from opendllm.core.training.reinforcement.term_values import TermValues
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.policies import PolicyObjective, PolicyReading, Rollouts
from opendllm.registries.problems import Problem
from opendllm.registries.sequences import TokenIds

PROBLEMS = [Problem("a", Gap("def f(x):")), Problem("b", Gap("x =", "\n")), Problem("c", Gap("y", length=3))]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_language_model()


def writer_of(model: LanguageModel, sampler: str = "low-confidence") -> Writer:
    tokenizer = model.tokenizer
    assert tokenizer is not None
    codec = codec_of(tokenizer, [model.lm.mask_token_id, *model.lm.stops])
    chosen = installed_plugins().samplers.get(sampler).build()
    options = DecoderOptions(max_new_tokens=6, steps=3, temperature=1.0)
    return Writer(model.lm, tokenizer, codec, chosen, options, False, 4)


def answers(model: LanguageModel, phase: int = 0, own: range = range(12)) -> list[Answer]:
    order = ProblemOrder(PROBLEMS, seed=3, group_size=4, answers=12)
    found = writer_of(model).write(order.questions(phase, own))
    return sorted(found, key=lambda each: each.question.number)


def test_answers_to_a_prompt_differ_from_each_other_and_in_each_phase(model: LanguageModel) -> None:
    first, second = answers(model), answers(model, phase=1)
    for group in range(3):
        own = [each.tokens for each in first[4 * group : 4 * group + 4]]
        assert len({each.question.problem.task_id for each in first[4 * group : 4 * group + 4]}) == 1
        assert len(set(own)) == 4
    assert {each.tokens for each in first}.isdisjoint({each.tokens for each in second})
    assert {each.question.problem.task_id for each in first} == {"a", "b", "c"}  # each once an epoch


def test_an_answer_is_the_same_whoever_writes_it(model: LanguageModel) -> None:
    """One process of three, or one of one: what stands beside it doesn't matter."""
    whole = answers(model)
    for start in (0, 4, 8):
        for ours, theirs in zip(answers(model, own=range(start, start + 4)), whole[start:], strict=False):
            assert ours == theirs


def test_a_small_sets_problem_that_comes_twice_is_answered_twice() -> None:
    order = ProblemOrder(PROBLEMS[:1], seed=3, group_size=2, answers=8)
    questions = order.questions(0, range(8))
    assert len({each.seed for each in questions}) == 8
    assert {each.seed for each in questions}.isdisjoint({each.seed for each in order.questions(1, range(8))})


def test_a_problem_that_cannot_be_put_to_the_model_is_named(model: LanguageModel) -> None:
    writer = writer_of(model)
    with pytest.raises(UserError, match=r"train\.rl: problem 'long' can't be put to the model: prompt has 3"):
        writer.refuse_unfit([*PROBLEMS, Problem("long", Gap("x" * 300))])
    with pytest.raises(UserError, match="problem 'empty' can't be put to the model: prompt is empty"):
        writer.refuse_unfit([Problem("empty", Gap(""))])


def test_rows_hold_prompt_answer_and_what_follows(model: LanguageModel) -> None:
    found = answers(model)
    rollouts = rollouts_of(found, model.lm, 6)
    for row, each in enumerate(found):
        ids = [*each.before, *each.tokens, *each.after]
        real = rollouts.rows.segments[row] == 0
        assert rollouts.rows.tokens[row][real].tolist() == ids
        assert rollouts.rows.tokens[row][rollouts.rows.maskable[row]].tolist() == list(each.tokens)
        steps = rollouts.committed_at[row][rollouts.rows.maskable[row]]
        assert steps.tolist() == list(each.committed_at)
        assert 1 <= int(steps.min()) <= int(steps.max()) <= 3
        assert int(rollouts.counted[row].sum()) == each.counted
        assert (rollouts.rows.maskable[row] >= rollouts.counted[row]).all()


def readings_of(model: LanguageModel, rollouts: Rollouts, rows: torch.Tensor) -> Sequence[PolicyReading]:
    objective = installed_plugins().objectives.get("coupled-grpo").build({"masks": "random", "draws": 2})
    assert isinstance(objective, PolicyObjective)
    part = part_of(rollouts, model.lm, rows, 12)
    return objective.readings(part, AddressedNoise(0, part.rows, 12))


@settings(max_examples=6, deadline=None)
@given(
    st.lists(st.integers(1, 11), unique=True, max_size=4),
    st.lists(st.integers(1, 11), unique=True, max_size=4),
)
def test_term_values_are_found_again_by_another_cut(first: list[int], second: list[int]) -> None:
    """Tokens that several draws score have a value in each of them."""
    model = tiny_language_model()
    rollouts = rollouts_of(answers(model), model.lm, 6)

    def cut(at: list[int]) -> list[torch.Tensor]:
        edges = [0, *sorted(at), 12]
        return [torch.arange(a, b) for a, b in itertools.pairwise(edges)]

    def alone(rows: torch.Tensor) -> list[torch.Tensor]:
        """Numbers that hang on nothing but the answer itself."""
        found = []
        for number, reading in enumerate(readings_of(model, rollouts, rows)):
            found.append(rows[reading.row].double() * 1000 + reading.column * 10 + number)
        return found

    parts = [TermValues.of(readings_of(model, rollouts, rows), alone(rows), rows, 12) for rows in cut(first)]
    kept = TermValues.joined(parts)
    for rows in cut(second):
        again = kept.of_answers(rows).of_readings(readings_of(model, rollouts, rows))
        assert all(map(torch.equal, again, alone(rows)))


def test_a_phase_is_read_back_whole(model: LanguageModel, tmp_path: Path) -> None:
    rollouts = rollouts_of(answers(model), model.lm, 6)
    rows = torch.arange(12)
    readings = readings_of(model, rollouts, rows)
    terms = TermValues.of(readings, [each.column.double() for each in readings], rows, 12)
    other = TermValues(terms.values * 2, terms.counts.clone())
    third = TermValues(terms.values * 3, terms.counts.clone())
    phase = Phase(7, rollouts, torch.randn(12).double(), rows % 3 > 0, {1: other}, {0: terms, 1: third})
    phase.save(tmp_path)
    ids = TokenIds(model.lm.vocab_size, model.lm.mask_token_id)
    again = Phase.restore(tmp_path, range(4, 12), ids)
    assert again.number == 7
    assert torch.equal(again.advantages, phase.advantages[4:])
    assert torch.equal(again.learnt, phase.learnt[4:])
    assert torch.equal(again.rollouts.rows.tokens, rollouts.rows.tokens[4:])
    assert torch.equal(again.rollouts.committed_at, rollouts.committed_at[4:])
    assert again.rollouts.max_completion_length == 6
    assert again.old.keys() == {1}
    assert torch.equal(again.reference[0].values, terms.of_answers(rows[4:]).values)
    assert torch.equal(again.reference[1].values, third.of_answers(rows[4:]).values)


def test_the_reference_follows_as_far_as_mix_says() -> None:
    """.6 policy + .4 reference, after every second step."""
    module = torch.nn.Linear(2, 1)
    begun = module.weight.detach().clone()
    reference = FrozenCopy(module, Reference(every=2, mix=0.6), 0, torch.float32)
    engine: Any = None  # asked under ZeRO 3 alone
    with torch.no_grad():
        module.weight += 1
    policy = module.weight.detach().clone()
    for step, wanted in ((1, begun), (2, 0.6 * policy + 0.4 * begun)):
        reference.follow(engine, step)
        with reference.in_place(engine):
            torch.testing.assert_close(module.weight.detach(), wanted)
        assert torch.equal(module.weight, policy)


def test_a_reference_in_bfloat16_follows_by_small_parts_and_is_read_back(tmp_path: Path) -> None:
    """A tenth of the smallest step there is rounds to nothing, and ten of them don't."""
    module = torch.nn.Linear(2, 1, bias=False).bfloat16()
    with torch.no_grad():
        module.weight.fill_(1.0)
    settings = Reference(every=1, mix=0.1)
    reference, again = (FrozenCopy(module, settings, 0, torch.bfloat16) for _ in range(2))
    policy = 1 + 2**-7
    with torch.no_grad():
        module.weight.fill_(policy)
    engine: Any = None  # asked under ZeRO 3 alone
    for step in range(1, 5):
        reference.follow(engine, step)
    with reference.in_place(engine):
        assert torch.equal(module.weight, torch.ones(1, 2).bfloat16())  # not yet nearer to the next number
    reference.save(tmp_path)
    again.restore(tmp_path)
    for step in range(5, 9):
        for each in (reference, again):
            each.follow(engine, step)
    for each in (reference, again):
        with each.in_place(engine):
            assert torch.equal(module.weight, torch.full((1, 2), policy).bfloat16())


def test_a_steps_figures_are_means_over_the_answers_of_all_processes() -> None:
    sums = answer_sums([3, 5], [True, False], [4, 8]) + answer_sums([1], [True], [3])
    assert answer_figures(sums) == {
        "completion_length": 3,
        "ended": pytest.approx(2 / 3),
        "forward_passes": 5,
    }
