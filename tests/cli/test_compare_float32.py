"""`platform generate --compare-float32`: the share of tokens that 16 bits don't change."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.registries.gaps import Gap

PROMPTS = ["def add(a, b):", "x", "return 1"]


@pytest.fixture
def narrow(model: Path, tmp_path: Path) -> Path:
    """The tiny run's model in bfloat16."""
    folder = tmp_path / "narrow"
    shutil.copytree(model, folder)
    lm = load(model, device="cpu", dtype=torch.bfloat16).lm
    for file in folder.glob("*.safetensors"):
        file.unlink()
    lm.save(folder, lm.module.state_dict())
    assert next(load(folder, device="cpu").lm.module.parameters()).dtype == torch.bfloat16
    return folder


def test_the_share_of_equal_tokens_is_said_of_each_sampler(narrow: Path, here: Callable[..., Any]) -> None:
    """As it is counted here, position by position up to where the longer text ends."""
    options = {"max_new_tokens": 24, "steps": 24, "temperature": 1.0}
    asked = ["generate", "--checkpoint", narrow, "--device", "cpu", "--seed", "3"]
    asked += [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    asked += [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    code, written, said = here(*asked, "--compare-float32", "--sampler", "p2")
    assert code == 0
    assert here(*asked, "--sampler", "p2")[1] == written
    texts = []
    for dtype in (torch.bfloat16, torch.float32):
        lm = load(narrow, device="cpu", dtype=dtype)
        gaps = [Gap(prompt) for prompt in PROMPTS]
        texts.append(lm.fill(gaps, options, sampler="p2", seed=3))
    kept = [[each.tokens[: each.kept_tokens] for each in of_dtype] for of_dtype in texts]
    equal = sum(a == b for rows in zip(*kept, strict=True) for a, b in zip(*rows, strict=False))
    total = sum(max(map(len, rows)) for rows in zip(*kept, strict=True))
    same = sum(a.text == b.text for a, b in zip(*texts, strict=True))
    assert 0 < equal <= total
    [line] = [line for line in said.splitlines() if line.startswith("bfloat16 beside float32")]
    share = f"{equal} of {total} tokens are the same ({equal / total:.1%}), and {same} of 3 texts"
    assert line == f"bfloat16 beside float32, p2: {share}"


def test_nothing_is_compared_where_nothing_is_rounded(model: Path, refused: Callable[..., str]) -> None:
    said = refused("generate", "--checkpoint", model, "--prompt", "x", "--compare-float32")
    assert re.search("weights are in float32 already: leave it out", said)
