"""DreamOn's sampler: masks that expand, masks that go, against its rule written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from opendllm.core.checkpoints.loading import Checkpoint
from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.length_edits import edited
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.language_model import LanguageModel
from opendllm.core.testing.table_lm import TableLM
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Overwrite, Sampler, Selection, Step
from opendllm.registries.sequences import ModelInputs

MASK, EOS, EXPAND = 11, 0, 3  # TableLM's mask and EOS, and any token


def model() -> LanguageModel:
    return LanguageModel(Checkpoint(TableLM(), None, None), "dreamon", installed_plugins())


def reference(row: list[int], budget: int, logits_of: Callable[[list[int]], torch.Tensor]) -> list[int]:
    """One row at temperature 0, in lists."""
    row = list(row)
    editable = [token == MASK for token in row]
    while MASK in row:
        masked = [i for i, token in enumerate(row) if token == MASK and editable[i]]
        logits = logits_of(row)[masked].clone()
        if budget == 0:
            logits[:, EXPAND] = -torch.inf
        certainty = -torch.special.entr(logits.softmax(-1)).sum(-1)
        best = int(certainty.argmax())
        logits[:, MASK] = -torch.inf
        position, token = masked[best], int(logits[best].argmax())
        if token == EXPAND:
            row[position : position + 1] = [MASK, MASK]
            editable[position : position + 1] = [True, True]
            budget -= 1
        elif token == EOS:
            del row[position], editable[position]
        else:
            row[position] = token
    return row


def noisy_tables(seed: int) -> Callable[[list[int]], torch.Tensor]:
    """Logits [L, V] that like to expand and delete, by a hash of the row."""

    def logits_of(row: list[int]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((seed, *row)) % 2**31)
        logits = torch.randn(len(row), 12, generator=generator)
        logits[:, [EXPAND, EOS]] += 1.0
        return logits

    return logits_of


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.sampled_from([1, 2, 5, MASK, MASK]), min_size=1, max_size=9), min_size=1, max_size=3
    ),
    budget=st.integers(0, 6),
    seed=st.integers(0, 999),
    left=st.booleans(),
)
def test_rows_are_written_as_the_rule_says(rows: list[list[int]], budget: int, seed: int, left: int) -> None:
    tables = noisy_tables(seed)

    class Tables(TableLM):
        def hidden_states(self, inputs: ModelInputs) -> Tensor:
            found = torch.zeros(*inputs.tokens.shape, 12)
            for number, (tokens, segments) in enumerate(zip(inputs.tokens, inputs.segments, strict=True)):
                real = segments == 0
                found[number, real] = tables(tokens[real].tolist())
            return found

        def project(self, hidden: Tensor) -> Tensor:
            return hidden

    longest = max(map(len, rows))
    canvas, mask = torch.full((len(rows), longest), 7), torch.zeros(len(rows), longest)
    for number, row in enumerate(rows):
        start = longest - len(row) if left else 0
        canvas[number, start : start + len(row)] = torch.tensor(row)
        mask[number, start : start + len(row)] = 1
    options: dict[str, Any] = {"expand_token_id": EXPAND, "expand_budget": budget}
    lm = LanguageModel(Checkpoint(Tables(), None, None), "dreamon", installed_plugins())
    decoded = lm.sample(canvas, attention_mask=mask, trace=True, **options)
    for number, row in enumerate(rows):
        wanted = reference(row, budget, tables)
        assert decoded.tokens[number][decoded.real[number]].tolist() == wanted
        given_tokens = [token for token in row if token != MASK]
        prompt = decoded.tokens[number][decoded.real[number] & ~decoded.written[number]]
        assert prompt.tolist() == given_tokens
    for canvas in decoded.trace:
        assert bool((canvas[:, 0] >= -1).all())


def fixed_table(favourites: list[int]) -> LanguageModel:
    """Every position of every row wants these tokens, first to last by its column."""

    class Fixed(TableLM):
        def hidden_states(self, inputs: ModelInputs) -> Tensor:
            logits = torch.zeros(*inputs.tokens.shape, 12)
            logits[:, :, 5] = 1.0
            for column in range(inputs.tokens.shape[1]):
                logits[:, column, favourites[min(column, len(favourites) - 1)]] = 9.0 - column / 100
            return logits

        def project(self, hidden: Tensor) -> Tensor:
            return hidden

    return LanguageModel(Checkpoint(Fixed(), None, None), "dreamon", installed_plugins())


def test_the_budget_ends_the_growth() -> None:
    decoded = fixed_table([EXPAND]).sample(torch.tensor([[MASK]]), expand_token_id=EXPAND, expand_budget=5)
    assert int(decoded.real.sum()) == 6
    assert not bool((decoded.tokens[decoded.real] == EXPAND).any())


def test_a_row_never_outgrows_the_model() -> None:
    canvas = torch.full((1, 62), 5)
    canvas[0, 30] = MASK
    decoded = fixed_table([EXPAND]).sample(canvas, expand_token_id=EXPAND)
    assert int(decoded.real.sum()) == 64  # TableLM's context


def test_too_few_steps_leave_no_mask_and_no_expansion() -> None:
    decoded = fixed_table([EXPAND]).sample(
        torch.tensor([[5, MASK, MASK, 6]]), steps=3, expand_token_id=EXPAND
    )
    assert int(decoded.forward_passes) == 3
    assert decoded.tokens[0, decoded.real[0]].tolist()[0] == 5
    assert not bool(torch.isin(decoded.tokens[decoded.real], torch.tensor([MASK, EXPAND])).any())


def test_everything_may_be_deleted() -> None:
    decoded = fixed_table([EOS]).sample(torch.tensor([[5, MASK, MASK, 6]]), expand_token_id=EXPAND)
    assert decoded.tokens[decoded.real].tolist() == [5, 6]
    assert not bool(decoded.written.any())


def test_the_trace_shows_rows_at_their_longest() -> None:
    """Two masks become six, and all of them go: the row ends shorter than it ever was."""

    class GrowsThenShrinks(TableLM):
        longest = 0

        def hidden_states(self, inputs: ModelInputs) -> Tensor:
            self.longest = max(self.longest, int(((inputs.tokens == MASK) & (inputs.segments == 0)).sum()))
            logits = torch.zeros(*inputs.tokens.shape, 12)
            logits[:, :, EXPAND if self.longest < 6 else EOS] = 9.0
            return logits

        def project(self, hidden: Tensor) -> Tensor:
            return hidden

    lm = LanguageModel(Checkpoint(GrowsThenShrinks(), None, None), "dreamon", installed_plugins())
    options: dict[str, Any] = {"expand_token_id": EXPAND, "expand_budget": 8}
    decoded = lm.sample(torch.tensor([[5, MASK, MASK, 6]]), trace=True, **options)
    assert decoded.tokens[decoded.real].tolist() == [5, 6]
    rows = [[token for token in canvas[0].tolist() if token >= 0] for canvas in decoded.trace]
    masks = [2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0]
    assert rows == [[5, *[MASK] * count, 6] for count in masks]


def test_an_expansion_that_the_vocabulary_lacks_is_named() -> None:
    with pytest.raises(UserError, match="token id 151667 is outside the model's vocabulary of 12"):
        model().sample(torch.tensor([[1, MASK]]))


def test_edits_move_what_stands_right_of_them() -> None:
    values = torch.tensor([[1, 2, 3, 4, 0, 0]])
    expand = torch.tensor([[False, True, False, False, False, False]])
    delete = torch.tensor([[False, False, True, False, False, False]])
    assert edited(values, expand, delete, 9, -1).tolist() == [[1, 2, 9, 4, 0, 0]]
    assert edited(values, expand, ~expand & False, 9, -1).tolist() == [[1, 2, 9, 3, 4, 0]]
    assert edited(values, ~delete & False, delete, 9, -1).tolist() == [[1, 2, 4, 0, 0, -1]]


class Scripted(Sampler):
    """Does at each step what a script says: {"insert": ..., "delete": ..., "overwrite": ...} by column."""

    proposes = "editable"
    revises = True
    finishes = True
    edits_length = True

    def __init__(self, *script: dict[str, dict[int, int]], growth: int = 4) -> None:
        self._script = script
        self.growth = growth
        self.seen: list[list[int]] = []
        self.remembered: list[list[int]] = []

    def block_steps(self, size: int, steps: int | None) -> int:
        return len(self._script) + 1

    def select(self, step: Step) -> Selection:
        index = int(step.index[0])
        self.seen.append(step.canvas[0].tolist())
        self.remembered.append(step.memory[0].tolist())
        todo = self._script[index] if index < len(self._script) else {}
        insert = torch.full_like(step.canvas, -1)
        delete, where = torch.zeros_like(step.masked), torch.zeros_like(step.masked)
        tokens = torch.zeros_like(step.canvas)
        for column, token in todo.get("insert", {}).items():
            insert[:, column] = token
        for column in todo.get("delete", {}):
            delete[:, column] = True
        for column, token in todo.get("overwrite", {}).items():
            where[:, column], tokens[:, column] = True, token
        return Selection(
            insert=insert,
            delete=delete,
            overwrite=Overwrite(where, tokens),
            memory=torch.arange(step.canvas.shape[1]).expand_as(step.canvas),
            finished=step.index == len(self._script) - 1,
        )


def scripted(
    canvas: list[int], *script: dict[str, dict[int, int]], **more: int
) -> tuple[list[int], Scripted]:
    sampler = Scripted(*script, **more)
    seeds = torch.tensor([0])
    decoded = decode(TableLM(), torch.tensor([canvas]), None, sampler, DecoderOptions(), seeds)
    return decoded.tokens[decoded.real].tolist(), sampler


def test_tokens_are_put_in_after_any_position_and_taken_out_wherever_they_are_editable() -> None:
    """After a prompt's token too, and after one that goes in the same step; prompts themselves stay."""
    tokens, sampler = scripted(
        [5, MASK, MASK, 6],
        {"overwrite": {1: 7, 2: 8}},
        {"insert": {0: 1, 1: 2}, "delete": {0: 0, 1: 0, 3: 0}},
        {"overwrite": {1: 9}},
    )
    assert tokens == [5, 9, 2, 8, 6]
    assert [row[:5] for row in sampler.seen] == [[5, MASK, MASK, 6, 0], [5, 7, 8, 6, 0], [5, 1, 2, 8, 6]]
    # What is put in has no memory; what moved has kept its own.
    assert sampler.remembered[0][:4] == [-1] * 4
    assert sampler.remembered[2][:5] == [0, -1, -1, 2, 3]


def test_what_a_row_has_no_room_for_is_not_put_in() -> None:
    tokens, _ = scripted([5, MASK, 6], {"overwrite": {1: 7}, "insert": {0: 1, 1: 2, 2: 3}}, growth=2)
    assert tokens == [5, 1, 7, 2, 6]


def test_a_mask_that_is_put_in_at_last_is_left_out() -> None:
    """Nothing stays masked at a block's last step."""

    class Masking(Scripted):
        finishes = False

        def select(self, step: Step) -> Selection:
            return replace(super().select(step), finished=None)

    sampler = Masking({"overwrite": {1: 7}}, {"insert": {1: MASK}})
    sampler.block_steps = lambda size, steps: 2
    decoded = decode(TableLM(), torch.tensor([[5, MASK]]), None, sampler, DecoderOptions(), torch.tensor([0]))
    assert decoded.tokens[decoded.real].tolist() == [5, 7]


def test_a_sampler_that_leaves_masks_is_named() -> None:
    with pytest.raises(UserError, match="sampler Scripted: select left 1 masks: at a block's last step"):
        scripted([5, MASK, 6], {"overwrite": {}})
