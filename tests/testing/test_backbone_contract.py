"""A backbone that can't train doesn't keep its contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opendllm.core.testing import BackboneContract
from opendllm.core.testing.backbone_case import VOCABULARY
from opendllm.core.testing.table_lm import WIDTH, TableLM, TableModule
from opendllm.core.toolkit.segments import visibility
from opendllm.registries.backbones import DiffusionLM, LossPart, Vocabulary
from opendllm.registries.sequences import AttentionPattern, ModelInputs

PATTERNS = [AttentionPattern(), AttentionPattern("causal"), AttentionPattern("block-causal", 4)]
TESTS = [
    "test_the_modules_loss_is_that_of_the_likelihoods",
    "test_losses_of_some_positions_add_up",
    "test_a_step_reaches_every_parameter_and_lowers_the_loss",
    "test_nothing_scored_is_a_loss_of_zero",
]
"""What the contract says of training."""


class OfTable(BackboneContract):
    """The contract of the kit's own model, its module put in place of the table."""

    def __init__(self, module: type[TableModule], attention: AttentionPattern = PATTERNS[0]) -> None:
        self._module, self._attention = module, attention

    def lm(self, vocabulary: Vocabulary = VOCABULARY) -> DiffusionLM:
        lm = TableLM(VOCABULARY.size, self._attention)
        lm.module = self._module(VOCABULARY.size, self._attention)
        lm.table = lm.module
        return lm

    def broken(self) -> set[str]:
        """Which of the tests fail."""
        found = set()
        for test in TESTS:
            try:
                getattr(self, test)()
            except Exception:
                found.add(test)
        return found


class KeyBias(TableModule):
    """Softmax attention, whose key bias has a gradient of 0 but for rounding."""

    def __init__(self, vocab_size: int, attention: AttentionPattern) -> None:
        super().__init__(vocab_size, attention)
        torch.manual_seed(0)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def hidden(self, inputs: ModelInputs) -> Tensor:
        hidden = super().hidden(inputs)
        scores = self.query(hidden) @ self.key(hidden).mT / WIDTH**0.5
        visible = visibility(inputs, inputs.blocks)
        if visible is not None:
            scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        return hidden + scores.softmax(-1) @ self.value(hidden)


class ThreeArguments(TableModule):
    def forward(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:  # type: ignore[override]
        return self.likelihoods(inputs, targets, scored)


class Detached(TableModule):
    """Only the output table learns."""

    def hidden(self, inputs: ModelInputs) -> Tensor:
        return super().hidden(inputs).detach()


class WithoutGradients(TableModule):
    def forward(self, *arguments: object) -> Tensor:
        return super().forward(*arguments).detach()  # type: ignore[arg-type]


class Uphill(TableModule):
    """The loss is right, its gradients point the wrong way."""

    def forward(self, *arguments: object) -> Tensor:
        loss = super().forward(*arguments)  # type: ignore[arg-type]
        return 2 * loss.detach() - loss


class Averaged(TableModule):
    def forward(self, inputs: ModelInputs, targets: Tensor, scored: Tensor, loss_part: LossPart) -> Tensor:
        return super().forward(inputs, targets, scored, loss_part) / max(1, int(scored.sum()))


class SumOfNothing(TableModule):
    """Begins no sum with a tensor."""

    def forward(self, inputs: ModelInputs, targets: Tensor, scored: Tensor, loss_part: LossPart) -> Tensor:
        nll = self.likelihoods(inputs, targets, scored)
        total: Any = 0
        for number in range(len(nll)):
            piece = slice(number, number + 1)
            total += loss_part(nll[piece], piece)
        return total


class InParts(TableModule):
    """Takes the loss in two parts, and something of that is wrong."""

    def parts(self, nll: Tensor) -> list[tuple[Tensor, slice]]:
        raise NotImplementedError

    def forward(self, inputs: ModelInputs, targets: Tensor, scored: Tensor, loss_part: LossPart) -> Tensor:
        nll = self.likelihoods(inputs, targets, scored)
        return sum((loss_part(*part) for part in self.parts(nll)), nll.sum() * 0)


class PartsOfTheirOwn(InParts):
    def parts(self, nll: Tensor) -> list[tuple[Tensor, slice]]:
        return [(nll[:5], slice(0, 5)), (nll[5:], slice(0, len(nll) - 5))]


class LastPartMissing(InParts):
    def parts(self, nll: Tensor) -> list[tuple[Tensor, slice]]:
        return [(nll[:-1], slice(0, len(nll) - 1))]


class PartTwice(InParts):
    def parts(self, nll: Tensor) -> list[tuple[Tensor, slice]]:
        return [(nll, slice(0, len(nll))), (nll[:1], slice(0, 1))]


class PartWithoutGradients(InParts):
    def parts(self, nll: Tensor) -> list[tuple[Tensor, slice]]:
        return [(nll[:5], slice(0, 5)), (nll[5:].detach(), slice(5, len(nll)))]


@pytest.mark.parametrize("attention", PATTERNS, ids=lambda attention: attention.kind)
def test_the_kits_own_table_keeps_it(attention: AttentionPattern) -> None:
    for test in TESTS:
        getattr(OfTable(TableModule, attention), test)()


def test_a_key_bias_is_nothing_wrong() -> None:
    assert OfTable(KeyBias).broken() == set()


def test_a_sum_of_nothing_is_told_how_to_begin() -> None:
    with pytest.raises(AssertionError, match=r"gave 0, no tensor: .* `logits\.sum\(\) \* 0`"):
        OfTable(SumOfNothing).test_nothing_scored_is_a_loss_of_zero()


SAME, ADD_UP, STEP, NOTHING = TESTS


@pytest.mark.parametrize(
    ("module", "broken"),
    [
        (ThreeArguments, {SAME, ADD_UP, STEP, NOTHING}),
        (Detached, {STEP}),
        (WithoutGradients, {SAME, ADD_UP, STEP, NOTHING}),
        (Uphill, {SAME, STEP}),
        (Averaged, {SAME, ADD_UP}),
        (SumOfNothing, {NOTHING}),
        (PartsOfTheirOwn, {SAME}),
        (LastPartMissing, {SAME, ADD_UP}),
        (PartTwice, {SAME, ADD_UP}),
        (PartWithoutGradients, {SAME, ADD_UP}),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else "",
)
def test_one_that_cannot_train_is_found_out(module: Callable[..., TableModule], broken: set[str]) -> None:
    assert OfTable(module).broken() == broken  # type: ignore[arg-type]
