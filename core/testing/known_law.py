"""A law of short texts that is known, and the model that has learnt it."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.segments import visibility
from opendllm.registries.sequences import AttentionPattern, ModelInputs, TokenIds, TokenRows

IDS = TokenIds(6, 5)
PROMPT = 1
LENGTH = 4
BLOCK_LENGTH = 2
WORDS = (1, 2, 3, 4)
LEAST = 1e-6
"""The chance of what the law excludes: a logit has to be finite."""


def texts() -> Tensor:
    """[64, 4] int64, all that the law can write: the prompt, and any three words."""
    return torch.tensor([(PROMPT, *words) for words in itertools.product(WORDS, repeat=LENGTH - 1)])


def chances() -> Tensor:
    """[64] float64, each text's, given its first token; its words hang on each other."""
    generator = torch.Generator().manual_seed(3)
    return (1.5 * torch.randn(len(WORDS) ** (LENGTH - 1), generator=generator, dtype=torch.float64)).softmax(
        0
    )


def entropy() -> float:
    """In nats: the least mean surprise that a model of the law can have."""
    return float(torch.special.entr(chances()).sum())


def rows_of(tokens: Tensor, first_sample: int, attention: AttentionPattern) -> TokenRows:
    """Clean rows [B, L], one document each, whose first token is a prompt."""
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    index = torch.arange(first_sample, first_sample + len(tokens))
    blocks = attention.blocks(positions)
    return TokenRows(
        tokens, torch.zeros_like(tokens), positions, positions > 0, index, blocks=blocks, ids=IDS
    )


def drawn_texts(number: int) -> Tensor:
    """[number, 4] int64, each text as often as the law has it, in an order that has nothing to do with it."""
    quantiles = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    which = torch.searchsorted(chances().cumsum(0), quantiles).clamp(max=len(texts()) - 1)
    return texts()[which][torch.randperm(number, generator=torch.Generator().manual_seed(0))]


class LawLM(TableLM):
    """At each position the law's own distribution, given what may be seen.

    Under masks and causal attention that is exact. Under other noise, whose time it isn't told, it takes each
    token for true with the chance `trust`: a good model, whose bound lies above the entropy.
    """

    def __init__(self, attention: AttentionPattern, trust: float | None) -> None:
        super().__init__(IDS.size, attention, reads_time=True)
        self._trust = trust
        self._texts, self._chances = texts(), chances()

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """[B, L, V] log-probabilities; `project` leaves them as they are."""
        blocks = self.attention.blocks(inputs.positions) if inputs.blocks is None else inputs.blocks
        visible = visibility(inputs, blocks)
        size = inputs.tokens.shape[1]
        if visible is None:
            visible = torch.ones(len(inputs.tokens), size, size, dtype=torch.bool)
        if self.attention.kind == "causal":
            visible = visible & ~torch.eye(size, dtype=torch.bool)
        same = self._texts.T[inputs.positions] == inputs.tokens[..., None]  # [B, L, S]
        if self._trust is None:
            agreement = torch.where(same | (inputs.tokens == self.mask_token_id)[..., None], 0.0, -torch.inf)
        else:
            agreement = (self._trust * same + (1 - self._trust) / self.vocab_size).log()
            agreement = agreement.masked_fill((inputs.tokens == self.mask_token_id)[..., None], 0.0)
        agreement = agreement.double()
        seen = torch.where(visible[..., None], agreement[:, None], 0.0).sum(2)  # [B, L, S]
        weights = (seen + self._chances.log()).exp()
        words = torch.nn.functional.one_hot(self._texts, self.vocab_size).double()  # [S, L, V]
        distribution = torch.einsum("bls,blsv->blv", weights, words.transpose(0, 1)[inputs.positions])
        total = distribution.sum(-1, keepdim=True).clamp(min=1e-300)
        return ((1 - LEAST) * distribution / total + LEAST / self.vocab_size).log()

    def project(self, hidden: Tensor) -> Tensor:
        """See `DiffusionLM.project`."""
        return hidden

    def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        """See `DiffusionLM.negative_log_likelihood`."""
        return -self.hidden_states(inputs)[scored].gather(-1, targets[scored][:, None])[:, 0]
