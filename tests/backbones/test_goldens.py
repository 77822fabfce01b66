"""Logits and losses of the published implementations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from opendllm.core.language_model import LanguageModel
from opendllm.core.toolkit.segments import document_positions, document_starts
from opendllm.registries.sequences import ModelInputs

from ..golden_vectors import Entry, Vectors, golden

FAMILIES = ("open-dcoder", "llada", "dream")
SECTIONS = {
    "open-dcoder": {"forward", "samples", "loss"},
    "llada": {"forward", "samples", "loss", "padded_sample", "fast_dllm"},
    "dream": {"forward", "samples"},
}
"""What the tests here and in tests/decoding hold of each family."""


@golden(*FAMILIES)
def test_every_section_is_held(vectors: Vectors) -> None:
    expected = vectors.expected
    assert set(expected) == SECTIONS[vectors.name] | {"mask_token_id", "logit_shift"}
    assert all(expected[section] for section in SECTIONS[vectors.name])


@golden(*FAMILIES)
def test_aligned_logits(vectors: Vectors) -> None:
    with Entry(vectors.expected["forward"]) as forward:
        logits = vectors.model.logits(torch.tensor(forward.take("input_ids")))
        row = torch.tensor(forward.take("aligned_logits_row0"))
        torch.testing.assert_close(logits[0], row, atol=1e-4, rtol=0)
        assert logits.argmax(-1).tolist() == forward.take("aligned_logits_argmax")


@golden(*FAMILIES)
def test_shift_and_mask_are_the_checkpoints(vectors: Vectors) -> None:
    lm = vectors.model.lm
    assert lm.logit_shift is vectors.expected["logit_shift"]
    assert lm.mask_token_id == vectors.expected["mask_token_id"]


@golden(*FAMILIES)
def test_a_neighbours_logits_are_others(vectors: Vectors) -> None:
    """The tolerance is tight enough to notice them."""
    forward = vectors.expected["forward"]
    shifted = vectors.model.logits(torch.tensor(forward["input_ids"]).roll(1, dims=1))
    assert (shifted[0] - torch.tensor(forward["aligned_logits_row0"])).abs().max() > 1e-2


@golden("open-dcoder")
def test_open_dcoder_loss_of_packed_documents(vectors: Vectors) -> None:
    """Each target's share, both published forms, and the two terms of the one."""
    with Entry(vectors.expected["loss"]) as loss:
        documents = loss.take("documents")
        tokens = torch.tensor([[token for document in documents for token in document]])
        lengths = torch.tensor([len(document) for document in documents])
        segments = torch.arange(len(documents)).repeat_interleave(lengths)[None]
        masked = torch.tensor([loss.take("masked")])
        ratio = torch.tensor(loss.take("mask_ratio"), dtype=torch.float64).repeat_interleave(lengths)[None]

        lm = vectors.model.lm
        hidden = tokens.masked_fill(masked, lm.mask_token_id)
        inputs = ModelInputs(hidden, segments, document_positions(segments))
        with torch.no_grad():
            nll = lm.negative_log_likelihood(inputs, tokens, masked & ~document_starts(segments))
        torch.testing.assert_close(nll, torch.tensor(loss.take("token_nll")), atol=1e-4, rtol=0)

        mean = {}
        for form in ("head", "release"):
            total, count = vectors.model.loss(tokens, masked, ratio, "open-dcoder", segments, form=form)
            assert int(count) == len(nll)
            mean[form] = float(total / count)
            assert mean[form] == pytest.approx(loss.take(f"open_dcoder_{form}"), abs=1e-4)
        assert float(nll.mean()) == pytest.approx(loss.take("open_dcoder_head_mdm"), abs=1e-4)
        path = mean["head"] - float(nll.mean())
        assert path == pytest.approx(loss.take("open_dcoder_head_path"), abs=1e-4)


@golden("llada")
def test_llada_pretraining_loss(vectors: Vectors) -> None:
    with Entry(vectors.expected["loss"]) as loss:
        probability = (1 - 1e-3) * torch.tensor(loss.take("t"), dtype=torch.float64) + 1e-3
        tokens, masked = torch.tensor(loss.take("input_ids")), torch.tensor(loss.take("masked"))
        total, count = vectors.model.loss(tokens, masked, probability[:, None], objective="llada")
        assert float(total / count) == pytest.approx(loss.take("llada_pretrain"), abs=1e-4)


@pytest.mark.parametrize("objective", ["llada", "mdlm", "dream", "open-dcoder"])
def test_a_batchs_loss_is_the_sum_of_its_rows(
    objective: str, golden_model: Callable[[str], LanguageModel]
) -> None:
    """Sum and count alike: the normaliser is never local."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(100, (3, 13), generator=generator)
    probability = torch.tensor([[0.2], [0.5], [0.9]])
    masked = torch.rand(3, 13, generator=generator) < probability
    model = golden_model("llada")
    together = model.loss(tokens, masked, probability, objective=objective)
    alone = [
        model.loss(tokens[row : row + 1], masked[row : row + 1], probability[row : row + 1], objective)
        for row in range(len(tokens))
    ]
    assert float(sum(total for total, _ in alone)) == pytest.approx(float(together[0]), rel=1e-6)
    assert float(sum(count for _, count in alone)) == float(together[1])
