"""A uniform canvas that is accepted where the model is sure, and drawn anew everywhere else."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.draws import draw_from
from opendllm.core.toolkit.posteriors import guided_logits, pure_noise
from opendllm.core.toolkit.ranking import within_entropy_bound
from opendllm.plugins.samplers import EntropyAcceptOptions
from opendllm.plugins.samplers.reverse_process import evenly_from_1
from opendllm.registries.samplers import Overwrite, PositionChunk, Sampler, Selection, Step
from opendllm.registries.sequences import TokenIds


class EntropyAccept(Sampler):
    """Accepts draws by the rule of `entropy-bounded`; all other positions are uniform noise again.

    So DiffusionGemma decodes: each step draws every position at a temperature that falls evenly with the
    steps that remain, accepts from the lowest entropy on within a bound, and renoises the rest, whatever
    was accepted before. It ends with the model's best tokens: at the last step, or as soon as these are the
    same as at the step before and certain, which their mean entropy says.

    The rules and their order are those of transformers' `generation_diffusion_gemma`; the defaults those of
    google/diffusiongemma-26B-A4B-it's generation_config.json (entropy bound 0.1, temperature 0.8 to 0.4,
    mean entropy 0.005, stable for 1 step; 48 steps for 256 tokens). The mask is never drawn nor accepted.
    """

    proposes = "editable"
    needs_distributions = True
    revises = True
    finishes = True
    follows_model = False

    def __init__(self, options: EntropyAcceptOptions) -> None:
        self._options = options

    def times(self, index: Tensor, steps: Tensor) -> Tensor:
        """Evenly spaced from 1 on."""
        return evenly_from_1(index, steps)

    def select(self, step: Step) -> Selection:
        """Accept, renoise, or be done."""
        assert step.noise_schedule is not None
        assert step.distributions is not None
        options, mask, asked = self._options, step.special.mask, step.distributions
        remaining = (step.steps - step.index).double() / step.steps
        span = options.first_temperature - options.last_temperature
        temperature = options.last_temperature + span * remaining

        def read(chunk: PositionChunk) -> tuple[Tensor, Tensor, Tensor]:
            logits = guided_logits(chunk.logits, chunk.unconditional, asked.guidance_scale)
            logits[:, mask] = -torch.inf
            best = logits.argmax(-1)
            tempered = logits / temperature[chunk.rows, None].float()
            probabilities = tempered.softmax(-1)
            return draw_from(probabilities, chunk.uniforms), best, torch.special.entr(probabilities).sum(-1)

        tokens, best, entropy = asked.read(read)
        accept = within_entropy_bound(entropy, step.editable, options.gamma)
        noise = pure_noise(
            step.noise_schedule, step.draws.uniform("renoise"), TokenIds(step.vocab_size, mask)
        )
        stable = ((best == step.memory) | ~step.editable).all(-1)
        mean = (entropy * step.editable).sum(-1) / step.editable.sum(-1).clamp(min=1)
        done = (stable & (mean < options.certainty)) | (step.index == step.steps - 1)
        tokens = torch.where(done[:, None], best, torch.where(accept, tokens, noise))
        return Selection(
            overwrite=Overwrite(step.editable, tokens),
            finished=done,
            memory=best,
        )
