"""Samplers with one mistake each."""

from __future__ import annotations

from typing import ClassVar

import torch

from opendllm.registries import SamplerOptions
from opendllm.registries.noise_schedules import Destination
from opendllm.registries.samplers import Confidence, Overwrite, PositionChunk, Sampler, Selection, Step

from .wrong import Wrong


class OwnOptions(SamplerOptions):
    """Of samplers whose order nothing tempers."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})


OPTIONS = OwnOptions


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


class BesideTheLast(Right):
    """Writes the token beside the proposed one, but for the last mask, where it would be seen alone."""

    revises = True

    def select(self, step: Step) -> Selection:
        where = self.surest(step, step.confidence)
        last = step.masked.sum(-1, keepdim=True) == 1
        beside = torch.where(step.tokens + 1 < step.special.mask, step.tokens + 1, 1)
        return Selection(overwrite=Overwrite(where, torch.where(last, step.tokens, beside)))


class OneNumberForAll(Right):
    """Draws from the distributions, every position of a row by the same number."""

    revises = True
    needs_distributions = True
    confidence = None

    def select(self, step: Step) -> Selection:
        assert step.distributions is not None
        distributions, drawn = (
            step.distributions,
            step.draws.uniform("token")[:, :1].expand(step.canvas.shape),
        )

        def draw(chunk: PositionChunk) -> tuple[torch.Tensor, ...]:
            logits = chunk.logits.index_fill(1, torch.tensor(step.special.mask), -torch.inf)
            weights = distributions.weights(logits).double()
            falls = drawn[chunk.rows, chunk.columns][:, None] * weights.sum(-1, keepdim=True)
            return ((weights.cumsum(-1) <= falls).sum(-1).clamp(max=step.vocab_size - 1),)

        (tokens,) = distributions.read(draw)
        where = self.surest(step, step.draws.uniform("order"))
        where |= step.masked & (step.index == step.steps - 1)[:, None]
        return Selection(overwrite=Overwrite(where, tokens))


class WritesTheBest(Right):
    """Greedy, whatever the temperature, and says nothing of it."""

    revises = True
    needs_distributions = True
    confidence = None

    def select(self, step: Step) -> Selection:
        assert step.distributions is not None
        (tokens,) = step.distributions.read(lambda chunk: (chunk.logits[:, : step.special.mask].argmax(-1),))
        where = self.surest(step, step.draws.uniform("order"))
        where |= step.masked & (step.index == step.steps - 1)[:, None]
        return Selection(overwrite=Overwrite(where, tokens))


class FlatOnes(Right):
    """Draws any token alike."""

    revises = True

    def select(self, step: Step) -> Selection:
        where = self.surest(step, step.confidence)
        tokens = 1 + (step.draws.uniform("token") * (step.special.mask - 1)).long()
        return Selection(overwrite=Overwrite(where, tokens))


class HurriesWhereWide(Right):
    """Commits all at once on wide canvases: a memory's limit, say."""

    def select(self, step: Step) -> Selection:
        return Selection(commit=step.masked) if step.canvas.shape[1] > 20 else super().select(step)


class MeanOfManyRows(Right):
    """In a larger batch, what is sure beside its mean is written."""

    def select(self, step: Step) -> Selection:
        if len(step.canvas) <= 4 or not bool(step.masked.any()):
            return super().select(step)
        mean = step.confidence[step.masked].mean()
        last = (step.index == step.steps - 1)[:, None]
        return Selection(commit=step.masked & ((step.confidence >= mean) | last))


class CountsColumns(Right):
    """Takes the first column for the first token: padding on the left moves it."""

    def select(self, step: Step) -> Selection:
        even = torch.arange(step.canvas.shape[1]) % 2 == 0
        return Selection(commit=self.surest(step, step.confidence + 10.0 * even))


class BothOptions(SamplerOptions):
    """Of a sampler of masks and of uniform noise."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp", "early_stop"})
    destinations: ClassVar[frozenset[Destination]] = frozenset({"mask", "uniform"})


class RightOfBoth(Right):
    """Rewrites every editable position at every step; the last step's proposals stay."""

    proposes = "editable"
    revises = True

    def select(self, step: Step) -> Selection:
        return Selection(overwrite=Overwrite(step.editable, step.tokens))


