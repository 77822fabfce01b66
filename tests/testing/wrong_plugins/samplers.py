"""Samplers with one mistake each."""

from __future__ import annotations

import torch

from opendllm.registries import SamplerOptions
from opendllm.registries.samplers import Confidence, Overwrite, Sampler, Selection, Step

from .wrong import EVERYWHERE, Wrong

OPTIONS = SamplerOptions


class Right(Sampler):
    """A share of the masks at each step, the surest first."""

    confidence: Confidence | None = "probability"

    def __init__(self, options: SamplerOptions) -> None:
        pass

    def select(self, step: Step) -> Selection:
        return Selection(commit=self.surest(step, step.confidence))

    def surest(self, step: Step, confidence: torch.Tensor) -> torch.Tensor:
        masks = step.masked.sum(-1, keepdim=True)
        number = -(-masks // (step.steps - step.index).clamp(min=1)[:, None])
        rank = confidence.masked_fill(~step.masked, -torch.inf).argsort(-1, descending=True).argsort(-1)
        return step.masked & (rank < number)


class WritesIntoThePrompt(Right):
    def select(self, step: Step) -> Selection:
        step.canvas[~step.editable & (step.canvas == 2)] = 3
        return super().select(step)


class LooksAtItsNeighbours(Right):
    """What is sure beside the batch's mean is written."""

    def select(self, step: Step) -> Selection:
        mean = step.confidence[step.masked].mean()
        last = (step.index == step.steps - 1)[:, None]
        return Selection(commit=step.masked & ((step.confidence >= mean) | last))


class DrawsFromTorch(Right):
    def select(self, step: Step) -> Selection:
        return Selection(commit=self.surest(step, torch.rand(step.canvas.shape)))


class KeepsACount(Right):
    """What a run did before stays in the object, where other rows find it."""

    seen = 0

    def select(self, step: Step) -> Selection:
        type(self).seen += 1
        odd = self.seen // 5 % 2 == 1
        return Selection(commit=self.surest(step, -step.confidence if odd else step.confidence))


class FinishesEarly(Right):
    finishes = True

    def select(self, step: Step) -> Selection:
        return Selection(commit=self.surest(step, step.confidence), finished=step.index >= 1)


class NeverSays(Right):
    finishes = True


class NeedsThree(Right):
    """Takes a row for one that has three masks at least."""

    def select(self, step: Step) -> Selection:
        step.confidence.topk(3, -1)
        return super().select(step)


class AlwaysTheSame(Right):
    """Writes down the token beside the proposed one."""

    revises = True

    def select(self, step: Step) -> Selection:
        where = self.surest(step, step.confidence)
        tokens = torch.where(step.tokens + 1 < step.special.mask, step.tokens + 1, 1)
        return Selection(overwrite=Overwrite(where, tokens))


class OneRowForAll(Right):
    def select(self, step: Step) -> Selection:
        commit = self.surest(step, step.confidence)
        return Selection(commit=commit[:1] if len(commit) > 1 else commit)


class PlansInSecret(Right):
    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        return [masks - masks * (step + 1) // steps for step in range(steps)]


class BreaksItsPlan(PlansInSecret):
    plans = True

    def select(self, step: Step) -> Selection:
        return Selection(commit=step.masked & (step.index >= 1)[:, None])


class PlansToRise(Right):
    plans = True

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        return [masks + 1] * (steps - 1) + [0]

    def select(self, step: Step) -> Selection:
        return Selection(commit=step.masked & (step.index == step.steps - 1)[:, None])


RANDOM = frozenset(
    {
        "test_a_row_does_not_depend_on_its_batch",
        "test_early_stop_changes_no_text",
        "test_one_that_decides_first_decides_the_same_with_proposals",
        "test_a_position_alone_follows_the_model",
    }
)
ALL = frozenset(
    {
        "test_a_plan_is_kept",
        "test_no_mask_remains_and_no_prompt_is_edited",
        "test_it_is_finished_when_it_says_so",
        "test_odd_lengths_are_written_too",
    }
)
WRONG = [
    Wrong(WritesIntoThePrompt, "test_no_mask_remains_and_no_prompt_is_edited", "leave it alone"),
    Wrong(
        LooksAtItsNeighbours, "test_a_row_does_not_depend_on_its_batch", "by its own positions only", RANDOM
    ),
    Wrong(
        DrawsFromTorch,
        "test_the_same_seed_writes_the_same_text",
        "draw with `step.draws`",
        RANDOM,
    ),
    Wrong(KeepsACount, "test_the_same_seed_writes_the_same_text", "Selection.memory", RANDOM),
    Wrong(FinishesEarly, "test_it_is_finished_when_it_says_so", "be finished only where", ALL),
    Wrong(NeverSays, "test_it_is_finished_when_it_says_so", "leave finishes alone"),
    Wrong(NeedsThree, "test_odd_lengths_are_written_too", "any number of which may be there"),
    Wrong(AlwaysTheSame, "test_a_position_alone_follows_the_model", "draw from what the model says"),
    Wrong(
        OneRowForAll,
        "test_a_decision_is_of_the_canvas_shape",
        "select gave commit as bool [1, ",
        RANDOM,
    ),
    Wrong(PlansInSecret, "test_it_plans_where_it_gives_remaining_masks", "set it to True"),
    Wrong(BreaksItsPlan, "test_a_plan_is_kept", "masks were planned in"),
    Wrong(PlansToRise, "test_planned_masks_fall_to_none", "they must not rise", EVERYWHERE),
]
