"""Predictor-corrector steps in the reverse process of uniform noise."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.posteriors import NoiseLevel, Posterior, no_noise, reverse_posterior
from opendllm.plugins.samplers import PredictorCorrectorOptions
from opendllm.plugins.samplers.reverse_process import ReverseProcess, evenly_from_1


class PredictorCorrector(ReverseProcess):
    """Draws from kappa q(z_s | z_t) + (1 - kappa) forward(q(z_0 | z_t)): psi-samplers, in Duo's code.

    The second part goes to the clean text and back to the noise of time s, so that what went wrong can
    be drawn again. kappa 1 is the ancestral step, 0 corrects at every position; the marginals stay those
    of the process (s-sahoo/duo @7c9b498f, `psi`).
    """

    def __init__(self, options: PredictorCorrectorOptions) -> None:
        self.tail = options.tail
        self.follows_model = options.tail == "ancestral"
        self._options = options

    def grid(self, index: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Evenly spaced from 1 to 1e-5."""
        return evenly_from_1(index, steps), evenly_from_1(index + 1, steps)

    def kappa(self, time: Tensor) -> Tensor:
        """[n] float64 at `time` [n], before the step: the option's where that holds, else 1."""
        holds = (time <= self._options.first_time) & (time >= self._options.last_time)
        return torch.where(holds, self._options.kappa, 1.0).double()

    def posterior(
        self, model_at_token: Tensor, stands_mask: Tensor, now: NoiseLevel, earlier: NoiseLevel, time: Tensor
    ) -> Posterior:
        """The mixture."""
        predicted = reverse_posterior(model_at_token, stands_mask, now, earlier)
        clean = reverse_posterior(model_at_token, stands_mask, now, no_noise(now))
        return predicted.mixed(self.kappa(time), clean.noised(earlier))
