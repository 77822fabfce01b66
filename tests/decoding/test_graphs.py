"""What CUDA graphs can break: memory of another canvas, pointers to what is gone, reads on the host."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.decoding import fixed_step, kept_steps
from opendllm.core.decoding.kept_steps import release_steps
from opendllm.core.language_model import LanguageModel

from .emulated_graphs import CaptureError, DeadPointerError, EmulatedCaptures

M = 150
FAMILIES: dict[str, dict[str, Any]] = {
    "llada": {},
    "dream": {},
    "open-dcoder": {},
    "sdar": {},
    "llada2": {"block_length": 8},
    "fast-dllm-v2": {},
}
SETTINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("sdar", "block-steps", {"threshold": 0.02, "block_steps": 4}),
    ("sdar", "block-steps", {"threshold": 0.02, "temperature": 1.0, "top_k": 5, "early_stop": True}),
    ("llada2", "block-steps", {"threshold": 0.02}),
    ("llada2", "token-editing", {"threshold": 0.02, "editing_threshold": 0.05, "early_stop": True}),
    ("sdar", "token-editing", {"threshold": 0.02, "editing_threshold": 0.05, "temperature": 0.8}),
    ("fast-dllm-v2", "block-steps", {"threshold": 0.02}),
    ("fast-dllm-v2", "block-steps", {"threshold": 0.02, "block_length": 4, "cache": "dual"}),
    ("fast-dllm-v2", "confidence-threshold", {"threshold": 0.02, "block_length": 2, "cache": "dual"}),
    ("llada", "confidence-threshold", {"threshold": 0.02, "block_length": 5, "cache": "dual"}),
    ("llada", "confidence-threshold", {"threshold": 0.02, "block_length": 5, "early_stop": True}),
    ("dream", "confidence-factor", {"block_length": 5, "cache": "prefix", "temperature": 0.9}),
    ("dream", "entropy", {"guidance_scale": 0.5, "cache": "prefix", "block_length": 6}),
    (
        "llada",
        "low-confidence",
        {"block_length": 5, "cache": "prefix", "cache_refresh": 3, "guidance_scale": 0.5},
    ),
    ("llada", "low-confidence", {"block_length": 6, "cache": "dual", "early_stop": True}),
    ("open-dcoder", "p2", {"steps": 6, "temperature": 0.7, "cache": "dual", "block_length": 6}),
    ("llada", "remdm", {"temperature": 0.7, "cache": "dual", "block_length": 6, "steps": 9}),
    ("llada", "ancestral", {"temperature": 0.7, "cache": "dual", "block_length": 6}),
]
ROWS = {
    (2, 24): ([7, 11], [(0, 0), (3, 0)]),
    (3, 20): ([2, 20, 9], [(0, 0), (0, 0), (0, 2)]),
}
"""(rows, columns): the prompts' lengths, and the padding (left, right)."""


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> EmulatedCaptures:
    """Graphs are captured and replayed; nothing is compiled."""
    found = EmulatedCaptures()
    monkeypatch.setattr(kept_steps, "captures_on", lambda _device: found)
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    monkeypatch.setattr(shutil, "which", lambda _name: "a compiler")
    return found


@pytest.fixture
def model(goldens: Path) -> Callable[[str], LanguageModel]:
    return lambda name: load(goldens / name, mask_token_id=M, device="cpu", **FAMILIES[name])


def canvas_of(shape: tuple[int, int], turn: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Other tokens at every turn."""
    prompts, padding = ROWS[shape]
    canvas = torch.full(shape, M)
    mask = torch.ones(shape, dtype=torch.int64)
    numbers = torch.Generator().manual_seed(turn)
    for row, (prompt, (left, right)) in enumerate(zip(prompts, padding, strict=True)):
        canvas[row, left : left + prompt] = torch.randint(5, 140, (prompt,), generator=numbers)[
            : shape[1] - left
        ]
        mask[row, :left] = 0
        mask[row, shape[1] - right :] = 0
    return canvas, mask


@pytest.mark.parametrize(("family", "sampler", "options"), SETTINGS, ids=lambda value: str(value)[:40])
def test_replayed_steps_are_the_same_steps(
    family: str,
    sampler: str,
    options: dict[str, Any],
    captures: EmulatedCaptures,
    model: Callable[[str], LanguageModel],
) -> None:
    """Of canvases of two shapes by turns."""
    lm = model(family)
    for turn in range(5):
        canvas, mask = canvas_of(list(ROWS)[turn % 2], turn)
        plain = lm.sample(canvas, sampler, mask, seed=turn, **options)
        same = lm.sample(canvas, sampler, mask, seed=turn, compile=True, **options)
        assert torch.equal(plain.tokens, same.tokens)
        assert torch.equal(plain.forward_passes, same.forward_passes)
    assert captures.captured
    assert captures.replayed > captures.captured
    assert captures.refused == []
