"""The contract of backbones, as tests."""

from __future__ import annotations

from opendllm.core.testing.backbone_checkpoints import CheckpointTests
from opendllm.core.testing.backbone_readers import ReaderTests
from opendllm.core.testing.backbone_reading import ReadingTests
from opendllm.core.testing.backbone_training import TrainingTests


class BackboneContract(ReadingTests, TrainingTests, CheckpointTests, ReaderTests):
    """Aligned logits, documents apart, a module that trains, and a checkpoint that comes back equal."""
