"""What samplers that walk a noise process backwards have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from opendllm.core.toolkit.draws import draw_from
from opendllm.core.toolkit.posteriors import (
    NoiseLevel,
    Posterior,
    guided_logits,
    guided_table,
    level_at,
    no_noise,
    reverse_posterior,
)
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.samplers import Overwrite, PositionChunk, Sampler, Selection, Step

EARLIEST = 1e-5
"""The last time of Duo's grid."""
Tail = Literal["ancestral", "greedy", "none"]


def evenly_from_1(number: Tensor, count: Tensor) -> Tensor:
    """[B] float64: time `number` of linspace(1, EARLIEST, count + 1)."""
    return 1 - (1 - EARLIEST) * number.double() / count


class ReverseProcess(Sampler):
    """Draws every editable position from the posterior of a less noisy time, step by step.

    Temperature, top-p and top-k shape the model's distribution (the latter two as in Duo's code,
    s-sahoo/duo @7c9b498f), at temperature 0 to its mode; the process is drawn all the same. Guidance mixes
    the posteriors of two distributions, as UDLM's does. The mask is never what is left: at the last step
    the model is asked what the token is, given that it isn't the mask.
    """

    proposes = "editable"
    needs_distributions = True
    revises = True
    tail: Tail = "none"
    """The step that follows the last one of the process; see `UniformAncestralOptions`."""
    knows_the_mask: bool = True
    """Whether the mask is a clean token like any other to the model; if not, it is never its word."""

    def block_steps(self, size: int, steps: int | None) -> int:
        """Those of the process, and the tail."""
        return (size if steps is None else steps) + (self.tail != "none")

    @abstractmethod
    def grid(self, index: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """[B] float64: the time before and after step `index` [B] of `steps` [B], the tail left out."""

    def times(self, index: Tensor, steps: Tensor) -> Tensor:
        """See `Sampler.times`."""
        return self.grid(index, steps - int(self.tail != "none"))[0]

    def posterior(
        self, model_at_token: Tensor, stands_mask: Tensor, now: NoiseLevel, earlier: NoiseLevel, time: Tensor
    ) -> Posterior:
        """See `reverse_posterior`; `time` [n] is the one before the step."""
        return reverse_posterior(model_at_token, stands_mask, now, earlier)

    def levels(
        self, schedule: NoiseSchedule, index: Tensor, steps: Tensor, vocab_size: int
    ) -> tuple[Tensor, NoiseLevel, NoiseLevel]:
        """[B] each: the time before a step, and the noise before and after it; none is left after a tail."""
        has_tail = int(self.tail != "none")
        before, after = self.grid(index, steps - has_tail)
        now, earlier = (level_at(schedule, time, vocab_size) for time in (before, after))
        if has_tail:
            at_tail, clean = index == steps - 1, no_noise(earlier)
            earlier = NoiseLevel(
                torch.where(at_tail, clean.alpha, earlier.alpha),
                torch.where(at_tail, clean.mask, earlier.mask),
                torch.where(at_tail, clean.other, earlier.other),
            )
        return before, now, earlier

    def select(self, step: Step) -> Selection:
        """Draw all editable positions anew."""
        assert step.noise_schedule is not None
        assert step.distributions is not None
        asked, mask = step.distributions, step.special.mask
        time, now, earlier = self.levels(step.noise_schedule, step.index, step.steps, step.vocab_size)
        last = step.index == step.steps - 1
        greedy = self.tail == "greedy" and bool(last.any())

        def posterior_of(logits: Tensor, chunk: PositionChunk) -> tuple[Posterior, Tensor, Tensor]:
            """The posterior, and the model's weights [n, V] with their sums [n]."""
            weights = asked.weights(logits)
            total = weights.sum(-1).double()
            at_token = weights.gather(1, chunk.tokens[:, None]).squeeze(1) / total
            rows, stands_mask = chunk.rows, chunk.tokens == mask
            found = self.posterior(at_token, stands_mask, now.at(rows), earlier.at(rows), time[rows])
            return found.without_mask(stands_mask, last[rows]), weights, total

        def draw(chunk: PositionChunk) -> tuple[Tensor]:
            at_end = last[chunk.rows]
            both = [chunk.logits] if chunk.unconditional is None else [chunk.logits, chunk.unconditional]
            for logits in both:
                logits[:, mask] = logits[:, mask].masked_fill(at_end | (not self.knows_the_mask), -torch.inf)
            scale = asked.guidance_scale
            best = guided_logits(chunk.logits, chunk.unconditional, scale).argmax(-1) if greedy else None
            if len(both) == 1:
                found, weights, _ = posterior_of(chunk.logits, chunk)
                tokens = found.draw(weights, chunk.tokens, mask, chunk.uniforms)
            else:
                tables = []
                for logits in both:
                    found, weights, total = posterior_of(logits, chunk)
                    tables.append(found.table(weights.double() / total[:, None], chunk.tokens, mask))
                tokens = draw_from(guided_table(tables[0], tables[1], scale), chunk.uniforms)
            return (tokens if best is None else torch.where(at_end, best, tokens),)

        (tokens,) = asked.read(draw)
        return Selection(overwrite=Overwrite(step.editable, tokens))
