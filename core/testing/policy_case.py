"""What all tests of a policy objective start from: answers, their noise, and a model that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from opendllm.core.testing.contract import PluginContract
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.policy_updates import log_probabilities
from opendllm.registries.options import PolicyObjectiveOptions
from opendllm.registries.policies import PolicyObjective, PolicyReading, Rollouts
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, TokenIds, TokenRows

MASK_TOKEN_ID = 11
ANSWERS, PROMPT, COMPLETION = 6, 5, 8
LENGTH = PROMPT + COMPLETION + 2
BLOCK_LENGTH = 4


def answers(chosen: Sequence[int] = range(ANSWERS), length: int = LENGTH) -> Rollouts:
    """Some of six answers of 2 to 8 tokens to prompts of 2 to 5, in rows of `length`."""
    sample = torch.tensor(list(chosen))[:, None]
    columns = torch.arange(length).expand(len(sample), -1)
    prompt = 2 + sample % 4
    maskable = (columns >= prompt) & (columns < prompt + COMPLETION)
    counted = maskable & (columns < prompt + 2 + (5 * sample) % 7)
    segments = torch.where(columns < prompt + COMPLETION, 0, PADDING_SEGMENT)
    tokens = torch.where(segments == 0, 1 + (sample * 7 + columns * 3) % 10, 0)
    committed = torch.where(maskable, 1 + (columns * 5 + sample) % 6, 0)
    rows = TokenRows(tokens, segments, columns.clone(), maskable, 40 + sample[:, 0])
    return Rollouts(rows, counted, committed, COMPLETION)


class PolicyCase(PluginContract):
    """A policy objective, and the answers that it is held against."""

    kind = "objectives"

    def objective(self) -> PolicyObjective:
        """The plugin."""
        return self.built(PolicyObjective)  # type: ignore[type-abstract]

    def policy_options(self) -> PolicyObjectiveOptions:
        """What it is built with."""
        options = self.plugin_options()
        assert isinstance(options, PolicyObjectiveOptions), (
            f"derive {type(options).__name__} from PolicyObjectiveOptions"
        )
        return options

    def attention(self) -> AttentionPattern:
        """Of the models that it trains."""
        trains = self.policy_options().trains
        return AttentionPattern(trains, BLOCK_LENGTH if trains == "block-causal" else None)

    def lm(self) -> TableLM:
        """A tiny one."""
        return TableLM(MASK_TOKEN_ID + 1, self.attention())

    def prepared(self, rollouts: Rollouts) -> Rollouts:
        """With the attention blocks of a model that it trains."""
        rows = rollouts.rows
        ids = TokenIds(MASK_TOKEN_ID + 1, MASK_TOKEN_ID)
        return replace(rollouts, rows=replace(rows, blocks=self.attention().blocks(rows.positions), ids=ids))

    def readings(self, rollouts: Rollouts, seed: int = 5) -> Sequence[PolicyReading]:
        """With the noise of a seed."""
        rollouts = self.prepared(rollouts)
        return self.objective().readings(rollouts, AddressedNoise(seed, rollouts.rows, ANSWERS))

    def term_table(self, rollouts: Rollouts) -> Tensor:
        """[terms, 5]: sample, column, log-probability, share and KL's share of every term, sorted."""
        module, found = self.lm().module, []
        for reading in self.readings(rollouts):
            sample = rollouts.rows.sample_index[reading.row]
            columns = (
                sample,
                reading.column,
                log_probabilities(module, reading),
                reading.share,
                reading.kl_share,
            )
            found.append(torch.stack([column.double() for column in columns], dim=1))
        table = torch.cat(found)
        rows = sorted(table.tolist(), key=lambda row: [round(value, 4) for value in row])
        return torch.tensor(rows, dtype=torch.float64).view(-1, 5)

    def terms_of(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """([M], [M], [M]) float64: old log-probabilities, log-ratios away from 0, advantages."""
        old = -torch.linspace(0.1, 5, count, dtype=torch.float64)
        ratio = torch.linspace(-2.9, 3.1, count, dtype=torch.float64)
        advantages = torch.where(torch.arange(count) % 3 == 0, -0.7, 1.3).double()
        return old, ratio, advantages
