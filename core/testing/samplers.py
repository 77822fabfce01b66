"""The contract of samplers, as tests."""

from __future__ import annotations

import itertools

import torch

from opendllm.core.decoding.decoder import Decoded, decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.testing.contract import PluginContract
from opendllm.core.testing.table_lm import TableLM
from opendllm.registries.options import SamplerOptions
from opendllm.registries.samplers import Sampler


class SamplerContract(PluginContract):
    """Fills every mask, keeps every prompt, and decides each row by itself."""

    kind = "samplers"

    def sampler(self) -> Sampler:
        """The plugin."""
        sampler = self.build()
        assert isinstance(sampler, Sampler)
        return sampler

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
        return decode(TableLM(), canvas, mask, self.sampler(), decoder, row_seeds)

    def trace(self, canvas: torch.Tensor, **options: float) -> list[torch.Tensor]:
        """The canvas before the first and after every step."""
        seeds, decoder = torch.arange(canvas.shape[0]), DecoderOptions.model_validate(options)
        return decode(TableLM(), canvas, None, self.sampler(), decoder, seeds, keep_trace=True).trace

    def planned_masks(self, masks: int, steps: int) -> list[int]:
        """How many should be left before the first and after every step that changes something."""
        sampler, left = self.sampler(), [masks]
        for remaining in sampler.remaining_masks(masks, steps):
            if left[-1] > 0 and (sampler.revises or remaining != left[-1]):
                left.append(remaining)
        return left

    def test_no_mask_remains_and_no_prompt_is_edited(self) -> None:
        """At any number of steps, block length and temperature, for completion and infilling."""
        lm = TableLM()
        for steps in (1, 3, 7, 20):
            for block_length in (None, 1, 3, 50):
                for temperature in (0.0, 0.9):
                    canvas = self.canvas(lm, 4, 7, 2)
                    options = DecoderOptions(steps=steps, block_length=block_length, temperature=temperature)
                    if self.sampler().edits_length:
                        options = options.model_copy(update={"block_length": None})
                    seeds = torch.tensor([0])
                    decoded = decode(lm, canvas, None, self.sampler(), options, seeds)
                    assert not bool((decoded.tokens == lm.mask_token_id).any())
                    prompt = decoded.tokens[decoded.real & ~decoded.written]
                    assert torch.equal(prompt, canvas[canvas != lm.mask_token_id])

    def test_a_row_does_not_depend_on_its_batch(self) -> None:
        """A short row beside a longer one, padded on either side, is what it is alone."""
        lm = TableLM()
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
                assert torch.equal(together.tokens[0][together.real[0]], alone.tokens[0][alone.real[0]])

    def test_the_same_seed_writes_the_same_text(self) -> None:
        """And at a high temperature another seed writes another one."""
        canvas = self.canvas(TableLM(), 3, 12)
        first = self.run(canvas, steps=6, temperature=3.0).tokens
        again = self.run(canvas, steps=6, temperature=3.0).tokens
        assert torch.equal(first, again)
        others = [self.run(canvas, seeds=seed, steps=6, temperature=3.0).tokens for seed in range(1, 5)]
        assert any(not torch.equal(first, other) for other in others)

    def test_one_that_decides_first_decides_the_same_with_proposals(self) -> None:
        """If it read them after all, it would see masks."""
        lm, decoder = TableLM(), DecoderOptions(steps=9, temperature=0.9)
        canvas, seeds = self.canvas(lm, 3, 9), torch.tensor([0])
        first, after = self.sampler(), self.sampler()
        after.decides_first = False
        traces = [
            decode(lm, canvas, None, sampler, decoder, seeds, keep_trace=True).trace
            for sampler in (first, after)
        ]
        assert all(torch.equal(a, b) for a, b in zip(*traces, strict=True))

    def test_a_decision_is_bool_and_of_the_canvas_shape(self) -> None:
        """In each of its tensors: of another shape it would broadcast over rows or positions unseen."""
        long, short = self.canvas(TableLM(), 3, 9), self.canvas(TableLM(), 5, 7)
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
        lm, masks = TableLM(), 9
        canvas = self.canvas(lm, 3, masks)
        for steps in (1, 3, 9, 20):
            trace = self.trace(canvas, steps=steps, temperature=0.9)
            left = [int((snapshot == lm.mask_token_id).sum()) for snapshot in trace]
            if self.sampler().plans:
                planned = self.planned_masks(masks, steps)
                assert left == planned, f"{planned} masks were planned in {steps} steps, and {left} were left"
            assert left[-1] == 0

    def test_early_stop_is_refused_where_eos_is_never_settled(self) -> None:
        """A sampler that revises may mask an EOS again: `without_effect` of its options says so."""
        sampler, options = self.sampler(), self.registration().options
        assert issubclass(options, SamplerOptions)
        if sampler.revises or sampler.edits_length:
            assert "early_stop" in options.without_effect
        if sampler.edits_length:
            assert {"block_length", "cache", "cache_refresh", "compile"} <= options.without_effect

    def test_planned_masks_fall_to_none(self) -> None:
        """`remaining_masks` has one whole number a step, never rises, and ends at 0."""
        sizes = itertools.product((1, 5, 22), (1, 4, 22, 40)) if self.sampler().plans else ()
        for masks, steps in sizes:
            planned = self.sampler().remaining_masks(masks, steps)
            assert all(type(left) is int for left in planned)
            assert len(planned) == steps
            assert planned[-1] == 0
            assert sorted([masks, *planned], reverse=True) == [masks, *planned]
            assert planned == self.sampler().remaining_masks(masks, steps)
