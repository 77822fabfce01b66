"""Logits and losses of the published implementations."""

from __future__ import annotations

import pytest
import torch


def test_aligned_logits(family, golden_model, expected) -> None:
    forward = expected(family)["forward"]
    logits = golden_model(family).logits(torch.tensor(forward["input_ids"]))
    torch.testing.assert_close(logits[0], torch.tensor(forward["aligned_logits_row0"]), atol=1e-4, rtol=0)
    assert logits.argmax(-1).tolist() == forward["aligned_logits_argmax"]


def test_shift_is_the_checkpoints(family, golden_model, expected) -> None:
    assert golden_model(family).lm.logit_shift is expected(family)["logit_shift"]
    assert golden_model(family).lm.mask_token_id == expected(family)["mask_token_id"]


def test_weights_perturbed_give_other_logits(family, golden_model, expected) -> None:
    """The tolerance is tight enough to notice a neighbour's logits."""
    forward = expected(family)["forward"]
    shifted = golden_model(family).logits(torch.tensor(forward["input_ids"]).roll(1, dims=1))
    assert (shifted[0] - torch.tensor(forward["aligned_logits_row0"])).abs().max() > 1e-2


@pytest.mark.parametrize("form", ["head", "release"])
def test_open_dcoder_loss_of_packed_documents(form, golden_model, expected) -> None:
    loss = expected("open-dcoder")["loss"]
    lengths = [len(document) for document in loss["documents"]]
    per_document = torch.tensor(lengths)
    total, count = golden_model("open-dcoder").loss(
        torch.tensor([[token for document in loss["documents"] for token in document]]),
        torch.tensor([loss["masked"]]),
        torch.tensor(loss["mask_ratio"]).repeat_interleave(per_document)[None],
        objective="open-dcoder",
        segments=torch.arange(len(lengths)).repeat_interleave(per_document)[None],
        form=form,
    )
    assert float(total / count) == pytest.approx(loss[f"open_dcoder_{form}"], abs=1e-4)
    assert int(count) == len(loss["token_nll"])


def test_llada_pretraining_loss(golden_model, expected) -> None:
    loss = expected("llada")["loss"]
    probability = (1 - 1e-3) * torch.tensor(loss["t"], dtype=torch.float64) + 1e-3
    total, count = golden_model("llada").loss(
        torch.tensor(loss["input_ids"]), torch.tensor(loss["masked"]), probability[:, None], objective="llada"
    )
    assert float(total / count) == pytest.approx(loss["llada_pretrain"], abs=1e-4)


def test_loss_is_of_float_weights_whatever_their_layout(golden_model, expected) -> None:
    """A batch's sum and count are the sums over its rows alone: the normaliser is never local."""
    loss = expected("llada")["loss"]
    tokens, masked = torch.tensor(loss["input_ids"]), torch.tensor(loss["masked"])
    probability = torch.tensor(loss["t"])[:, None]
    model = golden_model("llada")
    for objective in ("llada", "mdlm", "dream", "open-dcoder"):
        together = model.loss(tokens, masked, probability, objective=objective)
        alone = [
            model.loss(tokens[row : row + 1], masked[row : row + 1], probability[row : row + 1], objective)
            for row in range(len(tokens))
        ]
        assert float(sum(total for total, _ in alone)) == pytest.approx(float(together[0]), rel=1e-6)
        assert float(sum(count for _, count in alone)) == float(together[1])
