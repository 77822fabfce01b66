"""The contract of samplers, as tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from opendllm.core.decoding.decoder import Decoded, decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.testing.contract import PluginContract
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.testing.trained_noise import noise_for
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.noise_schedules import Destination
from opendllm.registries.options import SamplerOptions
from opendllm.registries.samplers import Sampler, Selection, Step
from opendllm.registries.sequences import ModelInputs

DRAWS = 2000


class NoiseBlindLM(TableLM):
    """Its logits hang on the position alone: what a chain of draws from it follows is known exactly."""

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """See `DiffusionLM.hidden_states`."""
        return super().hidden_states(inputs.with_tokens(torch.zeros_like(inputs.tokens)))


class SamplerContract(PluginContract):
    """Fills every mask, keeps every prompt, and decides each row by itself, for all noise that it undoes."""

    kind = "samplers"

    def sampler(self) -> Sampler:
        """The plugin."""
        return self.built(Sampler)  # type: ignore[type-abstract]

    def sampler_options(self) -> type[SamplerOptions]:
        """Its options model."""
        options = self.registration().options
        assert issubclass(options, SamplerOptions)
        return options

    def destinations(self) -> list[Destination]:
        """The noise that it undoes, masks first."""
        return sorted(self.sampler_options().destinations, key=lambda each: (each != "mask", each))

    def lm(self, destination: Destination | None = None) -> TableLM:
        """The tiny model, trained on the first noise that the sampler undoes, or on another."""
        lm = TableLM()
        lm.noise = noise_for(destination or self.destinations()[0])
        return lm

    def canvas(self, lm: TableLM, prefix: int, masks: int, suffix: int = 0) -> torch.Tensor:
        """[1, L]: clean tokens around a gap."""
        left, right = torch.arange(1, prefix + 1), torch.arange(2, suffix + 2)
        gap = torch.full((masks,), lm.mask_token_id)
        return torch.cat([left, gap, right])[None]

    def run(
        self, canvas: torch.Tensor, mask: torch.Tensor | None = None, seeds: int = 0, **options: float
    ) -> Decoded:
        """Decode on the tiny model; `seeds` is the first row's, the others count on."""
        row_seeds = torch.arange(canvas.shape[0]) + seeds
        decoder = DecoderOptions.model_validate(options)
        return decode(self.lm(), canvas, mask, self.sampler(), decoder, row_seeds)

    def trace(self, canvas: torch.Tensor, **options: float) -> list[torch.Tensor]:
        """The canvas before the first and after every step."""
        seeds, decoder = torch.arange(canvas.shape[0]), DecoderOptions.model_validate(options)
        return decode(self.lm(), canvas, None, self.sampler(), decoder, seeds, keep_trace=True).trace

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
            for steps, block_length, temperature in itertools.product(
                (1, 3, 7, 20), (None, 1, 3, 50), (0.0, 0.9)
            ):
                canvas = self.canvas(lm, 4, 7, 2)
                options = DecoderOptions(steps=steps, block_length=block_length, temperature=temperature)
                if self.sampler().edits_length:
                    options = options.model_copy(update={"block_length": None})
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
        assert said == self.sampler().finishes, (
            "finishes is True, and no decision had `finished`: give it in `select`, or leave finishes alone"
        )

    def test_odd_lengths_are_written_too(self) -> None:
        """One mask, none, no prompt, gaps apart, rows that no block length divides, more steps than masks."""
        for destination in self.destinations():
            lm = self.lm(destination)
            apart = self.canvas(lm, 2, 3, 1).repeat(1, 2)
            shapes = [(1, 1, 0), (0, 5, 0), (3, 0, 0), (0, 1, 3), (1, 17, 2)]
            canvases = [apart, *(self.canvas(lm, *shape) for shape in shapes)]
            for canvas, block_length, steps in itertools.product(canvases, (None, 4), (2, 23)):
                options = DecoderOptions(steps=steps, temperature=0.5)
                if block_length is not None and not self.sampler().edits_length:
                    options = options.model_copy(update={"block_length": block_length})
                told = (
                    f"the canvas {canvas.tolist()[0]} in {steps} steps, block_length {options.block_length}"
                )
                try:
                    decoded = decode(lm, canvas, None, self.sampler(), options, torch.tensor([0]))
                except Exception as error:
                    raise AssertionError(
                        f"it was expected to write {told}, and raised {error}: count positions by "
                        f"`step.masked` and `step.editable`, any number of which may be there"
                    ) from error
                left = int(((decoded.tokens == lm.mask_token_id) & decoded.real).sum())
                assert not left, f"{left} masks are left of {told}: write every editable position"

    def test_a_row_does_not_depend_on_its_batch(self) -> None:
        """A short row beside a longer one, padded on either side, is what it is alone."""
        lm = self.lm()
        short, long = self.canvas(lm, 3, 5), self.canvas(lm, 6, 9)
        pad = torch.zeros(1, long.shape[1] - short.shape[1], dtype=torch.int64)
        for temperature in (0.0, 0.8):
            alone = self.run(short, steps=4, temperature=temperature)
            for left in (True, False):
                parts, kept = [pad, short], [torch.zeros_like(pad), torch.ones_like(short)]
                order = (0, 1) if left else (1, 0)
                padded = torch.cat([parts[part] for part in order], dim=1)
                real = torch.cat([kept[part] for part in order], dim=1).bool()
                batch = torch.cat([padded, long])
                mask = torch.cat([real, torch.ones_like(long, dtype=torch.bool)])
                together = self.run(batch, mask, steps=4, temperature=temperature)
                found, wanted = together.tokens[0][together.real[0]], alone.tokens[0][alone.real[0]]
                assert torch.equal(found, wanted), (
                    f"a row alone becomes {wanted.tolist()}, beside a longer one {found.tolist()}: decide by "
                    f"its own positions only, and draw with `step.draws`"
                )

        rows = self.canvas(lm, 3, 12).expand(4, -1)
        together = self.run(rows, steps=5, temperature=1.0)
        for row in range(len(rows)):
            alone = self.run(rows[row : row + 1], seeds=row, steps=5, temperature=1.0)
            found, wanted = together.tokens[row][together.real[row]], alone.tokens[0][alone.real[0]]
            assert torch.equal(found, wanted), (
                f"a row alone becomes {wanted.tolist()}, among three like it {found.tolist()}: decide by its "
                f"own positions only, and draw with `step.draws`"
            )

    def test_the_same_seed_writes_the_same_text(self) -> None:
        """And at a high temperature another seed writes another one, unless it is greedy."""
        canvas = self.canvas(self.lm(), 3, 12)
        first = self.run(canvas, steps=6, temperature=3.0).tokens
        again = self.run(canvas, steps=6, temperature=3.0).tokens
        assert torch.equal(first, again), (
            f"seed 0 wrote {first.tolist()} and then {again.tolist()}: draw with `step.draws`, and keep what "
            f"one step tells the next in `Selection.memory`"
        )
        if not {"temperature", "steps"} & self.sampler_options().without_effect:
            others = [self.run(canvas, seeds=seed, steps=6, temperature=3.0).tokens for seed in range(1, 5)]
            assert any(not torch.equal(first, other) for other in others), (
                f"five seeds wrote the same {first.tolist()} at temperature 3: draw with `step.draws`"
            )

    @torch.no_grad()
    def test_a_position_alone_follows_the_model(self) -> None:
        """Its exact distribution at temperature 1, on a masked canvas and on one of other noise."""
        sampler = self.sampler()
        if not sampler.follows_model or sampler.edits_length:
            return
        for destination in self.destinations():
            lm = NoiseBlindLM()
            lm.noise = noise_for(destination)
            canvas = self.canvas(lm, 2, 1)
            options = DecoderOptions(temperature=1.0, steps=4)
            rows, seeds = canvas.expand(DRAWS, -1), torch.arange(DRAWS)
            tokens = decode(lm, rows, None, sampler, options, seeds).tokens[:, 2]
            logits = lm.project(lm.hidden_states(inputs_from_mask(canvas, None)))[0, 2].double()
            wanted = logits.index_fill(0, torch.tensor([lm.mask_token_id]), -torch.inf).softmax(-1) * DRAWS
            counts = torch.bincount(tokens, minlength=lm.vocab_size).double()
            rare = wanted < 5
            pairs = [
                *zip(counts[~rare], wanted[~rare], strict=True),
                (counts[rare].sum(), wanted[rare].sum()),
            ]
            statistic = sum(float((seen - due) ** 2 / due) for seen, due in pairs)
            # Seven standard deviations above a chi-square's mean: chance alone never gets there.
            bound = len(pairs) + 7 * (2 * len(pairs)) ** 0.5
            assert statistic < bound, (
                f"from a canvas of {destination} noise, {DRAWS} rows gave the tokens {counts.tolist()}, and "
                f"the model's distribution is {[round(each, 1) for each in wanted.tolist()]}: draw from what "
                f"the model says, or set follows_model = False in a sampler that doesn't mean to"
            )

    def test_one_that_decides_first_decides_the_same_with_proposals(self) -> None:
        """If it read them after all, it would see masks."""
        lm, decoder = self.lm(), DecoderOptions(steps=9, temperature=0.9)
        canvas, seeds = self.canvas(lm, 3, 9), torch.tensor([0])
        first, after = self.sampler(), self.sampler()
        after.decides_first = False
        traces = [
            decode(lm, canvas, None, sampler, decoder, seeds, keep_trace=True).trace
            for sampler in (first, after)
        ]
        assert all(torch.equal(a, b) for a, b in zip(*traces, strict=True)), (
            "with decides_first = True it writes something else than without: it reads proposals, so leave "
            "that attribute alone"
        )

    def test_a_decision_is_of_the_canvas_shape(self) -> None:
        """In each of its tensors: of another shape it would broadcast over rows or positions unseen."""
        long, short = self.canvas(self.lm(), 3, 9), self.canvas(self.lm(), 5, 7)
        self.run(torch.cat([long, short, long]), steps=6, temperature=0.9)  # the decoder looks at each

    def test_it_plans_where_it_gives_remaining_masks(self) -> None:
        """Without `plans`, nobody would ask for them."""
        gives = type(self.sampler()).remaining_masks is not Sampler.remaining_masks
        assert self.sampler().plans == gives, (
            f"plans is {self.sampler().plans}: set it to True in a sampler that gives remaining_masks, "
            f"and in no other"
        )

    def test_a_plan_is_kept(self) -> None:
        """`select` leaves as many masks as was planned, step by step and in order: nobody counts them."""
        lm, masks = self.lm(), 9
        canvas = self.canvas(lm, 3, masks)
        for steps in (1, 3, 9, 20):
            trace = self.trace(canvas, steps=steps, temperature=0.9)
            left = [int((snapshot == lm.mask_token_id).sum()) for snapshot in trace]
            if self.sampler().plans:
                planned = self.planned_masks(masks, steps)
                assert left == planned, f"{planned} masks were planned in {steps} steps, and {left} were left"
            assert left[-1] == 0, f"{left[-1]} masks are left after {steps} steps: write every position"

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
            return
        lm = self.lm()
        canvas, stops = self.canvas(lm, 3, 12), torch.tensor(lm.stops)
        rows, seeds = canvas.expand(20, -1), torch.arange(20)
        texts = []
        for early_stop in (False, True):
            decoder = DecoderOptions(block_length=3, temperature=1.5, early_stop=early_stop)
            decoded = decode(lm, rows, None, self.sampler(), decoder, seeds)
            texts.append([_until(row, stops) for row in decoded.tokens[:, 3:]])
        for whole, stopped in zip(*texts, strict=True):
            assert whole == stopped, (
                f"a row is {whole} without early_stop and {stopped} with it: change no position of a block "
                f"that is done, or add early_stop to without_effect"
            )

    def test_planned_masks_fall_to_none(self) -> None:
        """`remaining_masks` has one whole number a step, never rises, and ends at 0."""
        sizes = itertools.product((1, 5, 22), (1, 4, 22, 40)) if self.sampler().plans else ()
        for masks, steps in sizes:
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
