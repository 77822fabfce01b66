"""The recipe that turns autoregressive models into block diffusion, as it is but for its sizes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from opendllm.core import load

from .conftest import Platform, Stock, edit_config, train_tokenizer

KINDS = {"qwen2": ("qwen2", True, 32), "qwen3": ("qwen3", False, 4), "llama": ("llama", False, 4)}
"""By variant: transformers' model_type, whether logits stay shifted, and the block's length."""


@pytest.fixture(scope="module")
def converted(
    stock: Stock, platform: Platform, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The runs of all three variants, two steps each."""
    folder = tmp_path_factory.mktemp("conversion")
    (folder / "corpus").mkdir()
    for name in ("train", "held"):
        lines = [f"def {name}_{n}(a, b={n}):\n    return a + b * {n}\n" for n in range(40)]
        (folder / "corpus" / f"{name}.py").write_text("\n".join(lines))
    variants: dict[str, Any] = {}
    for variant, (kind, _shifted, _block) in KINDS.items():
        stock(folder / variant, kind, tie_word_embeddings=True, vocab_size=290)
        edit_config(folder / variant, rope_theta=10000.0)
        train_tokenizer(folder / variant)
        variants[variant] = {
            "model": {"backbone": {"options": {"pretrained": str(folder / variant)}}},
            "data": {"tokenizer": {"path": str(folder / variant)}},
        }
    corpus = {"train": str(folder / "corpus/train.py"), "held_out": str(folder / "corpus/held.py")}
    manifest = {
        "extends": str(repository / "experiments/block-conversion.yaml"),
        "name": "conversion",
        "device": "cpu",
        "data": {
            "corpus": {"name": "text-files", "options": {**corpus, "dataset": None, "text_field": None}},
            "sequence_length": 64,
        },
        "train": {
            "steps": 2,
            "global_batch_size": 2,
            "micro_batch_size": 1,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "held_out": {"rows": 1, "draws": 1},
        },
        "variants": variants,
    }
    with (folder / "conversion.yaml").open("w") as file:
        YAML().dump(json.loads(json.dumps(manifest)), file)
    result = platform("run", "conversion.yaml", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs" / "conversion"


@pytest.mark.slow
@pytest.mark.parametrize("variant", KINDS)
def test_a_causal_model_becomes_a_block_diffusion_model(converted: Path, variant: str) -> None:
    _, shifted, block = KINDS[variant]
    model = load(converted / variant, device="cpu")
    assert (model.lm.attention.kind, model.lm.attention.block_length) == ("block-causal", block)
    assert model.lm.logit_shift is shifted
    lines = [json.loads(line) for line in (converted / variant / "train.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    tokens = torch.arange(80)[None]
    later = tokens.clone()
    later[0, block:] = 5
    first, other = model.logits(tokens), model.logits(later)
    reach = block + shifted  # a shifted block's logits say what its next token is
    assert torch.equal(first[0, :block], other[0, :block])
    assert not torch.allclose(first[0, reach:], other[0, reach:])
    seen = tokens.clone()
    seen[0, block - 1] = 5
    assert not torch.allclose(
        first[0, : block - 1], model.logits(seen)[0, : block - 1]
    )  # both ways in a block
    [text] = model.generate(["def f(a):\n"], max_new_tokens=2 * block)
    assert model.tokenizer is not None
    assert model.tokenizer.mask_token not in text
