"""The contract of samplers, as tests."""

from __future__ import annotations

from opendllm.core.testing.sampler_declarations import DeclarationTests
from opendllm.core.testing.sampler_distribution import DistributionTests
from opendllm.core.testing.sampler_rows import RowTests
from opendllm.core.testing.sampler_writing import WritingTests


class SamplerContract(WritingTests, RowTests, DistributionTests, DeclarationTests):
    """Fills every mask, keeps every prompt, and decides each row by itself, for all noise that it undoes."""
