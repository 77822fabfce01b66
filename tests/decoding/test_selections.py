"""What a sampler hands back is looked at; and the kit's contract finds samplers that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.testing import SamplerContract
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.ranking import commit_best
from opendllm.registries.errors import UserError
from opendllm.registries.options import SamplerOptions
from opendllm.registries.samplers import Overwrite, Sampler, Selection, Step

MASK = TableLM().mask_token_id
CANVAS = torch.tensor([[3, 4, MASK, MASK, MASK], [MASK, 4, 5, MASK, 6]])


class Planned(Sampler):
    """One mask a step by confidence, as planned; right as it stands."""

    plans = True
    confidence = "probability"

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        return [max(0, masks - index - 1) if index < steps - 1 else 0 for index in range(steps)]

    def select(self, step: Step) -> Selection:
        return Selection(commit=commit_best(step.confidence, step))


def run(sampler: Sampler, **options: float) -> torch.Tensor:
    decoder = DecoderOptions.model_validate(options)
    return decode(TableLM(), CANVAS, None, sampler, decoder, torch.tensor([0, 1])).tokens


def returning(give: Callable[[Selection, Step], Any], **attributes: Any) -> Sampler:
    """A sampler whose `select` gives give(right selection, step)."""

    class Odd(Planned):
        def select(self, step: Step) -> Selection:
            return give(super().select(step), step)

    for name, value in attributes.items():
        setattr(Odd, name, value)
    return Odd()


@pytest.mark.parametrize(
    ("change", "came"),
    [
        (lambda right: right[:1], r"commit as bool \[1, 5\], and bool \[2, 5\] was expected"),
        (lambda right: right[:, :1], r"commit as bool \[2, 1\], and bool \[2, 5\] was expected"),
        (lambda right: right[0], r"commit as bool \[5\], and bool \[2, 5\] was expected"),
        (lambda right: right.long(), r"commit as int64 \[2, 5\], and bool \[2, 5\] was expected"),
        (lambda right: right.float(), r"commit as float32 \[2, 5\]"),
        (lambda right: None, "a Selection without any decision: give `commit`"),
        (lambda right: right.tolist(), "commit as list"),
    ],
)
@pytest.mark.parametrize("decides_first", [False, True])
def test_a_commit_of_another_shape_or_dtype_is_refused(
    change: Callable[[Any], Any], came: str, decides_first: bool
) -> None:
    sampler = returning(lambda right, _: Selection(change(right.commit)), decides_first=decides_first)
    with pytest.raises(UserError, match=f"^sampler Odd: select gave {came}"):
        run(sampler)


BOOL = {"remask": "revises", "delete": "edits_length"}
INT64 = {"insert": "edits_length"}


@pytest.mark.parametrize(("field", "declared"), [*BOOL.items(), *INT64.items()])
def test_so_is_every_other_part_also_where_it_was_not_declared(field: str, declared: str) -> None:
    def nothing(step: Step, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.full(shape, -1) if field in INT64 else torch.zeros(shape).bool()

    def none_of(right: Selection, step: Step) -> Selection:
        parts: dict[str, Any] = {field: nothing(step, step.masked.shape)}
        return replace(right, **parts)

    run(returning(none_of, **{declared: True}))
    with pytest.raises(UserError, match=f"sampler Odd: select gave {field}, which only .* {declared} = True"):
        run(returning(none_of))

    def narrow(right: Selection, step: Step) -> Selection:
        parts: dict[str, Any] = {field: nothing(step, (len(step.masked), 1))}
        return replace(right, **parts)

    with pytest.raises(UserError, match=rf"select gave {field} as \w+ \[2, 1\], and \w+ \[2, 5\] was"):
        run(returning(narrow, **{declared: True}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"finished": torch.zeros(2).bool()}, "select gave finished, which only .* finishes = True"),
        (
            {"overwrite": Overwrite(torch.zeros(2, 5).bool(), torch.zeros(2, 5).long())},
            "select gave overwrite, which only .* revises = True",
        ),
    ],
)
def test_what_a_sampler_has_not_said_that_it_does_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(returning(lambda right, _: replace(right, **given)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"finished": torch.zeros(2, 5).bool()}, r"finished as bool \[2, 5\], and bool \[2\] was expected"),
        ({"memory": torch.zeros(2, 5)}, r"memory as float32 \[2, 5\], and int64 \[2, 5\] was expected"),
        (
            {"overwrite": Overwrite(torch.zeros(2, 5).bool(), torch.zeros(2, 5))},
            r"overwrite.tokens as float32 \[2, 5\], and int64",
        ),
        (
            {"overwrite": Overwrite(torch.zeros(2, 1).bool(), torch.zeros(2, 5).long())},
            r"overwrite.where as bool \[2, 1\], and bool \[2, 5\]",
        ),
    ],
)
def test_numbers_and_words_for_rows_have_their_shapes_too(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(returning(lambda right, _: replace(right, **given), revises=True, finishes=True))


def test_what_is_no_selection_is_refused() -> None:
    with pytest.raises(UserError, match="sampler Odd: select gave Tensor, and a Selection was expected"):
        run(returning(lambda right, _: right.commit))


def test_a_plan_of_another_length_is_refused() -> None:
    class Short(Planned):
        def remaining_masks(self, masks: int, steps: int) -> list[int]:
            return super().remaining_masks(masks, steps)[1:]

    with pytest.raises(UserError, match="sampler Short: remaining_masks gave 3 numbers, and 4 were expected"):
        run(Short(), steps=4)


@pytest.mark.parametrize("wrong", [1.5, 9, -1])
def test_a_plan_of_no_whole_numbers_within_the_block_is_refused(wrong: Any) -> None:
    """Cut to whole numbers, they would be another plan."""

    class Odd(Planned):
        def remaining_masks(self, masks: int, steps: int) -> list[int]:
            return [wrong, *super().remaining_masks(masks, steps)[1:]]

    with pytest.raises(UserError, match=rf"sampler Odd: remaining_masks gave {wrong} of \d masks: give"):
        run(Odd(), steps=4)


@pytest.mark.parametrize("wrong", [0, 2.0, None])
def test_so_are_steps_that_are_no_number_of_them(wrong: Any) -> None:
    class Odd(Planned):
        def block_steps(self, size: int, steps: int | None) -> Any:
            return wrong

    with pytest.raises(UserError, match=f"sampler Odd: block_steps gave {wrong} for a block of"):
        run(Odd(), steps=4)


@pytest.mark.parametrize("where", [torch.tensor([1, 0]), torch.ones(2, 5, dtype=torch.bool)])
def test_what_is_suppressed_is_so_by_row(where: torch.Tensor) -> None:
    """Whole numbers would be taken for the numbers of positions."""

    class Odd(Planned):
        def suppressed_tokens(self, special: Any, room: torch.Tensor, last: torch.Tensor) -> Any:
            return {3: where}

    with pytest.raises(UserError, match=r"sampler Odd: suppressed_tokens gave .* and bool \[2\] was"):
        run(Odd(), steps=4)


def test_a_token_that_is_suppressed_nowhere_is_written() -> None:
    class Nowhere(Planned):
        word: bool | None = None

        def suppressed_tokens(self, special: Any, room: torch.Tensor, last: torch.Tensor) -> Any:
            return {} if self.word is None else dict.fromkeys(range(special.mask), self.word)

    free, nowhere = Nowhere(), Nowhere()
    nowhere.word = False
    assert torch.equal(run(nowhere, steps=4), run(free, steps=4))


def contract_of(build: Callable[[], Sampler]) -> SamplerContract:
    class Contract(SamplerContract):
        def sampler(self) -> Sampler:
            return build()

        def sampler_options(self) -> type[SamplerOptions]:
            return SamplerOptions

    return Contract()


class OneMore(Planned):
    """Commits a position more than it says."""

    def select(self, step: Step) -> Selection:
        return super().select(replace(step, target=(step.target - 1).clamp(min=0)))


class OneLess(Planned):
    """Leaves everything to the last step."""

    def select(self, step: Step) -> Selection:
        return Selection(commit=super().select(step).commit & (step.target == 0)[:, None])


class EveryOther(Planned):
    """Leaves numbers that are all in the plan, but not all of them."""

    def select(self, step: Step) -> Selection:
        fewer = step.target - step.target % 2
        return super().select(replace(step, target=fewer))


class Late(Planned):
    """The plan's numbers, each a step too late."""

    def select(self, step: Step) -> Selection:
        return super().select(replace(step, target=step.masked.sum(-1) - (step.index > 0).long()))


