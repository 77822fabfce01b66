"""Real kernels: losses and gradients as plain attention in float32 has them, to rounding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from opendllm.core.networks import attention, fused_slopes, segment_kernels, varlen_kernels
from opendllm.core.toolkit.segments import document_positions
from opendllm.core.training.decoder_layers import compile_layers, decoder_layers
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.sequences import ModelInputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels of a GPU, and none is here"),
]
VOCABULARY, ROWS, LENGTH = 512, 4, 512
Kernels = Callable[[pytest.MonkeyPatch], None]


def model(dtype: torch.dtype) -> DiffusionLM:
    torch.manual_seed(0)
    family = installed_plugins().backbones.get("llada").build({"preset": "nano"})
    lm = family.build(Vocabulary(VOCABULARY, VOCABULARY - 1, 0))
    exact = {name: buffer.clone() for name, buffer in lm.module.named_buffers()}
    lm.module.to("cuda", dtype).train()
    for name, buffer in lm.module.named_buffers():
        buffer.data = exact[name].cuda()
    return lm


def batch(one_document: bool) -> tuple[ModelInputs, Tensor]:
    draws = torch.Generator().manual_seed(0)
    starts = torch.rand(ROWS, LENGTH, generator=draws) < (0 if one_document else 1 / 100)
    segments = starts.long().cumsum(-1)
    tokens = torch.randint(1, VOCABULARY - 1, segments.shape, generator=draws)
    scored = torch.rand(segments.shape, generator=draws) < 0.5
    inputs = ModelInputs(tokens.cuda(), segments.cuda(), document_positions(segments).cuda())
    return inputs, scored.cuda()


def loss_and_gradients(lm: DiffusionLM, one_document: bool) -> tuple[float, dict[str, Tensor]]:
    inputs, scored = batch(one_document)
    loss = lm.module(inputs, inputs.tokens, scored, lambda nll, chosen: nll.sum() / 1000)
    loss.backward()
    return float(loss), {n: p.grad.float() for n, p in lm.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("one_document", [False, True], ids=["packed", "whole rows"])
@pytest.mark.parametrize("way", ["chosen", "torch's", "flex", "compiled", "not fused"])
def test_each_way_to_compute_gives_the_same_to_rounding(
    monkeypatch: pytest.MonkeyPatch, way: str, one_document: bool
) -> None:
    with monkeypatch.context() as plain:
        plain.setattr(attention, "takes_varlen", lambda query: False)
        plain.setattr(fused_slopes, "serve", lambda hidden: False)
        wanted_loss, wanted = loss_and_gradients(model(torch.float32), one_document)
    lm = model(torch.bfloat16)
    if way == "torch's":
        monkeypatch.setattr(segment_kernels, "kernel_for", lambda *_: varlen_kernels.TORCHS)
    elif way == "flex":
        monkeypatch.setattr(attention, "takes_varlen", lambda query: False)
        monkeypatch.setattr(attention, "FLEX_FROM_LENGTH", 128)
    elif way == "compiled":
        compile_layers(decoder_layers(lm.network))
    elif way == "not fused":
        monkeypatch.setattr(fused_slopes, "serve", lambda hidden: False)
    loss, found = loss_and_gradients(lm, one_document)
    assert loss == pytest.approx(wanted_loss, rel=1e-3)
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() < 0.05 * gradient.norm(), name
