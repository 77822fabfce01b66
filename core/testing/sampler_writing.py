"""The contract of samplers: everything is written, nothing else is touched, and plans are kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.testing.contract import passed_over
from opendllm.core.testing.sampler_case import SamplerCase
from opendllm.registries.samplers import Selection, Step

WAYS = (
    (1, None, 0.0),
    (1, 3, 0.9),
    (3, 1, 0.9),
    (3, 50, 0.0),
    (7, None, 0.9),
    (7, 3, 0.0),
    (20, None, 0.9),
)
"""Steps, block length and temperature."""
SHAPES = ((2, 3, 1), (1, 1, 0), (0, 5, 0), (3, 0, 0), (0, 1, 3), (1, 17, 2))
"""(tokens left, masks, tokens right) of rows; of the first, two stand side by side."""


class WritingTests(SamplerCase):
    """Fills every mask, keeps every prompt, and is done when it says so."""

    def planned_masks(self, masks: int, steps: int) -> list[int]:
        """How many should be left before the first and after every step that changes something."""
        sampler, left = self.sampler(), [masks]
        for remaining in sampler.remaining_masks(masks, steps):
            if left[-1] > 0 and (sampler.revises or remaining != left[-1]):
                left.append(remaining)
        return left

    def test_no_mask_remains_and_no_prompt_is_edited(self) -> None:
        """At any number of steps, block length and temperature, for completion and infilling."""
        for destination in self.destinations():
            lm = self.lm(destination)
            for steps, block_length, temperature in WAYS:
                canvas = self.canvas(lm, 4, 7, 2)
                options = self.decoder(steps=steps, block_length=block_length, temperature=temperature)
                decoded = decode(lm, canvas, None, self.sampler(), options, torch.tensor([0]))
                told = f"with {steps} steps, block_length {block_length}, temperature {temperature}"
                left = int(((decoded.tokens == lm.mask_token_id) & decoded.real).sum())
                assert not left, f"{left} masks are left {told}: write every editable position"
                prompt = decoded.tokens[decoded.real & ~decoded.written].tolist()
                given = canvas[canvas != lm.mask_token_id].tolist()
                assert prompt == given, f"the prompt {given} became {prompt} {told}: leave it alone"

    def test_it_is_finished_when_it_says_so(self) -> None:
        """What it calls done has no mask left; and it says so in the end, if it declares that it does."""
        said = False
        for destination, steps in itertools.product(self.destinations(), (3, 30)):
            lm, sampler, decisions = self.lm(destination), self.sampler(), list[Selection]()
            decide = sampler.select

            def noted(
                step: Step,
                decide: Callable[[Step], Selection] = decide,
                decisions: list[Selection] = decisions,
            ) -> Selection:
                decisions.append(decide(step))
                return decisions[-1]

            sampler.select = noted  # type: ignore[method-assign]
            decoder = DecoderOptions(steps=steps, temperature=0.7)
            decoded = decode(lm, self.canvas(lm, 3, 7), None, sampler, decoder, torch.tensor([0]))
            flags = [decision.finished for decision in decisions if decision.finished is not None]
            said |= bool(flags)
            left = int(((decoded.tokens == lm.mask_token_id) & decoded.real).sum())
            early = bool(flags) and bool(flags[-1].any())
            assert not left, (
                f"{left} of 7 masks are left after {len(decisions)} of {steps} steps, "
                f"{'where it said finished' if early else 'its last'}: be finished only where every position "
                f"is written"
            )
        if self.sampler().finishes:  # the decoder refuses the opposite
            assert said, (
                "finishes is True, and no decision had `finished`: give it in `select`, or leave finishes "
                "alone"
            )

    def test_odd_lengths_are_written_too(self) -> None:
        """One mask, none, no prompt, gaps apart, rows that no block length divides, more steps than masks."""
        for destination in self.destinations():
            lm = self.lm(destination)
            rows = [self.canvas(lm, *shape) for shape in SHAPES]
            rows[0] = rows[0].repeat(1, 2)
            batch = torch.zeros(len(rows), max(row.shape[1] for row in rows), dtype=torch.int64)
            real = torch.zeros_like(batch, dtype=torch.bool)
            for number, row in enumerate(rows):
                batch[number, : row.shape[1]], real[number, : row.shape[1]] = row[0], True
            whole = [(row, None, None, 4) for row in rows[:4]]
            padded = [(batch, real, *way) for way in ((None, 2), (None, 23), (4, 7))]
            for canvas, mask, block_length, steps in [*whole, *padded]:
                options = self.decoder(steps=steps, temperature=0.5, block_length=block_length)
                others = f" and {len(canvas) - 1} others" if len(canvas) > 1 else ""
                told = (
                    f"the canvas {canvas[0].tolist()}{others} in {steps} steps, block_length "
                    f"{options.block_length}"
                )
                try:
                    decoded = decode(lm, canvas, mask, self.sampler(), options, torch.arange(len(canvas)))
                except Exception as error:
                    raise AssertionError(
                        f"it was expected to write {told}, and raised {error}: count positions by "
                        f"`step.masked` and `step.editable`, any number of which may be there"
                    ) from error
                left = int(((decoded.tokens == lm.mask_token_id) & decoded.real).sum())
                assert not left, f"{left} masks are left of {told}: write every editable position"

    def test_a_plan_is_kept(self) -> None:
        """`select` leaves as many masks as was planned, step by step and in order: nobody counts them."""
        if not self.sampler().plans:
            passed_over("its plans is False")
        if "mask" not in self.destinations():
            passed_over("its options' destinations are without masks: there are none to count")
        lm, masks = self.lm("mask"), 9
        for steps in (1, 3, 9, 20):
            trace = self.trace(lm, self.canvas(lm, 3, masks), self.decoder(steps=steps, temperature=0.9))
            left = [int((snapshot == lm.mask_token_id).sum()) for snapshot in trace]
            planned = self.planned_masks(masks, steps)
            assert left == planned, (
                f"{planned} masks were planned in {steps} steps, and {left} were left: commit as many as "
                f"leaves `step.target` of them"
            )

    def test_early_stop_changes_no_text(self) -> None:
        """Where a sampler takes it: up to its end, a row reads the same. Others say that it has no effect."""
        options = self.sampler_options()
        if self.sampler().edits_length:
            lacking = {
                "block_length",
                "cache",
                "cache_delay",
                "cache_refresh",
                "compile",
                "early_stop",
            } - options.without_effect
            assert not lacking, (
                f"rows that change their length are read whole: add {lacking} to without_effect"
            )
        if "early_stop" in options.without_effect:
            passed_over("its options' without_effect has early_stop")
        for destination in self.destinations():
            lm = self.lm(destination)
            canvas, stops = self.canvas(lm, 3, 12), torch.tensor(lm.stops)
            rows, seeds = canvas.expand(20, -1), torch.arange(20)
            texts = []
            for early_stop in (False, True):
                decoder = DecoderOptions(block_length=3, temperature=1.5, early_stop=early_stop)
                decoded = decode(lm, rows, None, self.sampler(), decoder, seeds)
                texts.append([_until(row, stops) for row in decoded.tokens[:, 3:]])
            for whole, stopped in zip(*texts, strict=True):
                assert whole == stopped, (
                    f"a row is {whole} without early_stop and {stopped} with it: change no position of a "
                    f"block that is done, or add early_stop to without_effect"
                )

    def test_planned_masks_fall_to_none(self) -> None:
        """`remaining_masks` has one whole number a step, never rises, and ends at 0."""
        if not self.sampler().plans:
            passed_over("its plans is False")
        for masks, steps in itertools.product((1, 5, 22), (1, 4, 22, 40)):
            planned = self.sampler().remaining_masks(masks, steps)
            told = f"remaining_masks({masks}, {steps}) gave {planned}"
            assert all(type(left) is int for left in planned), f"{told}: give whole numbers"
            assert len(planned) == steps, f"{told}: give one number a step"
            assert planned[-1] == 0, f"{told}: the last is 0"
            falling = sorted([masks, *planned], reverse=True) == [masks, *planned]
            assert falling, f"{told}: they must not rise"
            assert planned == self.sampler().remaining_masks(masks, steps), f"{told}, and then another plan"


def _until(row: torch.Tensor, stops: torch.Tensor) -> list[int]:
    """The tokens before the first of `stops`."""
    ends = torch.isin(row, stops).nonzero()
    kept: list[int] = (row[: int(ends[0])] if len(ends) else row).tolist()
    return kept
