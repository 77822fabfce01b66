"""Stock causal language models: the same numbers when causal, and bidirectional otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.registries.errors import UserError

from .conftest import VOCABULARY, Stock, edit_config, load_as, logits

KINDS = [("llama", "causal-lm"), ("qwen2", "open-dcoder"), ("qwen2", "causal-lm"), ("qwen3", "qwen3"),
         ("mistral", "causal-lm"), ("gpt2", "causal-lm"), ("olmo2", "causal-lm")]  # fmt: skip
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 32,
}
ALL = pytest.mark.parametrize(("kind", "backbone"), KINDS)


def build(stock: Stock, folder: Path, kind: str, **given: Any) -> Any:
    if kind == "mistral":
        given["sliding_window"] = None
    return stock(folder, kind, **given)


def shift_option(backbone: str, value: bool) -> dict[str, Any]:
    return {} if backbone == "open-dcoder" else {"logit_shift": value}


@ALL
@torch.no_grad()
def test_a_causal_model_gives_the_stock_logits_one_later(
    stock: Stock, tmp_path: Path, tokens: torch.Tensor, kind: str, backbone: str
) -> None:
    expected = build(stock, tmp_path, kind)(tokens).logits
    found = logits(load_as(backbone, tmp_path, attention="causal", **shift_option(backbone, True)), tokens)
    torch.testing.assert_close(found[:, 1:], expected[:, :-1], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:, 0], expected[:, 0], rtol=0, atol=1e-5)


@ALL
def test_a_later_token_changes_an_earlier_position_by_default(
    stock: Stock, tmp_path: Path, tokens: torch.Tensor, kind: str, backbone: str
) -> None:
    build(stock, tmp_path, kind)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % (VOCABULARY - 1)
    lm = load_as(backbone, tmp_path)
    assert lm.attention.kind == "bidirectional"
    assert (logits(lm, tokens)[:, 0] - logits(lm, changed)[:, 0]).abs().max() > 1e-4


@pytest.mark.parametrize(("kind", "backbone"), [("llama", "causal-lm"), ("qwen3", "qwen3")])
def test_without_shift_position_i_is_the_networks_own_position_i(
    stock: Stock, tmp_path: Path, tokens: torch.Tensor, kind: str, backbone: str
) -> None:
    build(stock, tmp_path, kind)
    shifted = logits(load_as(backbone, tmp_path, logit_shift=True), tokens)
    own = logits(load_as(backbone, tmp_path, logit_shift=False), tokens)
    torch.testing.assert_close(shifted[:, 1:], own[:, :-1], rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="cannot be causal where logits are not shifted"):
        load_as(backbone, tmp_path, logit_shift=False, attention="causal")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@torch.no_grad()
def test_shards_and_shared_embeddings(
    stock: Stock, tmp_path: Path, tokens: torch.Tensor, kind: str, tied: bool
) -> None:
    model = stock(tmp_path, kind, tie_word_embeddings=tied, saving={"max_shard_size": "40KB"})
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    lm = load_as("causal-lm", tmp_path, attention="causal")
    torch.testing.assert_close(logits(lm, tokens)[:, 1:], model(tokens).logits[:, :-1], rtol=0, atol=1e-5)
    network = lm.module.network
    assert (network.get_input_embeddings().weight is network.get_output_embeddings().weight) is tied


def test_stored_precision_is_kept_and_can_be_overridden(stock: Stock, tmp_path: Path) -> None:
    model = stock(tmp_path, dtype=torch.bfloat16)
    kept = load_as("causal-lm", tmp_path).module.network.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(kept[name], tensor), name
        assert kept[name].dtype == torch.bfloat16, name
    cast = load_as("causal-lm", tmp_path, torch.float32).module.network.state_dict()
    assert {tensor.dtype for tensor in cast.values()} == {torch.float32}
    assert all(torch.equal(cast[name], tensor.float()) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@torch.no_grad()
def test_a2d_is_a_bidirectional_qwen_without_shift(
    stock: Stock, tmp_path: Path, tokens: torch.Tensor, kind: str
) -> None:
    model = stock(tmp_path, kind)
    edit_config(tmp_path, model_type=f"a2d-{kind}")
    loaded = load(tmp_path, mask_token_id=VOCABULARY - 1, device="cpu")
    assert (loaded.lm.logit_shift, loaded.lm.attention.kind) == (False, "bidirectional")
    assert loaded.default_sampler == "low-confidence"
    # One token sees the same whatever the attention pattern is.
    torch.testing.assert_close(loaded.logits(tokens[:, :1]), model(tokens[:, :1]).logits, rtol=0, atol=1e-5)
    assert (loaded.logits(tokens)[:, 0] - model(tokens).logits[:, 0]).abs().max() > 1e-3
    unshifted = logits(load_as("causal-lm", renamed(tmp_path, kind), logit_shift=False), tokens)
    torch.testing.assert_close(loaded.logits(tokens), unshifted, rtol=0, atol=1e-6)


def renamed(folder: Path, kind: str) -> Path:
    edit_config(folder, model_type=kind)
    return folder


def test_the_family_is_read_from_config_json(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path, "qwen2")
    assert load(tmp_path, mask_token_id=3, device="cpu").default_sampler == "p2"


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "nonesuch", None])
def test_an_unsettled_family_names_the_candidates(
    stock: Stock, tmp_path: Path, model_type: str | None
) -> None:
    stock(tmp_path)
    edit_config(tmp_path, model_type=model_type)
    with pytest.raises(UserError, match="does not settle the family; name one of") as caught:
        load(tmp_path, mask_token_id=3, device="cpu")
    assert f"{tmp_path / 'config.json'}: model_type {model_type!r}" in str(caught.value)
    assert "causal-lm" in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "architecture", "family"),
    [
        ("sdar_v2", "SDARForCausalLM", "sdar"),
        ("llada2_2_moe", "LLaDA2MoeModelLM", "llada2"),
        ("SDARMoe", "SDARMoeForCausalLM", "sdar-moe"),
        ("fast_dllm_v2", "Fast_dLLM_QwenForCausalLM", "fast-dllm-v2"),
        ("own", "OwnModel", None),
    ],
)
def test_a_family_that_asks_for_code_names_the_backbone(
    stock: Stock, tmp_path: Path, model_type: str, architecture: str, family: str | None
) -> None:
    stock(tmp_path)
    auto_map = {"AutoModelForCausalLM": "modeling.Model"}
    edit_config(tmp_path, model_type=model_type, architectures=[architecture], auto_map=auto_map)
    with pytest.raises(UserError, match=r"auto_map.*never run") as caught:
        load(tmp_path, mask_token_id=3, device="cpu")
    assert (f"`backbone: {family}` has a similar name" in str(caught.value)) == (family is not None)
    assert ("has a similar name" in str(caught.value)) == (family is not None)


def test_remote_code_is_never_run(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path)
    edit_config(tmp_path, model_type="own", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    (tmp_path / "modeling.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(UserError, match=r"auto_map.*never run.*causal-lm"):
        load(tmp_path, mask_token_id=3, device="cpu")
    with pytest.raises(UserError, match="transformers has no model_type 'own'"):
        load_as("causal-lm", tmp_path)


@pytest.mark.parametrize(
    ("kind", "sizes", "expected"),
    [
        ("gemma2", {}, "sliding-window"),
        ("mistral", {"sliding_window": 64}, "sliding-window"),
        ("cohere", {"logit_scale": 0.06}, "logit_scale"),
        ("granite", {"logits_scaling": 8.0}, "logits_scaling"),
        ("bloom", {}, "bloom"),
        ("bert", {}, "bert.* more between its states and its logits"),
        ("roberta", {}, "roberta.* more between its states and its logits"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "conv layers"),
        ("llama", {"rope_parameters": LONGROPE}, "longrope positions"),
        ("mamba", {}, "mamba"),
    ],
)
def test_arithmetic_that_is_not_supported_is_refused(
    stock: Stock, tmp_path: Path, kind: str, sizes: dict[str, Any], expected: str
) -> None:
    """Never other numbers than the checkpoint's."""
    stock(tmp_path, kind, **sizes)
    with pytest.raises(UserError, match=expected):
        load_as("causal-lm", tmp_path)


def test_a_family_whose_keys_differ_names_the_key(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path, "qwen2")
    with pytest.raises(UserError, match=r"lacks 'n_layers'|lacks 'd_model'|lacks the key"):
        load_as("llada", tmp_path)
    assert "d_model" not in json.loads((tmp_path / "config.json").read_text())


def test_a_tokenizer_without_mask_token_asks_for_it(autoregressive: Path) -> None:
    with pytest.raises(UserError, match="names a mask token: give mask_token_id"):
        load(autoregressive, backbone="causal-lm", device="cpu")
    lm = load(autoregressive, backbone="causal-lm", mask_token_id=289, device="cpu")
    assert lm.tokenizer is not None
    with pytest.raises(UserError, match="id 290 is outside the vocabulary of 290"):
        load(autoregressive, backbone="causal-lm", mask_token_id=290, device="cpu")
