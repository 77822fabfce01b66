"""Real CUDA graphs: the same tokens as without. Only where there is a GPU; elsewhere graphs are emulated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.decoding.kept_steps import KeptSteps, release_steps
from opendllm.core.language_model import LanguageModel

from .test_graphs import BLOCK_LENGTHS, ROWS, SETTINGS, M, canvas_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU, and none is here"),
]


@pytest.fixture(params=SETTINGS)
def case(
    request: pytest.FixtureRequest, goldens: Path
) -> Iterator[tuple[LanguageModel, str, dict[str, Any]]]:
    family, sampler, options = SETTINGS[request.param]
    block_length = BLOCK_LENGTHS.get(family)
    model = load(goldens / family, mask_token_id=M, device="cuda", block_length=block_length)
    yield model, sampler, options
    release_steps(model.lm)


def test_graphs_write_the_same_tokens(case: tuple[LanguageModel, str, dict[str, Any]]) -> None:
    """In float32, of canvases of two shapes by turns."""
    model, sampler, options = case
    for turn in range(4):
        canvas, mask = (each.cuda() for each in canvas_of(list(ROWS)[turn % 2], turn))
        plain = model.sample(canvas, sampler, mask, seed=turn, **options)
        same = model.sample(canvas, sampler, mask, seed=turn, compile="graphs", **options)
        assert torch.equal(plain.tokens, same.tokens)
        assert torch.equal(plain.forward_passes, same.forward_passes)
    kept: KeptSteps = vars(model.lm)["_kept_steps"]
    assert kept.timing.graphs > 0
    before = torch.cuda.memory_allocated()
    release_steps(model.lm)
    assert torch.cuda.memory_allocated() < before