class Unplanned(Planned):
    """Forgets to say that it plans."""

    plans = False


class Rising(Planned):
    """Its plan goes up on the way."""

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        planned = super().remaining_masks(masks, steps)
        return planned[: steps - 1][::-1] + planned[-1:]


class Promising(Sampler):
    """Says that it plans, and doesn't."""

    plans = True

    def select(self, step: Step) -> Selection:
        return Selection(commit=step.masked)


PLANS = (
    "test_it_plans_where_it_gives_remaining_masks",
    "test_a_plan_is_kept",
    "test_planned_masks_fall_to_none",
)


@pytest.mark.parametrize("name", [*PLANS, "test_a_decision_is_of_the_canvas_shape"])
def test_a_right_sampler_passes_the_contract(name: str) -> None:
    getattr(contract_of(Planned), name)()


@pytest.mark.parametrize(
    ("wrong", "found_by"),
    [
        (OneMore, "test_a_plan_is_kept"),
        (OneLess, "test_a_plan_is_kept"),
        (EveryOther, "test_a_plan_is_kept"),
        (Late, "test_a_plan_is_kept"),
        (Unplanned, "test_it_plans_where_it_gives_remaining_masks"),
        (Promising, "test_it_plans_where_it_gives_remaining_masks"),
        (Rising, "test_planned_masks_fall_to_none"),
    ],
)
def test_a_wrong_plan_fails_the_contract(wrong: type[Sampler], found_by: str) -> None:
    with pytest.raises(AssertionError):
        getattr(contract_of(wrong), found_by)()


def test_a_decision_that_broadcasts_fails_the_contract() -> None:
    contract = contract_of(lambda: returning(lambda right, _: Selection(right.commit.any(0, keepdim=True))))
    with pytest.raises(UserError, match="sampler Odd: select gave commit as bool"):
        contract.test_a_decision_is_of_the_canvas_shape()


class Greedier(Planned):
    """Writes the lowest of two ids whatever it drew."""

    revises = True

    def select(self, step: Step) -> Selection:
        chosen = super().select(step).commit
        assert chosen is not None
        return Selection(commit=chosen, overwrite=Overwrite(chosen, step.tokens // 2 * 2))


def test_a_sampler_that_bends_the_models_distribution_fails_the_contract() -> None:
    contract_of(Planned).test_a_position_alone_follows_the_model()
    with pytest.raises(
        AssertionError, match=r"from a canvas of mask noise, 2000 rows gave the tokens.*draw from"
    ):
        contract_of(Greedier).test_a_position_alone_follows_the_model()
