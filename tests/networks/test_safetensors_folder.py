"""Checkpoints whose files don't fit: every message names the file and the key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from opendllm.core import load
from opendllm.registries.errors import UserError

KEY = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def folder(goldens: Path, tmp_path: Path) -> Path:
    target = tmp_path / "model"
    shutil.copytree(goldens / "dream", target)
    return target


@pytest.fixture
def rewrite(folder: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], object]], None]:
    """Change the tensors of the folder's file."""

    def change(edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")

    return change


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(folder, device="cpu")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def shard(folder: Path) -> None:
    """The same weights in two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    keys = sorted(tensors)
    names = {key: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, key in enumerate(keys)}
    for name in set(names.values()):
        save_file({key: tensors[key] for key in keys if names[key] == name}, folder / name)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_missing_key(
    folder: Path, rewrite: Callable[[Callable[[dict[str, torch.Tensor]], object]], None]
) -> None:
    rewrite(lambda tensors: tensors.pop(KEY))
    refused(folder, str(folder), KEY)


def test_many_missing_keys_are_counted(
    folder: Path, rewrite: Callable[[Callable[[dict[str, torch.Tensor]], object]], None]
) -> None:
    rewrite(lambda tensors: [tensors.pop(key) for key in sorted(tensors)[:5]])
    refused(folder, str(folder), "and 2 more")


def test_extra_key(
    folder: Path, rewrite: Callable[[Callable[[dict[str, torch.Tensor]], object]], None]
) -> None:
    rewrite(lambda tensors: tensors.update({"model.layers.7.extra": torch.zeros(2)}))
    refused(folder, "model.safetensors", "model.layers.7.extra")


def test_wrong_shape(
    folder: Path, rewrite: Callable[[Callable[[dict[str, torch.Tensor]], object]], None]
) -> None:
    rewrite(lambda tensors: tensors.update({KEY: torch.zeros(3, 48)}))
    refused(folder, "model.safetensors", KEY, "[3, 48]", "[80, 48]")


def test_missing_key_of_a_renaming_family_is_the_files_own(goldens: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(goldens / "llada", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.transformer.blocks.1.ff_proj.weight")
    save_file(tensors, folder / "model.safetensors")
    refused(folder, str(folder), "model.transformer.blocks.1.ff_proj.weight")


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_truncated_file(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    refused(folder, str(path))


def test_only_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, str(folder), "model.safetensors", "pytorch_model.bin")


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, str(folder), "model.safetensors")


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "/etc/model.safetensors", "sub/m.safetensors"]
)
def test_index_that_leaves_its_folder(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {KEY: name}}))
    refused(folder, "model.safetensors.index.json", name)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": [1]}', '{"weight_map": {"a": []}}'])
def test_damaged_index(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder, str(folder))


def test_index_naming_a_missing_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, "model-00002-of-00002.safetensors")


def test_shards_load_like_one_file(folder: Path, goldens: Path) -> None:
    shard(folder)
    whole = load(goldens / "dream", device="cpu").lm.module.state_dict()
    for name, tensor in load(folder, device="cpu").lm.module.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_damaged_config(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    refused(folder, "config.json")


@pytest.mark.parametrize(
    ("family", "key"),
    [("dream", "hidden_size"), ("dream", "num_hidden_layers"), ("open-dcoder", "max_position_embeddings"),
     ("llada", "d_model"), ("llada", "n_layers")],
)  # fmt: skip
def test_config_without_a_size(goldens: Path, tmp_path: Path, family: str, key: str) -> None:
    shutil.copytree(goldens / family, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    del config[key]
    path.write_text(json.dumps(config | {"mask_token_id": 150}))
    refused(tmp_path / "model", str(path), key)


def test_mask_outside_the_vocabulary(goldens: Path) -> None:
    with pytest.raises(UserError, match="160"):
        load(goldens / "dream", mask_token_id=160, device="cpu")


def test_no_mask_token_named(goldens: Path) -> None:
    with pytest.raises(UserError, match="mask_token_id"):
        load(goldens / "open-dcoder", device="cpu")


def test_unknown_family(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "gpt2"}))
    refused(folder, "gpt2", "dream", "llada", "open-dcoder")
