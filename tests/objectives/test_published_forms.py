"""Details of each published objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import document_positions, document_starts
from opendllm.plugins.objectives.dream import cart_weights
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.objectives import Corruption, Masking
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, TokenRows

PLUGINS = installed_plugins()
LINEAR = PLUGINS.noise_schedules.get("linear").build()


def packed_rows(count: int, segments: list[int]) -> TokenRows:
    layout = torch.tensor(segments).expand(count, -1)
    return TokenRows(
        torch.zeros_like(layout),
        layout,
        document_positions(layout),
        layout != PADDING_SEGMENT,
        torch.arange(count),
    )


def draw(name: str, rows: TokenRows, **options: object) -> tuple[Masking, Corruption]:
    objective = PLUGINS.objectives.get(name).build(options)
    masking = objective.mask(rows, AddressedNoise(2, rows, 64), LINEAR)
    return masking, objective.corrupt(masking, LINEAR, 9)


def test_open_dcoder_masks_but_never_scores_first_tokens() -> None:
    rows = packed_rows(500, [0, 0, 0, 1, 2, 2])
    masking, corruption = draw("open-dcoder", rows)
    starts = document_starts(rows.segments)
    assert bool((masking.masked & starts).any())
    assert not (corruption.scored & starts).any()
    assert torch.equal(corruption.scored, masking.masked & ~starts)
    assert torch.equal(corruption.inputs.tokens == 9, masking.masked)


def test_open_dcoder_ratio_is_one_a_document_and_clamped() -> None:
    rows = packed_rows(5000, [0, 0, 0, 1, 1, 2])
    ratio = draw("open-dcoder", rows)[0].mask_probability
    assert torch.equal(ratio[:, 0], ratio[:, 2])
    assert torch.equal(ratio[:, 3], ratio[:, 4])
    assert bool((ratio[:, 0] != ratio[:, 3]).all())
    assert float(ratio.min()) == 1 / 500
    assert float(ratio.max()) == 499 / 500
    assert float(ratio.mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("form", ["release", "head"])
def test_open_dcoder_loss_and_its_gradient(form: str) -> None:
    """The sureness is held constant: only the cross-entropy passes gradients."""
    rows = packed_rows(4, [0, 0, 0, 0])
    _, corruption = draw("open-dcoder", rows, form=form)
    nll = (torch.rand(len(corruption.weight), dtype=torch.float64) * 3).requires_grad_()
    loss = PLUGINS.objectives.get("open-dcoder").build({"form": form}).loss_sum(nll, corruption)
    one_over_r, sure = corruption.weight, torch.exp(-nll.detach())
    factor = (1.0 if form == "head" else one_over_r) + one_over_r * sure
    torch.testing.assert_close(loss, (factor * nll).sum())
    loss.backward()
    torch.testing.assert_close(nll.grad, factor)


def test_llada_cuts_some_rows_to_a_random_length() -> None:
    rows = packed_rows(20_000, [0, 0, 0, 1, 1, 1, 1, 1])
    masking, corruption = draw("llada", rows)
    lengths = (masking.rows.segments != PADDING_SEGMENT).sum(-1)
    cut = lengths < 8
    # One cut in eight keeps the whole row.
    assert float(cut.double().mean()) == pytest.approx(0.01 * 7 / 8, abs=0.003)
    assert set(lengths[cut].tolist()) == set(range(1, 8))
    beyond = torch.arange(8) >= lengths[:, None]
    assert not masking.masked[beyond].any()
    assert torch.equal(masking.rows.segments, rows.segments.masked_fill(beyond, PADDING_SEGMENT))
    assert float(corruption.count) == float(lengths.sum())


@pytest.mark.parametrize(("share", "lengths"), [(0.0, {8}), (1.0, set(range(1, 9)))])
def test_llada_share_of_cut_rows_is_an_option(share: float, lengths: set[int]) -> None:
    masking, _ = draw("llada", packed_rows(500, [0] * 8), random_length_probability=share)
    assert set((masking.rows.segments != PADDING_SEGMENT).sum(-1).tolist()) == lengths


def test_llada_sft_cuts_no_row() -> None:
    masking, _ = draw("llada", packed_rows(3000, [0] * 8), form="sft")
    assert set((masking.rows.segments != PADDING_SEGMENT).sum(-1).tolist()) == {8}


def test_llada_sft_counts_only_documents_with_an_answer() -> None:
    rows = packed_rows(5, [0, 0, 1, 1, 1, 2])
    answers = torch.tensor([False, True, False, False, False, True])  # the second document is all prompt
    _, corruption = draw("llada", replace(rows, maskable=answers.expand(5, -1)), form="sft")
    assert float(corruption.count) == 5 * 2


def test_bd3lm_draws_one_time_a_block() -> None:
    rows = packed_rows(50, [0] * 6 + [1] * 4)
    blocks = AttentionPattern("block-causal", 4).blocks(rows.positions)
    time = draw("bd3lm", replace(rows, blocks=blocks))[0].time
    for first, last in ((0, 3), (4, 5), (6, 9)):
        assert torch.equal(time[:, first : last + 1], time[:, first : first + 1].expand(-1, last - first + 1))
    assert bool((time[:, [0, 4, 6]].diff() != 0).all())


def test_llada_probability_pairs_with_its_weight() -> None:
    masking, corruption = draw("llada", packed_rows(3000, [0] * 4))
    probability = masking.mask_probability
    assert 1e-3 <= float(probability.min()) < 5e-3
    assert 0.995 < float(probability.max()) <= 1
    torch.testing.assert_close(corruption.weight, 1 / probability[masking.masked])


@pytest.mark.parametrize(("weighting", "weight"), [("1/t", lambda t: 1 / t), ("1-t", lambda t: 1 - t)])
def test_dream_weights(weighting: str, weight: Callable[[Tensor], Tensor]) -> None:
    masking, corruption = draw("dream", packed_rows(50, [0] * 6), weighting=weighting)
    torch.testing.assert_close(corruption.weight, weight(masking.mask_probability[masking.masked]))


@pytest.mark.parametrize("name", ["mdlm", "dream"])
def test_times_are_between_a_thousandth_and_one(name: str) -> None:
    """The reciprocal of a time has no larger weight than 1000."""
    masking, corruption = draw(name, packed_rows(20_000, [0] * 4))
    assert 1e-3 <= float(masking.time.min()) < 1.2e-3
    assert 0.9999 < float(masking.time.max()) <= 1
    assert float(corruption.weight.max()) <= 1000


def test_dream_cart_has_no_reciprocal_time() -> None:
    rows = packed_rows(50, [0, 0, 0, 1, 1, -1])
    masking, corruption = draw("dream", rows, weighting="cart", cart_p=0.3)
    torch.testing.assert_close(
        corruption.weight, cart_by_hand(masking.masked, rows.segments, 0.3)[masking.masked]
    )


def cart_by_hand(masked: torch.Tensor, segments: torch.Tensor, p: float) -> torch.Tensor:
    """The O(L^2) sum over the unmasked tokens of the same document."""
    rows, length = masked.shape
    weights = torch.zeros(rows, length, dtype=torch.float64)
    for row in range(rows):
        for i in range(length):
            for j in range(length):
                same = segments[row, i] == segments[row, j] != PADDING_SEGMENT
                if same and i != j and not masked[row, j]:
                    weights[row, i] += 0.5 * p * (1 - p) ** (abs(i - j) - 1)
    return weights


@given(
    row=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20),
    padding=st.integers(0, 3),
    p=st.sampled_from([0.1, 0.3, 0.8]),
)
def test_cart_within_documents(row: list[tuple[bool, bool]], padding: int, p: float) -> None:
    starts = torch.tensor([[begins for begins, _ in row]]).long()
    segments = torch.cat([starts.cumsum(-1), torch.full((1, padding), PADDING_SEGMENT)], dim=-1)
    masked = torch.tensor([[hidden for _, hidden in row] + [False] * padding])
    found = cart_weights(masked, segments, p)
    torch.testing.assert_close(found[masked], cart_by_hand(masked, segments, p)[masked])


def test_ar_scores_all_but_first_tokens_and_hides_nothing() -> None:
    rows = packed_rows(3, [0, 0, 1, 1, 1, -1])
    _, corruption = draw("ar", rows)
    assert corruption.scored[0].int().tolist() == [0, 1, 0, 1, 1, 0]
    assert torch.equal(corruption.inputs.tokens, rows.tokens)


@pytest.mark.parametrize("name", PLUGINS.objectives.names())
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="weigthing"):
        PLUGINS.objectives.get(name).build({"weigthing": 1})
