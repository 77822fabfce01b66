"""Causal and block-causal checkpoints: the pattern is the checkpoint's, whatever is asked of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from opendllm.core.toolkit.likelihood import log_likelihood
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

VOCABULARY = Vocabulary(size=20, mask_token_id=19, eos_token_id=0)


def build(family: str, **options: Any) -> DiffusionLM:
    torch.manual_seed(0)
    lm = installed_plugins().backbones.get(family).build(options).build(VOCABULARY)
    lm.module.eval()
    return lm


def logits(lm: DiffusionLM, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return lm.project(lm.hidden_states(inputs_from_mask(tokens, mask)))[0]


@pytest.mark.parametrize("shifted", ["open-dcoder", "dream"])
@pytest.mark.parametrize("pads", [0, 3])
def test_causal_logits_depend_on_earlier_tokens_only(shifted: str, pads: int) -> None:
    lm = build(shifted, attention="causal")
    tokens = torch.randint(1, 19, (1, 8 + pads), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[:, :pads] = 0
    before = logits(lm, tokens, mask)
    for column in range(pads + 1, 8 + pads):
        changed = tokens.clone()
        changed[0, column:] = (changed[0, column:] + 1) % 18 + 1
        after = logits(lm, changed, mask)
        torch.testing.assert_close(
            after[pads + 1 : column + 1], before[pads + 1 : column + 1], atol=1e-5, rtol=0
        )
        if column + 1 < 8 + pads:
            assert (after[column + 1] - before[column + 1]).abs().max() > 1e-4


def test_a_causal_checkpoint_that_is_not_shifted_is_refused() -> None:
    """Its hidden state at i has read token i: it would be trained and scored on copying."""
    with pytest.raises(UserError, match=r"llada.*causal"):
        build("llada", attention="causal")


@pytest.mark.parametrize("shifted", ["open-dcoder", "dream"])
def test_causal_likelihood_is_the_chain_rule(shifted: str) -> None:
    lm = build(shifted, attention="causal")
    tokens = torch.randint(1, 19, (1, 6), generator=torch.Generator().manual_seed(2))
    scorable = torch.ones_like(tokens, dtype=torch.bool)
    scorable[:, 0] = False
    found = log_likelihood(lm, inputs_from_mask(tokens, None), scorable, 4, torch.tensor([0]))
    by_hand = sum(
        float(logits(lm, tokens[:, : end + 1])[end].log_softmax(-1)[tokens[0, end]]) for end in range(1, 6)
    )
    assert float(found.log_likelihood) == pytest.approx(by_hand, abs=1e-4)
    assert float(found.variance) == 0


def test_block_causal_sees_its_own_and_earlier_blocks() -> None:
    lm = build("llada", attention="block-causal", block_length=3)
    tokens = torch.randint(1, 19, (1, 9), generator=torch.Generator().manual_seed(1))
    before = lm.module.network_states(inputs_from_mask(tokens, None))[0]
    for column in range(9):
        changed = tokens.clone()
        changed[0, column] = tokens[0, column] % 18 + 1
        moved = (lm.module.network_states(inputs_from_mask(changed, None))[0] - before).abs().amax(-1) > 1e-6
        assert moved.tolist() == [query // 3 >= column // 3 for query in range(9)]


def test_bidirectional_sees_everything(family: str) -> None:
    lm = build(family)
    tokens = torch.randint(1, 19, (1, 6), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[0, 5] = tokens[0, 5] % 18 + 1
    assert ((logits(lm, changed) - logits(lm, tokens)).abs().amax(-1) > 1e-6).all()
