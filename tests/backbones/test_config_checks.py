"""A config.json that asks for another arithmetic, or for a size that is none, is refused by its key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.plugins.backbones.presets import A2D, SDAR_MOE
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

HEADS = {
    "num_key_value_heads": 3,
    "num_attention_heads": 0,
    "hidden_size": "48",
    "num_hidden_layers": 1.5,
    "vocab_size": -1,
    "max_position_embeddings": None,
    "rms_norm_eps": -1e-6,
    "rope_theta": 0,
    "hidden_act": "sillu",
    "use_sliding_window": True,
}
QWEN = {
    **HEADS,
    "layer_types": ["full_attention", "sliding_attention"],
    "partial_rotary_factor": 0.5,
    "intermediate_size": 0,
}
EXPERTS = {"num_experts": 0, "num_experts_per_tok": 99, "partial_rotary_factor": 0.5, "router_num_group": 4}
REFUSED: dict[str, dict[str, Any]] = {
    "sdar": {**QWEN, "attention_bias": True, "use_qk_norm": False, "head_dim": -16},
    "fast-dllm-v2": {**QWEN, "use_qk_norm": True, "attention_bias": False},
    "dream": {**QWEN, "use_qk_norm": True},
    "open-dcoder": {**QWEN, "num_attention_heads": 5},
    "a2d": {**QWEN, "use_qk_norm": True},
    "llada": {
        "alibi": True,
        "rope": False,
        "attention_layer_norm": True,
        "multi_query_attention": True,
        "block_type": "sequential",
        "activation_type": "swiglu",
        "layer_norm_type": "default",
        "layer_norm_with_affine": False,
        "bias_for_layer_norm": True,
        "include_bias": True,
        "include_qkv_bias": True,
        "input_emb_norm": True,
        "scale_logits": True,
        "clip_qkv": 8.0,
        "rope_scaling": {"type": "linear"},
        "n_kv_heads": 3,
        "n_heads": 5,
        "d_model": 0,
        "n_layers": True,
        "rope_theta": -1.0,
    },
    "sdar-moe": {**HEADS, **EXPERTS, "moe_intermediate_size": 0, "decoder_sparse_step": 0, "n_group": 2},
    "llada-moe": {
        **HEADS,
        **EXPERTS,
        "moe_layer_freq": [1, 0],
        "expert_intermediate_size": -1,
        "qk_layernorm": False,
        "shared_expert_intermediate_size": 16,
        "routed_scaling_factor": 2.5,
        "clip_qkv": 8.0,
    },
    "llada2": {
        **HEADS,
        "n_group": 3,
        "topk_group": 9,
        "num_experts_per_tok": 9,
        "num_experts": 0,
        "num_shared_experts": 0,
        "first_k_dense_replace": 4,
        "routed_scaling_factor": 0.0,
        "head_dim": 0,
        "use_qk_norm": False,
        "norm_softmax": True,
        "router_dtype": "bf16",
        "rope_scaling": {"type": "linear"},
        "partial_rotary_factor": 1.5,
        "rotary_dim": 12,
    },
}
BLOCKS = {"llada2": {"block_length": 8}}
CASES = [(family, key, value) for family, changes in REFUSED.items() for key, value in changes.items()]


def config_of(family: str, goldens: Path) -> dict[str, Any]:
    built = {
        "a2d": {**A2D["nano"], "model_type": "a2d-qwen2", "mask_token_id": 5},
        "sdar-moe": {**SDAR_MOE["nano"], "mask_token_id": 5},
    }
    if family in built:
        return built[family]
    config: dict[str, Any] = json.loads((goldens / family / "config.json").read_text())
    return config


@pytest.mark.parametrize(
    ("family", "key", "value"), CASES, ids=[f"{family}-{key}" for family, key, _ in CASES]
)
def test_a_key_that_is_not_honoured_is_named(
    family: str, key: str, value: object, goldens: Path, tmp_path: Path
) -> None:
    """Before any weight is looked for, and not as a failure of the plugin."""
    backbone = (
        installed_plugins().backbones.get(family).build({"block_length": 8} if family == "llada2" else {})
    )
    config = {"mask_token_id": 150, **config_of(family, goldens)}
    with pytest.raises(UserError, match=rf"config\.json.*\b{key}\b") as caught:
        backbone.load(tmp_path, config | {key: value}, torch.device("cpu"), None)
    assert "cannot be used" not in str(caught.value)


@pytest.mark.parametrize("family", REFUSED)
def test_a_published_config_is_refused_for_nothing(family: str, goldens: Path, tmp_path: Path) -> None:
    backbone = installed_plugins().backbones.get(family).build(BLOCKS.get(family, {}))
    config = {"mask_token_id": 150, **config_of(family, goldens)}
    with pytest.raises(UserError, match="only safetensors are read"):
        backbone.load(tmp_path, config, torch.device("cpu"), None)


@pytest.mark.parametrize("groups", [{"n_group": 16, "topk_group": 16}, {"n_group": 1, "topk_group": 1}])
def test_a_group_has_two_experts_to_be_scored_by(
    groups: dict[str, int], goldens: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(goldens / "llada2", tmp_path / "llada2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | groups))
    if groups["n_group"] == 1:
        load(folder, mask_token_id=150, block_length=8, device="cpu").logits(torch.tensor([[5, 6]]))
        return
    with pytest.raises(UserError, match="n_group is 16, of 16 experts"):
        load(folder, mask_token_id=150, block_length=8, device="cpu")


def test_llada2_turns_half_of_a_head_where_nothing_says_otherwise(goldens: Path, tmp_path: Path) -> None:
    """As the published config class has it; `rotary_dim`, which its code never reads, may only agree."""
    tokens = torch.arange(20)[None]
    wanted = load(goldens / "llada2", mask_token_id=150, block_length=8, device="cpu").logits(tokens)
    folder = shutil.copytree(goldens / "llada2", tmp_path / "llada2")
    config = json.loads((folder / "config.json").read_text())
    silent = {
        key: value for key, value in config.items() if key not in ("rotary_dim", "partial_rotary_factor")
    }
    (folder / "config.json").write_text(json.dumps(silent))
    assert torch.equal(load(folder, mask_token_id=150, block_length=8, device="cpu").logits(tokens), wanted)
    (folder / "config.json").write_text(json.dumps({**silent, "partial_rotary_factor": 1.0}))
    assert not torch.equal(
        load(folder, mask_token_id=150, block_length=8, device="cpu").logits(tokens), wanted
    )
