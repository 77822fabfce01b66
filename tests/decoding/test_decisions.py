"""Single decisions of the decoder and of the samplers, on logits that are written down."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats

from opendllm.core.language_model import LanguageModel
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import ModelInputs

from .samplers_by_noise import OF_MASKS, ONE_WAY, with_effect

LOGITS = torch.tensor([0.3, 1.0, 0.2, -0.6, 1.7, 0.9, -1.0])
"""Of the ids 0 ... 6; 0 is the mask."""


@pytest.mark.parametrize("name", ONE_WAY)
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 3},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 1.0, "top_p": 0.8, "top_k": 2},
    ],
)
def test_a_single_mask_follows_the_filtered_distribution(
    name: str, options: dict[str, Any], written_model: Callable[..., LanguageModel]
) -> None:
    draws = 8000
    canvas = torch.zeros(draws, 1, dtype=torch.int64)
    tokens = written_model(LOGITS).sample(canvas, name, seed=1, **options).tokens[:, 0]
    wanted = (LOGITS.double() / options["temperature"]).softmax(-1)
    if "top_p" in options:
        order = wanted.argsort(descending=True)
        before = wanted[order].cumsum(-1) - wanted[order]
        wanted[order[before > options["top_p"]]] = 0
    if "top_k" in options:
        wanted[wanted.argsort(descending=True)[options["top_k"] :]] = 0
    wanted[0] = 0  # the mask counts in the filters, and is never drawn
    wanted = wanted / wanted.sum() * draws
    counts = torch.bincount(tokens, minlength=7)
    assert not counts[wanted == 0].any()
    possible = wanted > 0
    assert stats.chisquare(counts[possible].numpy(), wanted[possible].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("name", ONE_WAY)
def test_temperature_zero_takes_the_best_token(
    name: str, written_model: Callable[..., LanguageModel]
) -> None:
    canvas = torch.tensor([[1, 0, 0, 2, 0]])
    options = with_effect(name, steps=2)
    assert written_model(LOGITS).sample(canvas, name, **options).tokens.tolist() == [[1, 4, 4, 2, 4]]


def commit_order(model: LanguageModel, name: str, masks: int, **options: Any) -> list[int]:
    """Positions in the order in which they were written, one a step."""
    trace = model.sample(torch.zeros(1, masks, dtype=torch.int64), name, trace=True, **options).trace
    return [
        int(position)
        for before, after in itertools.pairwise(trace)
        for position in ((before == 0) & (after != 0))[0].nonzero()[:, 0]
    ]


@pytest.mark.parametrize("name", ["entropy", "low-confidence"])
def test_ties_are_broken_by_position(name: str, written_model: Callable[..., LanguageModel]) -> None:
    options = {"block_length": 4, "steps": 8} if name == "low-confidence" else {"block_length": 1}
    assert commit_order(written_model(LOGITS), name, 8, **options) == list(range(8))


@pytest.mark.parametrize("name", ["entropy", "low-confidence", "topk-margin", "maskgit-plus"])
def test_ties_of_bfloat16_logits_are_broken_by_position_among_the_surest_alone(
    name: str, written_model: Callable[..., LanguageModel]
) -> None:
    """Positions 1, 4 and 6 have equal logits, and so have all others, of which the model is less sure.

    The published code (Fast-dLLM @main `get_transfer_index`, Dream's `_sample`) takes torch's top-k, whose
    order of equals isn't promised; here the first comes first.
    """
    logits = torch.tensor([0.0, 0.0, 1.0, 0.0]).repeat(8, 1)
    logits[[1, 4, 6], 2] = 1.0078125  # the next number of bfloat16
    model = written_model(logits.bfloat16())
    assert commit_order(model, name, 8, steps=8) == [1, 4, 6, 0, 2, 3, 5, 7]


def test_p2_ties_mask_the_earliest_positions(written_model: Callable[..., LanguageModel]) -> None:
    assert commit_order(written_model(LOGITS), "p2", 5, steps=5) == [4, 3, 2, 1, 0]


def sharpened(order: list[int]) -> torch.Tensor:
    """Logits [L, 4] that are surest at the first position in `order`."""
    table = torch.zeros(len(order), 4)
    for rank, position in enumerate(order):
        table[position, 2] = 9.0 - rank
    return table


@pytest.mark.parametrize("name", ["low-confidence", "p2"])
def test_the_surest_are_written_first(name: str, written_model: Callable[..., LanguageModel]) -> None:
    order = [3, 0, 4, 2, 1]
    assert commit_order(written_model(sharpened(order)), name, 5, steps=5) == order


def test_bfloat16_logits_are_cast_up(written_model: Callable[..., LanguageModel]) -> None:
    """Their softmax in bfloat16 would tie at 1, and position would decide."""
    order = [3, 0, 4, 2, 1]
    model = written_model(sharpened(order).bfloat16() + torch.tensor([0.0, 0.0, 3.0, 0.0]).bfloat16())
    saturated = (sharpened(order).bfloat16() + torch.tensor([0.0, 0.0, 3.0, 0.0])).bfloat16().softmax(-1)
    assert len(saturated[:, 2].unique()) < 5
    assert commit_order(model, "low-confidence", 5, steps=5) == order


def test_guidance_is_computed_in_float32(written_model: Callable[..., LanguageModel]) -> None:
    """In bfloat16 the guided logits of ids 1 and 2 would tie."""

    def answer(inputs: ModelInputs) -> torch.Tensor:
        logits = torch.zeros(*inputs.tokens.shape, 3, dtype=torch.bfloat16)
        has_prompt = (inputs.tokens == 1).any(-1)
        logits[..., 1] = torch.where(has_prompt, 1.0, 0.5)[:, None]
        logits[..., 2] = torch.where(has_prompt, 1.0, 0.498046875)[:, None]
        return logits

    tokens = written_model(answer).sample(torch.tensor([[1, 0]]), guidance_scale=0.5).tokens
    assert tokens.tolist() == [[1, 2]]


def test_guidance_masks_the_prompt_and_neutral_is_zero(
    written_model: Callable[..., LanguageModel], golden_model: Callable[[str], LanguageModel]
) -> None:
    seen = []

    def answer(inputs: ModelInputs) -> torch.Tensor:
        seen.append(inputs.tokens.tolist())
        return torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(*inputs.tokens.shape, -1)

    decoded = written_model(answer).sample(
        torch.tensor([[1, 0, 0, 2]]), "entropy", steps=1, guidance_scale=1.0
    )
    assert seen[-2:] == [[[1, 0, 0, 2]], [[0, 0, 0, 0]]]
    assert decoded.forward_passes.tolist() == [2]
    canvas = torch.tensor([[5, 6, *[150] * 8]])
    plain = golden_model("llada").sample(canvas)
    neutral = golden_model("llada").sample(canvas, guidance_scale=0.0)
    guided = golden_model("llada").sample(canvas, guidance_scale=4.0)
    assert torch.equal(plain.tokens, neutral.tokens)
    assert torch.equal(plain.forward_passes, neutral.forward_passes)
    assert not torch.equal(plain.tokens, guided.tokens)


@pytest.mark.parametrize("name", ["entropy", "low-confidence"])
def test_steps_that_commit_nothing_are_skipped(
    name: str, written_model: Callable[..., LanguageModel]
) -> None:
    model = written_model(LOGITS)
    decoded = model.sample(torch.zeros(1, 4, dtype=torch.int64), name, steps=64)
    assert 2 <= int(decoded.forward_passes) <= 4
    assert model.lm.passes == int(decoded.forward_passes)  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{}, {"block_length": 3}, {"grid": "cosine"}])
def test_ancestral_asks_the_model_only_where_it_commits(
    options: dict[str, Any], written_model: Callable[..., LanguageModel]
) -> None:
    """So at temperature 0 and above, a step that commits nothing in any row costs nothing."""
    asked: list[int] = []
    model = written_model(LOGITS)
    project = model.lm.project
    model.lm.project = lambda hidden: asked.append(len(hidden)) or project(hidden)
    canvas = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 2, 0, 1]])
    decoded = model.sample(canvas, "ancestral", trace=True, steps=64, temperature=0.5, **options)
    commits = [(before != after) for before, after in itertools.pairwise(decoded.trace)]
    assert asked == [int(commit.sum()) for commit in commits if commit.any()]
    assert decoded.forward_passes.tolist() == [
        sum(bool(commit[row].any()) for commit in commits) for row in (0, 1)
    ]
    assert model.lm.passes == len(asked)  # type: ignore[attr-defined]
    assert not (decoded.tokens == 0).any()


def test_ancestral_commits_at_the_posteriors_rate(written_model: Callable[..., LanguageModel]) -> None:
    """At t = 1 with s = t - (1 - eps)/S a mask commits with probability 1 - s/t; at the end all do."""
    canvas = torch.zeros(1, 20_000 // 5, dtype=torch.int64)
    trace = written_model(LOGITS).sample(canvas, "ancestral", trace=True, steps=5, temperature=1.0).trace
    left = [int((c == 0).sum()) for c in trace]
    times = torch.linspace(1, 1e-3, 6).tolist()
    for step in range(4):
        survival = times[step + 1] / times[step]
        error = (left[step] * survival * (1 - survival)) ** 0.5
        assert abs(left[step + 1] - left[step] * survival) < 4 * error
    assert left[-1] == 0


def test_order_temperature_draws_without_replacement_from_the_softmax(
    written_model: Callable[..., LanguageModel],
) -> None:
    table = sharpened([2, 0, 1]) / 4
    model = written_model(table)
    scores = -torch.special.entr(table.softmax(-1)).sum(-1).double()
    draws = 4000
    first = model.sample(
        torch.zeros(draws, 3, dtype=torch.int64), "entropy", seed=0, trace=True, steps=3, alg_temp=0.2
    ).trace
    alone = next(c for c in first if (c != 0).any())
    counts = (alone != 0).sum(0)
    single = (alone != 0).sum(-1) == 1
    assert single.all()
    wanted = (scores / 0.2).softmax(-1) * draws
    assert stats.chisquare(counts.numpy(), wanted.numpy()).pvalue > 1e-3


def test_random_remasking_is_uniform(written_model: Callable[..., LanguageModel]) -> None:
    draws = 4000
    trace = (
        written_model(sharpened([0, 1, 2, 3]))
        .sample(
            torch.zeros(draws, 4, dtype=torch.int64),
            "low-confidence",
            trace=True,
            steps=4,
            remasking="random",
        )
        .trace
    )
    assert stats.chisquare((trace[1] != 0).sum(0).numpy()).pvalue > 1e-3


def test_low_confidence_ranks_by_the_models_own_probability(
    written_model: Callable[..., LanguageModel],
) -> None:
    """Tempered and filtered, both positions would be certain."""
    table = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 4.0]])
    options = {"temperature": 0.01, "top_k": 1}
    assert commit_order(written_model(table), "low-confidence", 2, steps=2, **options) == [1, 0]


@pytest.mark.parametrize("name", OF_MASKS)
def test_unknown_options_are_refused_with_a_suggestion(
    name: str, golden_model: Callable[[str], LanguageModel]
) -> None:
    canvas = torch.tensor([[4, 150]])
    with pytest.raises(UserError, match=r"'temperatur'.*did you mean 'temperature'"):
        golden_model("dream").sample(canvas, name, temperatur=1.0)
    for wrong in ({"top_p": 1.5}, {"steps": 0}, {"temperature": -1.0}, {"temperature": float("nan")}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            golden_model("dream").sample(canvas, name, **wrong)


def test_options_and_samplers_that_do_not_exist(golden_model: Callable[[str], LanguageModel]) -> None:
    canvas = torch.tensor([[4, 150]])
    with pytest.raises(UserError, match=r"did you mean 'entropy'"):
        golden_model("dream").sample(canvas, "entropi")
    with pytest.raises(UserError, match="alg_temp has no effect with sampler 'p2'"):
        golden_model("dream").sample(canvas, "p2", alg_temp=0.5)
    with pytest.raises(UserError, match="steps has no effect with sampler 'confidence-threshold'"):
        golden_model("dream").sample(canvas, "confidence-threshold", steps=1)
    with pytest.raises(UserError, match="remasking"):
        golden_model("dream").sample(canvas, "p2", remasking="random")
    with pytest.raises(UserError, match="2 seeds were given for 1 rows"):
        golden_model("dream").sample(canvas, seed=[1, 2])
