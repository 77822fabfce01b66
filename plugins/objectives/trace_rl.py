"""TraceRL."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opendllm.core.toolkit.block_corruption import blocks_of
from opendllm.core.toolkit.policy_losses import term_shares
from opendllm.core.toolkit.rollout_tokens import learnt_tokens
from opendllm.core.toolkit.segments import noisy_then_clean
from opendllm.core.toolkit.traces import blocks_from, filled_steps, shrunk_steps, step_ranks
from opendllm.plugins.objectives.clipped_objective import ClippedObjective
from opendllm.plugins.objectives.policy_options import TraceRlOptions
from opendllm.registries.objectives import Noise
from opendllm.registries.policies import PolicyReading, Rollouts
from opendllm.registries.sequences import ModelInputs


class TraceRl(ClippedObjective):
    """sum of -min(r A, clip(r) A) + beta KL / (slices x longest completion) (dLLM-RL, arXiv:2509.06949).

    Slice j has the j-th group of each block's tokens in the order in which they were committed: the block's
    later tokens are masked with them, the earlier ones are not, and the blocks before are clean, as they were
    when the group was written. Each token is in exactly one slice.
    """

    def __init__(self, options: TraceRlOptions) -> None:
        super().__init__(options, options.largest_log_ratio)
        self._options = options

    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        """One a slice, of the answers that have it: the trace is what it is, and nothing is drawn."""
        within = rollouts.rows.maskable
        blocks = self._blocks(rollouts)
        steps = filled_steps(rollouts.committed_at, within)
        steps = shrunk_steps(steps, blocks, within, self._options.shrink)
        ranks = step_ranks(steps, blocks, within)
        post_num, slices = self._options.post_num, range(int(ranks.amax()) + 1)
        scored = [learnt_tokens(rollouts, post_num, ranks == number) for number in slices]
        found = [
            self._reading(rollouts, blocks, of_slice, ranks >= number)
            for number, of_slice in enumerate(scored)
            if bool(of_slice.any())
        ]
        return found or [self._reading(rollouts, blocks, within & ~within, within)]

    def kept(self, rewards: Tensor) -> Tensor:
        """See `PolicyObjective.kept`."""
        if self._options.kept_rewards is None:
            return super().kept(rewards)
        low, high = self._options.kept_rewards
        mean = rewards.mean(1)
        return (mean >= low) & (mean <= high)

    def _blocks(self, rollouts: Rollouts) -> Tensor:
        if self._options.block_length is not None:
            return blocks_from(rollouts.rows.maskable, self._options.block_length)
        return blocks_of(rollouts.rows, "trace-rl")

    def _reading(self, rollouts: Rollouts, blocks: Tensor, scored: Tensor, masked: Tensor) -> PolicyReading:
        """Of the rows with something scored [B, L], where `masked` [B, L] is hidden; all, where none has."""
        rows = rollouts.rows
        assert rows.ids is not None
        chosen = scored.any(-1)
        chosen |= ~chosen.any()
        number = chosen.nonzero().squeeze(1)
        row, column = scored[chosen].nonzero(as_tuple=True)
        tokens = rows.tokens[chosen]
        noisy = tokens.masked_fill(masked[chosen], rows.ids.mask_token_id)
        clean = ModelInputs(tokens, rows.segments[chosen], rows.positions[chosen])
        shares = term_shares("dr_grpo", row, self._options.beta, rollouts.max_completion_length)
        of_noisy = scored[chosen]
        return PolicyReading(
            inputs=noisy_then_clean(clean, noisy, blocks[chosen]),
            targets=torch.cat([tokens, tokens], dim=1),
            scored=torch.cat([of_noisy, torch.zeros_like(of_noisy)], dim=1),
            token=torch.arange(len(row), device=row.device),
            weight=torch.ones_like(shares.share),
            row=number[row],
            column=column,
            share=shares.share,
            kl_share=shares.kl_share,
            count=shares.count,
        )
