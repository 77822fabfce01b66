"""A law of short texts that is known, and the model that has learnt it."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.segments import visibility
from opendllm.registries.sequences import AttentionPattern, ModelInputs, TokenIds, TokenRows

IDS = TokenIds(4, 3)
PROMPT = 1
LENGTH = 6
BLOCK_LENGTH = 2
WORDS = (1, 2)
LEAST = 1e-6
"""The chance of what the law excludes: a logit has to be finite."""
ODD = 0.02
"""The weight of a text whose words have an odd sum, beside one of an even sum."""
NEVER = -1e4
"""A log-chance of nothing that 0 can be multiplied with."""


def texts() -> Tensor:
    """[32, 6] int64, all that the law can write: the prompt, and any five words."""
    return torch.tensor([(PROMPT, *words) for words in itertools.product(WORDS, repeat=LENGTH - 1)])


def chances() -> Tensor:
    """[32] float64, each text's, given its first token.

    Words are a parity of each other: with one of them hidden there is hardly a surprise, with more of them
    each is one. So a loss is right only if it has every number of hidden words as often as it should.
    """
    generator = torch.Generator().manual_seed(3)
    tilt = (0.5 * torch.randn(len(texts()), generator=generator, dtype=torch.float64)).exp()
    weight = torch.where(texts().sum(-1) % 2 == 0, 1.0, ODD) * tilt
    return weight / weight.sum()


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
    """[number, 6] int64, each text as often as the law has it, in an order that has nothing to do with it."""
    quantiles = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    which = torch.searchsorted(chances().cumsum(0), quantiles).clamp(max=len(texts()) - 1)
    return texts()[which][torch.randperm(number, generator=torch.Generator().manual_seed(0))]


def seen_by(inputs: ModelInputs, attention: AttentionPattern) -> Tensor:
    """[B, L, L] bool: what an aligned model may read to predict each position."""
    blocks = attention.blocks(inputs.positions) if inputs.blocks is None else inputs.blocks
    visible = visibility(inputs, blocks)
    size = inputs.tokens.shape[1]
    if visible is None:
        visible = torch.ones(len(inputs.tokens), size, size, dtype=torch.bool)
    return visible & ~torch.eye(size, dtype=torch.bool) if attention.kind == "causal" else visible


class LawLM(TableLM):
    """At each position the law's own distribution, given what may be seen.

    Under masks and causal attention that is exact. Under other noise, whose time it isn't told, it takes each
    token for true with the chance `trust`: a good model, whose bound lies above the entropy.
    """

    def __init__(self, attention: AttentionPattern, trust: float | None) -> None:
        super().__init__(IDS.size, attention, reads_time=True)
        self._trust = trust
        self._texts, self._log_chances = texts(), chances().log()
        words = torch.nn.functional.one_hot(self._texts, self.vocab_size).double()
        self._words = words.transpose(0, 1)  # [L, S, V]

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """[B, L, V] log-probabilities; `project` leaves them as they are."""
        same = self._texts.T[inputs.positions] == inputs.tokens[..., None]  # [B, L, S]
        if self._trust is None:
            agreement = torch.where(same, 0.0, NEVER).double()
        else:
            agreement = (self._trust * same + (1 - self._trust) / self.vocab_size).double().log()
        agreement = agreement.masked_fill((inputs.tokens == self.mask_token_id)[..., None], 0.0)
        seen = seen_by(inputs, self.attention).double() @ agreement  # [B, L, S]
        weights = (seen + self._log_chances).exp()
        distribution = torch.empty(*inputs.tokens.shape, self.vocab_size, dtype=torch.float64)
        for position, words in enumerate(self._words):
            here = inputs.positions == position
            distribution[here] = weights[here] @ words
        total = distribution.sum(-1, keepdim=True).clamp(min=1e-300)
        return ((1 - LEAST) * distribution / total + LEAST / self.vocab_size).log()

    def project(self, hidden: Tensor) -> Tensor:
        """See `DiffusionLM.project`."""
        return hidden

    def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        """See `DiffusionLM.negative_log_likelihood`."""
        return -self.hidden_states(inputs)[scored].gather(-1, targets[scored][:, None])[:, 0]


class ProbeLM(TableLM):
    """Knows one text, and is surprised by its token in one place, or where it sees one number of masks.

    What its mean surprise is says how often, and with which weight, an objective asks just that.
    """

    def __init__(
        self, attention: AttentionPattern, text: Tensor, place: int | None, masks: int | None
    ) -> None:
        """Make one.

        Args:
            attention: what it may see.
            text: [L] int64.
            place: the position that it is surprised at; None for all.
            masks: how many masks it must see to be surprised; None for any number.
        """
        super().__init__(IDS.size, attention, reads_time=True)
        self._text, self._place, self._masks = text, place, masks

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """[B, L, V] log-probabilities; `project` leaves them as they are."""
        surprised = torch.ones_like(inputs.tokens, dtype=torch.bool)
        if self._place is not None:
            surprised &= inputs.positions == self._place
        if self._masks is not None:
            masked = (inputs.tokens == self.mask_token_id).double()[..., None]
            surprised &= (seen_by(inputs, self.attention).double() @ masked)[..., 0] == self._masks
        sure = torch.where(surprised, -1.0, -1e-9).double()  # ln of what it gives to the text's token
        others = (-sure.expm1()).log() - torch.tensor(float(self.vocab_size - 1)).log()
        known = torch.nn.functional.one_hot(self._text[inputs.positions], self.vocab_size).bool()
        return torch.where(known, sure[..., None], others[..., None])

    def project(self, hidden: Tensor) -> Tensor:
        """See `DiffusionLM.project`."""
        return hidden

    def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        """See `DiffusionLM.negative_log_likelihood`."""
        return -self.hidden_states(inputs)[scored].gather(-1, targets[scored][:, None])[:, 0]
