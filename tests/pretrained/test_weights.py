"""Weights that are there twice, elsewhere, or not plain: the right value, or a refusal that names it."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, TorchAoConfig

from opendllm.core import load
from opendllm.core.checkpoints.export import export_model
from opendllm.core.networks import safetensors_folder
from opendllm.registries.errors import UserError

from .conftest import Stock, edit_config, load_as, logits, train_tokenizer

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
UP = "model.layers.0.mlp.up_proj.weight"


def rewrite(folder: Path, **changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Set tensors of the folder's file (dots written __); None removes one."""
    tensors = load_file(folder / FILE)
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    return tensors


def refusal(folder: Path, **given: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_as("causal-lm", folder, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def load_llada(folder: Path) -> Any:
    return load(folder, device="cpu", mask_token_id=150).lm


# Tied embeddings beside another head


@pytest.fixture
def two_heads(stock: Any, tmp_path: Path) -> Path:
    """config.json ties the embeddings; the file holds another head."""
    folder = tmp_path / "two-heads"
    stock(folder, "llama", tie_word_embeddings=True)
    embedding = load_file(folder / FILE)[EMBEDDING]
    rewrite(folder, lm_head__weight=embedding.flip(0).contiguous())
    return folder


@torch.no_grad()
def test_another_head_is_used_as_transformers_does_and_said(
    two_heads: Path, tokens: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = load_as("causal-lm", two_heads, attention="causal")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert HEAD in line
    assert str(two_heads) in line
    theirs = AutoModelForCausalLM.from_pretrained(two_heads)
    assert torch.equal(lm.network.get_output_embeddings().weight, load_file(two_heads / FILE)[HEAD])
    torch.testing.assert_close(logits(lm, tokens)[:, 1:], theirs(tokens).logits[:, :-1], rtol=0, atol=1e-5)


def test_an_equal_head_stays_tied(stock: Stock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stock(tmp_path, "llama", tie_word_embeddings=True)
    rewrite(tmp_path, lm_head__weight=load_file(tmp_path / FILE)[EMBEDDING].clone())
    capsys.readouterr()
    network = load_as("causal-lm", tmp_path).network
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    assert capsys.readouterr().err == ""


def test_two_heads_in_two_shards_are_compared(two_heads: Path) -> None:
    tensors = load_file(two_heads / FILE)
    (two_heads / FILE).unlink()
    head = {HEAD: tensors.pop(HEAD)}
    save_file(tensors, two_heads / "a.safetensors")
    save_file(head, two_heads / "b.safetensors")
    weight_map = {**dict.fromkeys(tensors, "a.safetensors"), HEAD: "b.safetensors"}
    (two_heads / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    network = load_as("causal-lm", two_heads).network
    assert torch.equal(network.get_output_embeddings().weight, head[HEAD])
    assert torch.equal(network.get_input_embeddings().weight, tensors[EMBEDDING])


def test_lladas_own_word_for_tying(goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((goldens / "llada" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"weight_tying": True}))
    tensors = load_file(goldens / "llada" / FILE)
    head = tensors["model.transformer.wte.weight"] + 1
    save_file(tensors | {"model.transformer.ff_out.weight": head}, tmp_path / FILE)
    lm = load_llada(tmp_path)
    assert "model.transformer.ff_out.weight" in capsys.readouterr().err
    (tmp_path / "saved").mkdir()
    lm.save(tmp_path / "saved", lm.module.state_dict())
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["weight_tying"] is False
    assert torch.equal(load_file(tmp_path / "saved" / FILE)["model.transformer.ff_out.weight"], head)


def test_an_untied_model_trains_and_comes_back_bit_equal(
    two_heads: Path, tokens: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = load_as("causal-lm", two_heads, dtype=torch.float32)
    head, embedding = (lm.network.get_submodule(name).weight for name in ("lm_head", "model.embed_tokens"))
    before = [head.detach().clone(), embedding.detach().clone()]
    optimizer = torch.optim.SGD(lm.module.parameters(), lr=0.1)
    inspect.unwrap(logits)(lm, tokens).logsumexp(-1).sum().backward()
    optimizer.step()
    assert not torch.equal(head, before[0])
    assert not torch.equal(embedding, before[1])
    (tmp_path / "saved").mkdir()
    lm.save(tmp_path / "saved", lm.module.state_dict())
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    capsys.readouterr()
    export_model(tmp_path / "saved", tmp_path / "exported")
    again = load_as("causal-lm", tmp_path / "exported")
    assert capsys.readouterr().err == ""
    for name, tensor in lm.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], tensor), name
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported").state_dict()
    for name, tensor in lm.network.state_dict().items():
        assert torch.equal(theirs[name], tensor), name


def test_one_parameter_under_two_names_is_refused(goldens: Path, tmp_path: Path) -> None:
    """LLaDA's own name for the embedding, and the stock class's."""
    (tmp_path / "config.json").write_text((goldens / "llada" / "config.json").read_text())
    tensors = load_file(goldens / "llada" / FILE)
    first, second = "model.transformer.wte.weight", EMBEDDING
    save_file(tensors | {second: tensors[first].clone()}, tmp_path / FILE)
    load_llada(tmp_path)
    save_file(tensors | {second: tensors[first] + 1}, tmp_path / FILE)
    with pytest.raises(UserError) as caught:
        load_llada(tmp_path)
    for word in (first, second, str(tmp_path / FILE)):
        assert word in str(caught.value)


# Shards and their index


@pytest.fixture
def shards(stock: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    stock(folder, "llama", saving={"max_shard_size": "40KB"})
    return folder


def shard_of(folder: Path, key: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][key]


def other_shard(folder: Path, key: str) -> Path:
    return next(
        path for path in sorted(folder.glob("model-*"), reverse=True) if path != shard_of(folder, key)
    )


@pytest.mark.parametrize("first", [True, False])
def test_a_key_in_two_shards_comes_from_the_one_that_the_index_names(shards: Any, first: bool) -> None:
    here, there = shard_of(shards, UP), other_shard(shards, UP)
    right = load_file(here)[UP]
    if not first:  # the other way around in the order of names
        there = next(path for path in sorted(shards.glob("model-*")) if path != here)
    save_file(load_file(there) | {UP: right + 1}, there)
    assert torch.equal(load_as("causal-lm", shards).network.state_dict()[UP], right)


def test_a_shard_that_the_index_does_not_name_is_ignored(shards: Any, tokens: torch.Tensor) -> None:
    before = logits(load_as("causal-lm", shards), tokens)
    save_file({UP: torch.zeros(1)}, shards / "model-00099-of-00099.safetensors")
    assert torch.equal(logits(load_as("causal-lm", shards), tokens), before)


def test_a_key_that_is_not_where_the_index_says_is_refused(shards: Any) -> None:
    path = other_shard(shards, UP)
    content = json.loads((shards / INDEX).read_text())
    content["weight_map"][UP] = path.name
    (shards / INDEX).write_text(json.dumps(content))
    message = refusal(shards)
    assert UP in message
    assert path.name in message


def test_a_key_that_the_index_names_twice_is_refused(shards: Any) -> None:
    text = (shards / INDEX).read_text()
    other = other_shard(shards, UP).name
    (shards / INDEX).write_text(text.replace('"weight_map": {', f'"weight_map": {{\n"{UP}": "{other}",', 1))
    message = refusal(shards)
    for word in (UP, other, shard_of(shards, UP).name, str(shards / INDEX)):
        assert word in message


def test_a_key_that_two_shards_hold_and_the_index_leaves_out_is_refused(shards: Any) -> None:
    here, there = shard_of(shards, UP), other_shard(shards, UP)
    content = json.loads((shards / INDEX).read_text())
    del content["weight_map"][UP]
    (shards / INDEX).write_text(json.dumps(content))
    save_file(load_file(there) | {UP: load_file(here)[UP] + 1}, there)
    message = refusal(shards)
    for word in (UP, here.name, there.name):
        assert word in message


def test_a_whole_file_beside_an_index_is_read_and_said(
    shards: Any, tokens: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {key: tensor for path in shards.glob("model-*") for key, tensor in load_file(path).items()}
    tensors[UP] = tensors[UP] + 1
    save_file(tensors, shards / FILE, metadata={"format": "pt"})
    assert torch.equal(load_as("causal-lm", shards).network.state_dict()[UP], tensors[UP])
    [line] = capsys.readouterr().err.splitlines()
    assert f"{FILE} is read" in line
    assert str(shards) in line
    theirs = AutoModelForCausalLM.from_pretrained(shards).state_dict()
    assert torch.equal(theirs[UP], tensors[UP])


def test_large_models_are_saved_in_shards(
    stock: Stock, tmp_path: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(tmp_path / "given", "llama")
    lm = load_as("causal-lm", tmp_path / "given")
    monkeypatch.setattr(safetensors_folder, "MAX_SHARD_SIZE", 40_000)
    (tmp_path / "saved").mkdir()
    lm.save(tmp_path / "saved", lm.module.state_dict())
    assert len(list((tmp_path / "saved").glob("model-*-of-*.safetensors"))) > 2
    assert torch.equal(logits(load_as("causal-lm", tmp_path / "saved"), tokens), logits(lm, tokens))


# Keys of others


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_a_wrappers_prefix_is_named(stock: Stock, tmp_path: Path, prefix: str) -> None:
    stock(tmp_path, "llama")
    tensors = {prefix + key: tensor for key, tensor in load_file(tmp_path / FILE).items()}
    save_file(tensors, tmp_path / FILE)
    message = refusal(tmp_path)
    assert repr(prefix) in message
    assert str(tmp_path / FILE) in message


def without_head(folder: Path) -> None:
    """The file as `LlamaModel.save_pretrained` writes it."""
    tensors = {key.removeprefix("model."): value for key, value in load_file(folder / FILE).items()}
    tensors.pop(HEAD, None)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


@torch.no_grad()
def test_a_base_models_file_is_read_where_the_head_is_the_embedding(
    stock: Stock, tmp_path: Path, tokens: torch.Tensor
) -> None:
    expected = stock(tmp_path, "llama", tie_word_embeddings=True)(tokens).logits
    without_head(tmp_path)
    found = logits(load_as("causal-lm", tmp_path, attention="causal"), tokens)
    torch.testing.assert_close(found[:, 1:], expected[:, :-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_masks_that_older_files_hold_are_no_weights(
    stock: Stock, tmp_path: Path, tokens: torch.Tensor, prefix: str
) -> None:
    """As GPT-2 is published: without its head, and with its causal mask."""
    stock(tmp_path, "gpt2")
    plain = logits(load_as("causal-lm", tmp_path), tokens)
    weights = load_file(tmp_path / "model.safetensors")
    published = {prefix + key.removeprefix("transformer."): tensor.clone() for key, tensor in weights.items()}
    published[f"{prefix}h.0.attn.bias"] = torch.ones(1, 1, 512, 512, dtype=torch.bool).tril()
    save_file(published, tmp_path / "model.safetensors", {"format": "pt"})
    assert torch.equal(logits(load_as("causal-lm", tmp_path), tokens), plain)
    published[f"{prefix}h.0.attn.scale"] = torch.ones(1)
    save_file(published, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="which this model does not have"):
        load_as("causal-lm", tmp_path)


def test_a_base_models_file_without_the_head_it_needs_is_refused(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path, "llama", tie_word_embeddings=False)
    without_head(tmp_path)
    assert "lacks the weights lm_head.weight" in refusal(tmp_path)


# Numbers


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(stock: Stock, tmp_path: Path, bad: float) -> None:
    stock(tmp_path, "llama")
    tensor = load_file(tmp_path / FILE)[UP]
    tensor[3, 4] = bad
    rewrite(tmp_path, **{UP.replace(".", "__"): tensor})
    message = refusal(tmp_path)
    assert UP in message
    assert str(tmp_path / FILE) in message


def test_weights_too_large_for_the_wanted_dtype_are_refused(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path, "llama")
    rewrite(tmp_path, **{UP.replace(".", "__"): load_file(tmp_path / FILE)[UP] + 1e5})
    load_as("causal-lm", tmp_path)
    assert "float16" in refusal(tmp_path, dtype=torch.float16)


def test_large_sums_of_finite_weights_are_no_fault(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path, "llama")
    rewrite(tmp_path, **{UP.replace(".", "__"): torch.full((48, 32), 3e38)})
    load_as("causal-lm", tmp_path)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.int64, torch.bool]
)
def test_numbers_that_are_not_plain_are_refused(stock: Stock, tmp_path: Path, dtype: torch.dtype) -> None:
    stock(tmp_path, "llama")
    rewrite(tmp_path, **{UP.replace(".", "__"): load_file(tmp_path / FILE)[UP].to(dtype)})
    message = refusal(tmp_path)
    assert UP in message
    assert str(tmp_path / FILE) in message
    assert "unquantized" in message


@pytest.mark.parametrize("stated", [{"torch_dtype": None, "dtype": None}, {"dtype": "auto"}])
@pytest.mark.parametrize(
    ("most", "one", "expected"),
    [
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16, torch.float16),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float16, torch.float32),
    ],
)
def test_a_config_without_dtype_keeps_the_files(
    stock: Stock, tmp_path: Path, stated: dict[str, Any], most: Any, one: Any, expected: torch.dtype
) -> None:
    stock(tmp_path, "llama")
    edit_config(tmp_path, **{"torch_dtype": None, "dtype": None} | stated)
    tensors = {key: tensor.to(most) for key, tensor in load_file(tmp_path / FILE).items()}
    save_file(tensors | {UP: tensors[UP].to(one)}, tmp_path / FILE)
    lm = load_as("causal-lm", tmp_path)
    assert {parameter.dtype for parameter in lm.module.parameters()} == {expected}


@pytest.mark.parametrize("name", ["int8", "float8_e4m3fn", "half precision", "nn"])
def test_a_dtype_that_no_network_computes_in_is_refused(stock: Stock, tmp_path: Path, name: str) -> None:
    stock(tmp_path, "llama")
    edit_config(tmp_path, dtype=name)
    message = refusal(tmp_path)
    assert repr(name) in message
    assert str(tmp_path / "config.json") in message


# Quantized by others

SCALE = 2.0**-10


def quantize_to_fp8(folder: Path) -> dict[str, torch.Tensor]:
    """In DeepSeek's and Qwen's published fp8 format, blocks of 128; what the weights then mean."""
    meant, written = {}, {}
    for key, tensor in load_file(folder / FILE).items():
        if key.endswith("_proj.weight"):
            rows, columns = (-(-size // 128) for size in tensor.shape)
            written[key] = (tensor / SCALE).clamp(-448, 448).to(torch.float8_e4m3fn)
            written[f"{key}_scale_inv"] = torch.full((rows, columns), SCALE)
            meant[key] = written[key].float() * SCALE
        else:
            written[key] = meant[key] = tensor
    save_file(written, folder / FILE, metadata={"format": "pt"})
    section = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    edit_config(folder, quantization_config=section)
    return meant


@pytest.mark.parametrize(("kind", "backbone"), [("llama", "causal-lm"), ("qwen2", "open-dcoder")])
def test_fp8_weights_are_multiplied_by_their_scales(
    stock: Stock, tmp_path: Path, tokens: torch.Tensor, kind: str, backbone: str
) -> None:
    stock(tmp_path / "given", kind, hidden_size=128, intermediate_size=256, head_dim=32)
    meant = quantize_to_fp8(tmp_path / "given")
    lm = load_as(backbone, tmp_path / "given", dtype=torch.float32)
    for name, tensor in lm.network.state_dict().items():
        assert torch.equal(tensor, meant[name]), name
    (tmp_path / "saved").mkdir()
    lm.save(tmp_path / "saved", lm.module.state_dict())
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    again = load_as(None, tmp_path / "saved")
    assert torch.equal(logits(again, tokens), logits(lm, tokens))


@torch.no_grad()
def test_torchaos_weights_stay_as_they_are(stock: Stock, tmp_path: Path, tokens: torch.Tensor) -> None:
    stock(tmp_path / "plain", "llama", hidden_size=128, intermediate_size=256, head_dim=32)
    settings = TorchAoConfig(Int8WeightOnlyConfig())
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=settings, device_map="cpu"
    )
    model.save_pretrained(tmp_path / "given")
    lm = load_as("causal-lm", tmp_path / "given", attention="causal")
    found = logits(lm, tokens)
    torch.testing.assert_close(found[:, 1:], model(tokens).logits[:, :-1], rtol=0, atol=1e-5)
    export_model(tmp_path / "given", tmp_path / "out", "50KB")
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    again = load_as("causal-lm", tmp_path / "out", attention="causal")
    assert torch.equal(logits(again, tokens), found)
    assert "torchao" in refusal(tmp_path / "given", dtype=torch.float32)  # as training asks for
    with pytest.raises(UserError, match="not saved"):
        lm.save(tmp_path, lm.module.state_dict())


def test_fp8_weights_without_their_config_are_named(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path, "llama", hidden_size=128, intermediate_size=256, head_dim=32)
    quantize_to_fp8(tmp_path)
    edit_config(tmp_path, quantization_config=None)
    message = refusal(tmp_path)
    assert str(tmp_path / FILE) in message
    assert "unquantized checkpoint" in message


@pytest.mark.parametrize(
    ("section", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes_8bit"),
        ({"load_in_4bit": True}, "bitsandbytes_4bit"),
        ({"quant_method": "modelopt"}, "modelopt"),
        ({"bits": 4}, "unnamed"),
        ("int4", "unnamed"),
        ([], "unnamed"),
        ({}, "unnamed"),
    ],
)
def test_quantized_weights_are_never_read_as_plain_ones(
    stock: Stock, tmp_path: Path, section: dict[str, Any], method: str
) -> None:
    stock(tmp_path, "llama")
    edit_config(tmp_path, quantization_config=section)
    for given in ({}, {"dtype": torch.float32}):
        message = refusal(tmp_path, **given)
        assert method in message
        assert str(tmp_path) in message


def test_a_quantized_file_is_not_quantized_again(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path, "llama", hidden_size=128, intermediate_size=256, head_dim=32)
    quantize_to_fp8(tmp_path)
    assert "load_in_8bit" in refusal(tmp_path, load_in_8bit=True)


def test_a_family_with_its_own_keys_refuses_quantized_weights(goldens: Path, tmp_path: Path) -> None:
    config = json.loads((goldens / "llada" / "config.json").read_text())
    section = {"quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(config | section))
    (tmp_path / FILE).write_bytes((goldens / "llada" / FILE).read_bytes())
    with pytest.raises(UserError, match=r"fp8.*llada"):
        load_llada(tmp_path)


@pytest.mark.slow
def test_an_untied_model_is_trained_resumed_and_exported(
    two_heads: Path, tmp_path: Path, platform: Any
) -> None:
    train_tokenizer(two_heads)
    (tmp_path / "corpus").mkdir()
    for name in ("train", "held"):
        lines = [f"def {name}_{n}(a, b={n}):\n    return a + b * {n}\n" for n in range(9)]
        (tmp_path / "corpus" / f"{name}.py").write_text("\n".join(lines))
    corpus = {"train": "corpus/train.py", "held_out": "corpus/held.py"}
    manifest = {
        "name": "tiny",
        "device": "cpu",
        "model": {"backbone": {"name": "causal-lm", "options": {"pretrained": "two-heads"}}},
        "data": {"corpus": {"name": "text-files", "options": corpus}, "sequence_length": 32},
        "train": {"objective": {"name": "mdlm"}, "steps": 4, "checkpoint": {"every": 2, "keep": 2}},
        "evaluate": [],
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(manifest))
    first = platform("run", "tiny.yaml", "--only", "train", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("weights hold another one") == 1
    variant = tmp_path / "runs" / "tiny" / "default"
    last = variant / "checkpoints" / "step-4"
    whole = load_file(last / "model" / FILE)
    given = load_file(two_heads / FILE)
    size = len(given[HEAD])
    assert not torch.equal(whole[HEAD][:size], whole[EMBEDDING][:size])
    assert 0 < (whole[HEAD][:size] - given[HEAD]).abs().max() < 0.1
    shutil.rmtree(last)
    again = platform("run", "tiny.yaml", "--only", "train", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    resumed = load_file(last / "model" / FILE)
    assert all(torch.equal(resumed[key], tensor) for key, tensor in whole.items())
    out = platform("export", variant, "--to", "out", "--max-shard-size", "40KB", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert stock.keys() == whole.keys()
    assert all(torch.equal(stock[key], tensor) for key, tensor in whole.items())
