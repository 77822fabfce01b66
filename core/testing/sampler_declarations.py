"""The contract of samplers: what a sampler declares of itself, and of the decoder's options, is so."""

from __future__ import annotations

import itertools

import torch

from opendllm.core.testing.sampler_case import SamplerCase
from opendllm.registries.samplers import Sampler

ROWS = 6
OTHERWISE = {"steps": (2, 9), "alg_temp": (0.0, 20.0)}
"""Two values of each decoder option that a sampler reads, or doesn't."""


class DeclarationTests(SamplerCase):
    """Options without effect, times and steps."""

    def test_options_that_it_takes_have_an_effect(self) -> None:
        """Steps and the temperature of the order: whoever sets one in vain has to be told."""
        declared = self.sampler_options().without_effect
        base = self.decoder(steps=4, temperature=0.0 if "temperature" in declared else 0.9)
        for destination, name in itertools.product(self.destinations(), OTHERWISE.keys() - declared):
            lm = self.lm(destination)
            rows = self.canvas(lm, 3, 12).expand(ROWS, -1)
            first, second = (
                self.trace(lm, rows, base.model_copy(update={name: value})) for value in OTHERWISE[name]
            )
            same = len(first) == len(second) and all(map(torch.equal, first, second))
            assert not same, (
                f"{name} {OTHERWISE[name][0]} and {OTHERWISE[name][1]} write the same, step by step, and "
                f"another text or order was expected: read `step.{name}`, or add {name} to without_effect, "
                f"so that nobody sets it in vain"
            )

    def test_it_plans_where_it_gives_remaining_masks(self) -> None:
        """Without `plans`, nobody would ask for them."""
        gives = type(self.sampler()).remaining_masks is not Sampler.remaining_masks
        assert self.sampler().plans == gives, (
            f"plans is {self.sampler().plans}: set it to True in a sampler that gives remaining_masks, "
            f"and in no other"
        )

    def test_a_block_has_a_step_at_least(self) -> None:
        """`block_steps` gives a whole number from 1 on, for a block of any size."""
        for size in (1, 5, 22):
            for steps in (None, 1, 7):
                found = self.sampler().block_steps(size, steps)
                assert type(found) is int and found >= 1, (  # noqa: PT018 (one thing)
                    f"block_steps({size}, {steps}) gave {found!r}, and a whole number from 1 on was "
                    f"expected: give the most steps that such a block takes"
                )

    def test_times_fall_from_step_to_step(self) -> None:
        """`times` gives float64 [B] from 1 to 0, or None: a model that reads the time is told them."""
        steps = torch.full((5,), 5)
        found = self.sampler().times(torch.arange(5), steps)
        if found is None:
            return
        came = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
        assert found.dtype == torch.float64 and list(found.shape) == [5], (  # noqa: PT018 (one thing)
            f"times gave {came}, and float64 [5] was expected: one time a row"
        )
        falling = bool((found.diff() <= 0).all()) and 0 <= float(found.min()) <= float(found.max()) <= 1
        assert falling, (
            f"times of five steps are {[round(each, 3) for each in found.tolist()]}, and falling ones within "
            f"[0, 1] were expected: give the time before the step; noise is undone from 1 to 0"
        )
