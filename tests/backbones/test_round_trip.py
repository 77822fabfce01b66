"""What `save` writes is the published layout, and `load` reads it back bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from opendllm.core import load
from opendllm.core.language_model import LanguageModel
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins

PUBLISHED_KEYS = {
    "open-dcoder": ["model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.bias", "model.norm.weight"],
    "dream": ["model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.bias", "lm_head.weight"],
    "llada": [
        "model.transformer.wte.weight",
        "model.transformer.ln_f.weight",
        "model.transformer.ff_out.weight",
        *(
            f"model.transformer.blocks.0.{name}.weight"
            for name in (
                "q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out", "attn_norm",
                "ff_norm",
            )
        ),
    ],
}  # fmt: skip


def save(lm: DiffusionLM, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    lm.save(folder, lm.module.state_dict())
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def assert_same(found: DiffusionLM, wanted: DiffusionLM) -> None:
    ours, theirs = found.module.state_dict(), wanted.module.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
        assert ours[name].dtype == tensor.dtype, name
    for attribute in (
        "mask_token_id",
        "eos_token_id",
        "vocab_size",
        "context_length",
        "attention",
        "logit_shift",
    ):
        assert getattr(found, attribute) == getattr(wanted, attribute), attribute


@pytest.mark.parametrize("name", installed_plugins().backbones.names())
def test_built_model_round_trips(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    lm = installed_plugins().backbones.get(name).build().build(Vocabulary(64, 63, 2))
    save(lm, tmp_path / "model")
    assert_same(load(tmp_path / "model", device="cpu").lm, lm)


def test_golden_keys_are_written_as_read(
    family: str, golden_model: Callable[[str], LanguageModel], goldens: Path, tmp_path: Path
) -> None:
    save(golden_model(family).lm, tmp_path / "model")
    written = load_file(tmp_path / "model" / "model.safetensors")
    published = load_file(goldens / family / "model.safetensors")
    assert written.keys() == published.keys()
    assert set(PUBLISHED_KEYS[family]) <= written.keys()
    for key, tensor in published.items():
        assert torch.equal(written[key], tensor), key


def test_golden_config_is_kept(
    family: str, golden_model: Callable[[str], LanguageModel], goldens: Path, tmp_path: Path
) -> None:
    written = save(golden_model(family).lm, tmp_path / "model")
    published = json.loads((goldens / family / "config.json").read_text())
    assert published.items() <= written.items()
    assert written["mask_token_id"] == 150


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["open-dcoder", "dream", "llada"])
def test_tied_and_untied_heads_round_trip(name: str, tied: bool, goldens: Path, tmp_path: Path) -> None:
    key = "weight_tying" if name == "llada" else "tie_word_embeddings"
    config = json.loads((goldens / name / "config.json").read_text()) | {key: tied, "mask_token_id": 150}
    tensors = load_file(goldens / name / "model.safetensors")
    embedding, head = {
        "llada": ("model.transformer.wte.weight", "model.transformer.ff_out.weight"),
    }.get(name, ("model.embed_tokens.weight", "lm_head.weight"))
    tensors.pop(head, None)
    if not tied:
        tensors[head] = tensors[embedding] + 1
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    lm = load(folder, device="cpu").lm
    heads = lm.module.state_dict()
    assert torch.equal(heads["network.lm_head.weight"], heads["network.model.embed_tokens.weight"]) is tied
    save(lm, tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == tensors.keys()
    assert_same(load(tmp_path / "saved", device="cpu").lm, lm)


@pytest.mark.parametrize("stated", ["torch_dtype", "dtype"])
def test_weights_keep_their_precision_when_the_given_config_states_another(
    family: str, stated: str, goldens: Path, tmp_path: Path
) -> None:
    """Published checkpoints state bfloat16; trained on in float32, they must not be cut when loaded."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((goldens / family / "model.safetensors").read_bytes())
    config = json.loads((goldens / family / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {stated: "bfloat16", "mask_token_id": 150}))
    assert next(load(folder, device="cpu").lm.module.parameters()).dtype == torch.bfloat16
    lm = load(folder, device="cpu", dtype=torch.float32).lm
    save(lm, tmp_path / "saved")
    assert_same(load(tmp_path / "saved", device="cpu").lm, lm)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_saved_dtype_is_loaded(
    family: str,
    golden_model: Callable[[str], LanguageModel],
    goldens: Path,
    tmp_path: Path,
    dtype: torch.dtype,
) -> None:
    lm = load(goldens / family, device="cpu", mask_token_id=150, dtype=dtype).lm
    save(lm, tmp_path / "model")
    assert_same(load(tmp_path / "model", device="cpu").lm, lm)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llada", {"attention": "block-causal", "block_length": 4}),
        ("dream", {"attention": "causal"}),
        ("open-dcoder", {"attention": "causal"}),
    ],
)
def test_attention_pattern_travels_with_the_checkpoint(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    lm = installed_plugins().backbones.get(name).build(options).build(Vocabulary(32, 31, 0))
    save(lm, tmp_path / "model")
    assert_same(load(tmp_path / "model", device="cpu").lm, lm)
    assert load(tmp_path / "model", device="cpu").lm.attention.kind == options["attention"]


@pytest.mark.parametrize(("name", "key"), [("sdar", "block_size"), ("fast-dllm-v2", "bd_size")])
def test_another_block_length_is_written_where_its_authors_read_it(
    name: str, key: str, goldens: Path, tmp_path: Path
) -> None:
    lm = load(goldens / name, device="cpu", block_length=16, mask_token_id=150).lm
    assert save(lm, tmp_path / "model")[key] == 16
    assert load(tmp_path / "model", device="cpu").lm.attention.block_length == 16


@pytest.mark.parametrize("name", ["open-dcoder", "dream"])
@pytest.mark.parametrize("version", [4, 5])
def test_rotary_base_as_either_transformers_writes_it(
    name: str, version: int, goldens: Path, tmp_path: Path
) -> None:
    config = json.loads((goldens / name / "config.json").read_text()) | {"mask_token_id": 150}
    del config["rope_theta"]
    rope = {4: {"rope_theta": 500.0}, 5: {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}}
    (tmp_path / "config.json").write_text(json.dumps(config | rope[version]))
    (tmp_path / "model.safetensors").write_bytes((goldens / name / "model.safetensors").read_bytes())
    rotary: Any = load(tmp_path, device="cpu").lm.module.network.model.rotary_emb
    width = 2 * len(rotary.inv_freq)
    assert float(rotary.inv_freq[1]) == pytest.approx(500.0 ** (-2 / width), rel=1e-5)
