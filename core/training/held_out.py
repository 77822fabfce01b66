"""The held-out loss, measured on the model that trains, by all ranks together."""

from __future__ import annotations

from collections.abc import Callable

import torch

from opendllm.core.data.rows import Rows
from opendllm.core.foundation.process_group import summed
from opendllm.core.foundation.ranks import rank, world_size
from opendllm.core.manifest.train_schema import HeldOut
from opendllm.core.toolkit.likelihood import TOKENS_AT_ONCE, log_likelihood
from opendllm.core.toolkit.segments import document_starts
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.sequences import ModelInputs


@torch.no_grad()
def held_out_loss(
    lm: DiffusionLM,
    rows: Rows,
    settings: HeldOut,
    on_rows: Callable[[int, int], object] = lambda done, total: None,
    rows_at_once: int = 0,
) -> float | None:
    """Nats a token of held-out rows: the ELBO, exact for a causal model; first tokens are given.

    None where no row has a token to score.

    The rows are shared out over the ranks. Each makes the same number of forward passes, as ZeRO 3
    needs: where the rows don't divide, some ranks read a row again that counts for nothing.

    Args:
        lm: the model; every rank must call this.
        rows: the held-out split.
        settings: how many rows, how many draws.
        on_rows: told how many of this rank's rows are read, and of how many, where not all are at once.
        rows_at_once: in a forward pass, at least; as many as make `TOKENS_AT_ONCE` in any case.
    """
    total = min(settings.rows, len(rows))
    share = -(-total // world_size())
    own = range(rank() * share, (rank() + 1) * share)
    device = next(lm.module.parameters()).device
    batch = rows.batch([min(row, total - 1) for row in own]).to(device)
    counted = torch.tensor([row < total for row in own], device=device)
    scorable = batch.maskable & ~document_starts(batch.segments) & counted[:, None]
    training = lm.module.training
    lm.module.eval()
    total_nats = torch.zeros((), dtype=torch.float64, device=device)
    at_once = max(1, rows_at_once, TOKENS_AT_ONCE // batch.tokens.shape[1])
    # As many rows at a time as a forward pass has: so that each is full, and all are those of one call.
    parts = torch.arange(share).split(at_once)
    for part in parts:
        found = log_likelihood(
            lm,
            ModelInputs(batch.tokens, batch.segments, batch.positions).rows(part),
            scorable[part],
            settings.draws,
            batch.sample_index[part],
            at_once,
        )
        total_nats += found.log_likelihood.sum()
        if len(parts) > 1:
            on_rows(int(part[-1]) + 1, share)
    lm.module.train(training)
    sums = summed(torch.stack([total_nats, scorable.sum().double()]))
    return -float(sums[0] / sums[1]) if sums[1] else None
