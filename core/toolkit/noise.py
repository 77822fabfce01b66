"""The corruption's random numbers: a pure function of the seed and each row's global index."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.toolkit.draws import stream_id, uniform
from opendllm.registries.sequences import TokenRows


@dataclass(frozen=True)
class AddressedNoise:
    """Implements `Noise` for one batch of rows.

    Attributes:
        seed: the run's.
        rows: the batch; only its layout and sample indices are read.
        global_batch_size: over how many consecutive samples stratified numbers are spread.
    """

    seed: int
    rows: TokenRows
    global_batch_size: int

    def per_row(self, stream: str) -> Tensor:
        """[B, 1] float64."""
        return uniform(self.seed, stream_id(stream), self.rows.sample_index)[:, None]

    def per_row_stratified(self, stream: str) -> Tensor:
        """[B, 1] float64: frac(u + n/B) with one u a global batch (MDLM's antithetic sampling)."""
        batch = self.rows.sample_index // self.global_batch_size
        number = self.rows.sample_index % self.global_batch_size
        shifted = uniform(self.seed, stream_id(stream), batch) + number.double() / self.global_batch_size
        return torch.remainder(shifted, 1.0)[:, None]

    def per_document(self, stream: str) -> Tensor:
        """[B, L] float64."""
        return uniform(self.seed, stream_id(stream), self.rows.sample_index[:, None], self.rows.segments)

    def per_token(self, stream: str) -> Tensor:
        """[B, L] float64."""
        columns = torch.arange(self.rows.tokens.shape[1], device=self.rows.tokens.device)
        return uniform(self.seed, stream_id(stream), self.rows.sample_index[:, None], columns)
