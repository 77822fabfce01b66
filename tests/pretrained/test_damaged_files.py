"""Pretrained folders whose files don't fit each other: every message names the file and the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from opendllm.core import load
from opendllm.core.data.tokenizers import load_tokenizer
from opendllm.registries.errors import UserError

from .conftest import edit_config, load_as, train_tokenizer

KEY = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def sharded(stock: Any, tmp_path: Path) -> Path:
    stock(tmp_path / "model", "qwen2", saving={"max_shard_size": "40KB"})
    return tmp_path / "model"


def shard_of(folder: Path, key: str) -> Path:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / str(index["weight_map"][key])


def rewrite(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    return path


def refused(folder: Path, *words: str, backbone: str = "causal-lm") -> None:
    with pytest.raises(UserError) as caught:
        load_as(backbone, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_a_pattern_in_config_json_that_does_not_exist(sharded: Path) -> None:
    edit_config(sharded, open_dllm={"attention": "sideways"})
    refused(sharded, str(sharded / "config.json"), "open_dllm.attention", "sideways")


def test_a_key_missing_from_a_shard(sharded: Path) -> None:
    rewrite(shard_of(sharded, KEY), lambda tensors: tensors.pop(KEY))
    refused(sharded, str(sharded), KEY)


def test_a_key_too_many_in_a_shard(sharded: Path) -> None:
    path = rewrite(
        shard_of(sharded, KEY), lambda tensors: tensors.update({"model.layers.9.x": torch.ones(1)})
    )
    refused(sharded, path.name, "model.layers.9.x")


def test_a_wrong_shape_in_a_shard(sharded: Path) -> None:
    path = rewrite(shard_of(sharded, KEY), lambda tensors: tensors.update({KEY: torch.ones(3, 4)}))
    refused(sharded, path.name, KEY, "[3, 4]", "[32, 48]")


def test_a_shard_cut_short(sharded: Path) -> None:
    path = shard_of(sharded, KEY)
    path.write_bytes(path.read_bytes()[:-9])
    refused(sharded, str(path), "damaged or cut short")


def test_another_familys_weights(sharded: Path) -> None:
    edit_config(sharded, model_type="qwen3")
    refused(sharded, "safetensors", "self_attn.", backbone="qwen3")


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "rms_norm_eps", "rope_theta"])
def test_a_size_missing_from_config_json(sharded: Path, key: str) -> None:
    edit_config(sharded, **{key: None} if key != "rope_theta" else {"rope_parameters": None})
    refused(sharded, str(sharded / "config.json"), key, backbone="open-dcoder")


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_size", "wide"), ("hidden_size", 30), ("num_hidden_layers", "two"), ("hidden_act", "swishy"),
     ("dtype", "float99"), ("num_key_value_heads", 3)],
)  # fmt: skip
@pytest.mark.parametrize("backbone", ["open-dcoder", "causal-lm"])
def test_a_size_that_makes_no_sense(sharded: Path, backbone: str, key: str, value: Any) -> None:
    edit_config(sharded, **{key: value})
    refused(sharded, "config.json", backbone=backbone)


def test_a_mask_outside_the_vocabulary(autoregressive: Path) -> None:
    edit_config(autoregressive, mask_token_id=4000)
    with pytest.raises(UserError, match="mask token's id 4000 is outside the vocabulary of 290"):
        load(autoregressive, backbone="causal-lm", device="cpu")


def test_a_checkpoint_without_tokenizer_still_computes(stock: Any, tmp_path: Path) -> None:
    stock(tmp_path)
    model = load(tmp_path, backbone="causal-lm", mask_token_id=3, device="cpu")
    assert model.logits(torch.arange(4)[None]).shape == (1, 4, 300)
    with pytest.raises(UserError, match="no tokenizer"):
        model.generate(["a"])


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]"])
def test_a_damaged_tokenizer(autoregressive: Path, content: str) -> None:
    (autoregressive / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="tokenizer") as caught:
        load(autoregressive, backbone="causal-lm", mask_token_id=3, device="cpu")
    assert str(autoregressive) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(str(autoregressive))


def test_a_tokenizer_beside_a_damaged_config(tmp_path: Path) -> None:
    train_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        load_tokenizer(str(tmp_path))


def test_a_mask_token_that_the_tokenizer_lacks(tmp_path: Path) -> None:
    train_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"mask_token_id": 5000}')
    with pytest.raises(UserError, match=r"mask.*5000"):
        load_tokenizer(str(tmp_path))


def test_no_tokenizer_where_one_is_to_be_taken(stock: Any, tmp_path: Path) -> None:
    stock(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer .* cannot be loaded"):
        load_tokenizer(str(tmp_path))
