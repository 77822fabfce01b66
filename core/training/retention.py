"""Which checkpoints may go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opendllm.core.manifest.train_schema import Checkpointing


def expired(
    steps: Sequence[int], held_out_losses: Mapping[int, float | None], settings: Checkpointing
) -> list[int]:
    """The steps whose checkpoints nothing asks to keep.

    Args:
        steps: of the checkpoints that are there, in any order.
        held_out_losses: by step; None where it was not measured.
        settings: what is kept.
    """
    kept = set(sorted(steps)[-settings.keep :])
    if settings.keep_every is not None:
        kept.update(step for step in steps if step % settings.keep_every == 0)
    measured = [(loss, step) for step in steps if (loss := held_out_losses.get(step)) is not None]
    kept.update(step for _, step in sorted(measured)[: settings.keep_best])
    return sorted(set(steps) - kept)