class SeedlessWithUniform(RightOfBoth):
    """Right with masks; of other noise it draws from torch."""

    def select(self, step: Step) -> Selection:
        if step.noise_schedule is None or step.noise_schedule.destination == "mask":
            return super().select(step)
        kept = (torch.rand(step.tokens.shape) < 0.5) & ~step.masked
        return Selection(overwrite=Overwrite(step.editable & ~kept, step.tokens))


class NeighboursWithUniform(RightOfBoth):
    """Right with masks; of other noise a row waits for its batch."""

    def select(self, step: Step) -> Selection:
        if step.noise_schedule is None or step.noise_schedule.destination == "mask":
            return super().select(step)
        sure = step.confidence >= step.confidence[step.editable].median()
        return Selection(overwrite=Overwrite(step.editable & sure, step.tokens))


class WritesIntoItsStep(Right):
    """Crosses off what it has chosen, in what the decoder keeps."""

    def select(self, step: Step) -> Selection:
        commit = self.surest(step, step.confidence)
        step.confidence[commit] = -torch.inf
        return Selection(commit=commit)


class InVainOptions(SamplerOptions):
    """Of a sampler that reads all of the decoder's options, it says."""


class NoOrder(Right):
    """Takes alg_temp, and never reads it."""


class OneByOne(Right):
    """Takes steps, and commits one by one however many they are."""

    def block_steps(self, size: int, steps: int | None) -> int:
        return size

    def select(self, step: Step) -> Selection:
        first = step.masked & (step.masked.cumsum(-1) == 1)
        return Selection(commit=first)


class NoStepsAtAll(Right):
    """Half of the steps, rounded down."""

    def block_steps(self, size: int, steps: int | None) -> int:
        return (size if steps is None else steps) // 2


class TimesUpwards(Right):
    def times(self, index: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        return index.double() / steps


BATCH = "test_a_row_does_not_depend_on_its_batch"
SEED = "test_the_same_seed_writes_the_same_text"
ALONE = "test_a_position_alone_follows_the_model"
TOGETHER = "test_positions_together_follow_the_model"
EFFECT = "test_options_that_it_takes_have_an_effect"
WRONG = [
    Wrong(WritesIntoThePrompt, "test_no_mask_remains_and_no_prompt_is_edited", "leave it alone"),
    Wrong(LooksAtItsNeighbours, BATCH, "by its own positions only"),
    Wrong(HurriesWhereWide, BATCH, "whatever the canvas's shape"),
    Wrong(MeanOfManyRows, BATCH, "by its own positions only"),
    Wrong(CountsColumns, BATCH, "by its own positions only"),
    Wrong(NeighboursWithUniform, BATCH, "by its own positions only", options=BothOptions),
    Wrong(DrawsFromTorch, SEED, "draw with `step.draws`"),
    Wrong(SeedlessWithUniform, SEED, "draw with `step.draws`", options=BothOptions),
    Wrong(KeepsACount, SEED, "Selection.memory"),
    Wrong(FinishesEarly, "test_it_is_finished_when_it_says_so", "be finished only where"),
    Wrong(NeverSays, "test_it_is_finished_when_it_says_so", "leave finishes alone"),
    Wrong(NeedsThree, "test_odd_lengths_are_written_too", "any number of which may be there"),
    Wrong(AlwaysTheSame, ALONE, "draw from what the model says"),
    Wrong(FlatOnes, ALONE, "draw from what the model says"),
    Wrong(WritesTheBest, ALONE, "set follows_model = False"),
    Wrong(BesideTheLast, TOGETHER, "write the proposals of the position itself"),
    Wrong(OneNumberForAll, TOGETHER, "draw each position by a number of its own"),
    Wrong(OneRowForAll, "test_a_decision_is_of_the_canvas_shape", "select gave commit as bool [1, "),
    Wrong(WritesIntoItsStep, "test_a_step_is_only_read", "wrote into ['confidence']"),
    Wrong(NoOrder, EFFECT, "add alg_temp to without_effect", options=InVainOptions),
    Wrong(OneByOne, EFFECT, "add steps to without_effect"),
    Wrong(NoStepsAtAll, "test_a_block_has_a_step_at_least", "a whole number from 1 on"),
    Wrong(TimesUpwards, "test_times_fall_from_step_to_step", "noise is undone from 1 to 0"),
    Wrong(PlansInSecret, "test_it_plans_where_it_gives_remaining_masks", "set it to True"),
    Wrong(BreaksItsPlan, "test_a_plan_is_kept", "masks were planned in"),
    Wrong(PlansToRise, "test_planned_masks_fall_to_none", "they must not rise"),
]
