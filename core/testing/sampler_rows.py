"""The contract of samplers: a row is what its own tokens and seed make it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch

from opendllm.core.decoding.decoder import decode
from opendllm.core.testing.contract import passed_over
from opendllm.core.testing.sampler_case import SamplerCase
from opendllm.registries.samplers import Selection, Step

SHAPES = ((3, 5), (6, 30), (3, 12), (3, 12), (2, 1))
"""(prompt, masks) of the rows of a batch: narrow ones beside one that is far wider, and two alike."""


class RowTests(SamplerCase):
    """Decides each row by itself, and draws with what it is given."""

    def test_a_row_does_not_depend_on_its_batch(self) -> None:
        """Among others, wider ones too, and padded on either side, it is what it is alone."""
        for destination in self.destinations():
            lm = self.lm(destination)
            canvases = [self.canvas(lm, *shape) for shape in SHAPES]
            width = max(canvas.shape[1] for canvas in canvases)
            for temperature, block_length in ((0.8, 64), (0.0, 16)):
                decoder = self.decoder(steps=4, temperature=temperature, block_length=block_length)
                alone = [self.run(lm, row, decoder, first_seed=n) for n, row in enumerate(canvases)]
                for side in (0, 1):
                    batch = torch.zeros(len(canvases), width, dtype=torch.int64)
                    mask = torch.zeros_like(batch, dtype=torch.bool)
                    for number, row in enumerate(canvases):
                        first = (width - row.shape[1]) * ((number + side) % 2)
                        batch[number, first : first + row.shape[1]] = row[0]
                        mask[number, first : first + row.shape[1]] = True
                    together = self.run(lm, batch, decoder, mask)
                    for number, one in enumerate(alone):
                        found = together.tokens[number][together.real[number]]
                        wanted = one.tokens[0][one.real[0]]
                        assert torch.equal(found, wanted), (
                            f"a row alone becomes {wanted.tolist()}, and in a batch of {len(canvases)} up to "
                            f"{width} wide {found.tolist()}: decide by its own positions only, whatever the "
                            f"canvas's shape, and draw with `step.draws`"
                        )

    def test_the_same_seed_writes_the_same_text(self) -> None:
        """And at a high temperature another seed writes another one, unless it is greedy."""
        for destination in self.destinations():
            lm = self.lm(destination)
            canvas = self.canvas(lm, 3, 12)
            decoder = self.decoder(steps=6, temperature=3.0)
            first, again = (self.run(lm, canvas, decoder).tokens for _ in range(2))
            assert torch.equal(first, again), (
                f"seed 0 wrote {first.tolist()} and then {again.tolist()}: draw with `step.draws`, and keep "
                f"what one step tells the next in `Selection.memory`"
            )
            if {"temperature", "steps"} & self.sampler_options().without_effect:
                continue
            others = [self.run(lm, canvas, decoder, first_seed=seed).tokens for seed in range(1, 3)]
            assert any(not torch.equal(first, other) for other in others), (
                f"three seeds wrote the same {first.tolist()} at temperature 3: draw with `step.draws`"
            )

    def test_one_that_decides_first_decides_the_same_with_proposals(self) -> None:
        """If it read them after all, it would see masks."""
        if not self.sampler().decides_first:
            passed_over("its decides_first is False")
        for destination in self.destinations():
            lm, decoder = self.lm(destination), self.decoder(steps=9, temperature=0.9)
            canvas, seeds = self.canvas(lm, 3, 9), torch.tensor([0])
            first, after = self.sampler(), self.sampler()
            after.decides_first = False
            traces = [
                decode(lm, canvas, None, sampler, decoder, seeds, keep_trace=True).trace
                for sampler in (first, after)
            ]
            assert all(torch.equal(a, b) for a, b in zip(*traces, strict=True)), (
                "with decides_first = True it writes something else than without: it reads proposals, so "
                "leave that attribute alone"
            )

    def test_a_decision_is_of_the_canvas_shape(self) -> None:
        """In each of its tensors: of another shape it would broadcast over rows or positions unseen."""
        for destination in self.destinations():
            lm = self.lm(destination)
            long, short = self.canvas(lm, 3, 9), self.canvas(lm, 5, 7)
            # the decoder looks at each
            self.run(lm, torch.cat([long, short, long]), self.decoder(steps=6, temperature=0.9))

    def test_a_step_is_only_read(self) -> None:
        """What is to change is told in the Selection: the decoder goes on with what it has given."""
        for destination in self.destinations():
            lm, sampler = self.lm(destination), self.sampler()
            decide = sampler.select

            def looked_at(step: Step, decide: Callable[[Step], Selection] = decide) -> Selection:
                before = {
                    field.name: getattr(step, field.name).clone()
                    for field in fields(step)
                    if isinstance(getattr(step, field.name), torch.Tensor)
                }
                selection = decide(step)
                changed = [name for name, value in before.items() if not _same(getattr(step, name), value)]
                assert not changed, (
                    f"`select` was expected to leave its step as it is, and wrote into {changed}: work on "
                    f"copies, and say in the Selection what changes"
                )
                return selection

            sampler.select = looked_at  # type: ignore[method-assign]
            canvas, decoder = self.canvas(lm, 3, 9, 2), self.decoder(steps=4, temperature=0.9)
            decode(lm, canvas, None, sampler, decoder, torch.tensor([0]))


def _same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Also where neither is a number."""
    return bool(((found == wanted) | ((found != found) & (wanted != wanted))).all())
