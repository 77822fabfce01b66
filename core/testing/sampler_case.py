"""What all tests of a sampler start from: a tiny model, a canvas, and the decoder."""

from __future__ import annotations

import torch

from opendllm.core.decoding.decoder import Decoded, decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.testing.contract import PluginContract
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.testing.trained_noise import noise_for
from opendllm.registries.noise_schedules import Destination
from opendllm.registries.options import SamplerOptions
from opendllm.registries.samplers import Sampler


class SamplerCase(PluginContract):
    """A sampler, and what it writes on models of each noise that it undoes."""

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

    def lm(self, destination: Destination) -> TableLM:
        """The tiny model, trained on that noise."""
        lm = TableLM()
        lm.noise = noise_for(destination)
        return lm

    def canvas(self, lm: TableLM, prefix: int, masks: int, suffix: int = 0) -> torch.Tensor:
        """[1, L]: clean tokens around a gap."""
        left, right = torch.arange(1, prefix + 1), torch.arange(2, suffix + 2)
        gap = torch.full((masks,), lm.mask_token_id)
        return torch.cat([left, gap, right])[None]

    def run(
        self,
        lm: TableLM,
        canvas: torch.Tensor,
        decoder: DecoderOptions,
        mask: torch.Tensor | None = None,
        first_seed: int = 0,
    ) -> Decoded:
        """Decode; seeds count on from the first row's."""
        seeds = torch.arange(canvas.shape[0]) + first_seed
        return decode(lm, canvas, mask, self.sampler(), decoder, seeds)

    def decoder(self, **options: float | None) -> DecoderOptions:
        """Its options, those left out that the sampler can't have."""
        if self.sampler().edits_length:
            options.pop("block_length", None)
        return DecoderOptions.model_validate(options)

    def trace(self, lm: TableLM, canvas: torch.Tensor, decoder: DecoderOptions) -> list[torch.Tensor]:
        """The canvas before the first and after every step."""
        seeds = torch.arange(canvas.shape[0])
        return decode(lm, canvas, None, self.sampler(), decoder, seeds, keep_trace=True).trace
