"""Exported folders: what others load, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from opendllm.core import load
from opendllm.core.checkpoints import export as export_module
from opendllm.core.checkpoints.export import export_model
from opendllm.core.cli.main import main
from opendllm.core.data.tokenizers import load_tokenizer
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins

from .conftest import edit_config, train_tokenizer

FAMILIES = ["open-dcoder", "llada", "dream", "qwen3", "a2d", "causal-lm"]
IDS = torch.arange(14).view(2, 7)
TEXT = "def f(a):\n    return a + 1  # <|mask|> ünï\n"
Export = Callable[..., tuple[int, str, str]]


def checkpoint(family: str, run: Path) -> Path:
    """A variant of a run with one checkpoint, laid out as the trainer does; its folder."""
    step = run / "variant" / "checkpoints" / "step-3"
    model = step / "model"
    model.mkdir(parents=True)
    train_tokenizer(model)
    tokenizer = load_tokenizer(str(model))
    tokenizer.save_pretrained(model)
    torch.manual_seed(0)
    lm = installed_plugins().backbones.get(family).build().build(Vocabulary(len(tokenizer), 290, 0))
    lm.save(model, lm.module.state_dict())
    about = {"step": 3, "seed": 0, "training_digest": "abc", "plugins": {f"backbones/{family}": "x 1"}}
    (step / "provenance.json").write_text(json.dumps(about))
    return run / "variant"


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    """Run `platform export` in this process: (exit code, standard output, standard error)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["platform", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path: Path, export: Export) -> tuple[str, Path, Path]:
    """(family, the run's variant, what was exported from it)."""
    variant = checkpoint(request.param, tmp_path / "run")
    code, output, errors = export(variant, "--to", tmp_path / "new" / "exported")
    assert (code, errors) == (0, "")
    assert output == f"exported: {tmp_path / 'new' / 'exported'}\n"
    return request.param, variant, tmp_path / "new" / "exported"


def test_it_comes_back_bit_equal_with_its_tokenizer(exported: Any) -> None:
    _, variant, folder = exported
    before, after = load(variant, device="cpu"), load(folder, device="cpu")
    assert torch.equal(after.logits(IDS), before.logits(IDS))
    assert (after.lm.attention, after.lm.logit_shift) == (before.lm.attention, before.lm.logit_shift)
    assert after.default_sampler == before.default_sampler
    assert before.tokenizer is not None
    assert after.tokenizer is not None
    assert after.tokenizer(TEXT)["input_ids"] == before.tokenizer(TEXT)["input_ids"]
    assert after.tokenizer.mask_token_id == 290


def test_it_states_its_ids_and_where_it_comes_from(exported: Any) -> None:
    family, _, folder = exported
    settings = GenerationConfig.from_pretrained(folder)
    assert settings.eos_token_id == 0
    assert settings.mask_token_id == 290
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: open-dllm\n")
    assert f"of the {family} family, step 3, bidirectional attention" in card
    assert json.loads((folder / "provenance.json").read_text())["training_digest"] == "abc"
    assert not [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".py", ".pkl")]


@pytest.mark.parametrize("family", ["open-dcoder", "qwen3", "causal-lm"])
@torch.no_grad()
def test_transformers_loads_it(tmp_path: Path, export: Export, family: str) -> None:
    variant = checkpoint(family, tmp_path / "run")
    export(variant, "--to", tmp_path / "exported")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    ours = load(variant, device="cpu").lm.module.network.state_dict()
    assert stock.state_dict().keys() == ours.keys()
    for name, tensor in stock.state_dict().items():
        assert torch.equal(tensor, ours[name]), name
    changed = IDS.clone()
    changed[:, -1] = 50  # stock code is causal
    assert torch.equal(stock(changed).logits[:, 0], stock(IDS).logits[:, 0])
    # transformers replaces the pre-tokenizer of whatever says model_type qwen2; the card warns of it.
    reader = PreTrainedTokenizerFast if family == "open-dcoder" else AutoTokenizer
    tokenizer = reader.from_pretrained(tmp_path / "exported")
    expected = load(variant, device="cpu").tokenizer
    assert expected is not None
    assert tokenizer(TEXT)["input_ids"] == expected(TEXT)["input_ids"]


def test_lladas_own_code_finds_its_keys(tmp_path: Path, export: Export, goldens: Path) -> None:
    export(checkpoint("llada", tmp_path / "run"), "--to", tmp_path / "exported")
    published = load_file(goldens / "llada" / "model.safetensors")
    written = load_file(tmp_path / "exported" / "model.safetensors")
    kinds = {key.replace(".blocks.1.", ".blocks.0.") for key in published}
    assert {key.replace(".blocks.2.", ".blocks.0.").replace(".1.", ".0.") for key in written} == kinds
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    theirs = json.loads((goldens / "llada" / "config.json").read_text())
    left = {key for key in theirs if key not in config and not key.startswith("init_")}
    assert left <= {"attention_layer_norm_with_affine", "mlp_ratio", "multi_query_attention", "pad_token_id",
                    "precision"}  # fmt: skip
    assert (config["model_type"], config["architectures"]) == ("llada", ["LLaDAModelLM"])


def test_shards_and_a_chat_template_are_exported(tmp_path: Path, export: Export, stock: Any) -> None:
    stock(tmp_path / "given", "qwen2", saving={"max_shard_size": "40KB"})
    train_tokenizer(tmp_path / "given").save_pretrained(tmp_path / "given")
    (tmp_path / "given" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (tmp_path / "given" / "pytorch_model.bin").write_bytes(b"pickle")
    edit_config(tmp_path / "given", mask_token_id=5)
    assert export(tmp_path / "given", "--to", tmp_path / "out")[0] == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in (tmp_path / "given").iterdir()} - {"pytorch_model.bin"}
    both = [load(tmp_path / name, device="cpu") for name in ("given", "out")]
    assert torch.equal(both[0].logits(IDS), both[1].logits(IDS))
    assert both[1].tokenizer.chat_template == "{{ messages[0].content }}"


def test_a_target_that_exists_is_refused_and_left_alone(tmp_path: Path, export: Export) -> None:
    variant = checkpoint("open-dcoder", tmp_path / "run")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("kept")
    code, _, errors = export(variant, "--to", tmp_path / "there")
    assert (code, errors) == (2, f"error: {tmp_path / 'there'} exists: name a folder that doesn't\n")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["mine"]


@pytest.mark.parametrize("source", ["gone", "."])
def test_nothing_to_export_is_one_line(tmp_path: Path, export: Export, source: str) -> None:
    code, _, errors = export(tmp_path / source, "--to", tmp_path / "out")
    assert code == 2
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing_behind(
    tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = checkpoint("open-dcoder", tmp_path / "run")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "write_json", full)
    code, _, errors = export(variant, "--to", tmp_path / "out")
    assert code == 2
    assert "No space left on device" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_target_that_cannot_be_written_is_one_line(tmp_path: Path, export: Export) -> None:
    variant = checkpoint("open-dcoder", tmp_path / "run")
    (tmp_path / "file").write_text("")
    code, _, errors = export(variant, "--to", tmp_path / "file" / "out")
    assert code == 2
    assert str(tmp_path / "file" / "out") in errors


def test_export_copies_weights_byte_for_byte(tmp_path: Path) -> None:
    variant = checkpoint("dream", tmp_path / "run")
    model = variant / "checkpoints" / "step-3" / "model" / "model.safetensors"
    tensors = {key: tensor.bfloat16() for key, tensor in load_file(model).items()}
    save_file(tensors, model, metadata={"format": "pt"})
    export_model(variant, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == model.read_bytes()


@pytest.mark.parametrize("family", ["open-dcoder", "qwen3", "causal-lm", "llada"])
@torch.no_grad()
def test_shards_have_an_index_and_come_back_bit_equal(tmp_path: Path, export: Export, family: str) -> None:
    variant = checkpoint(family, tmp_path / "run")
    whole = load_file(variant / "checkpoints" / "step-3" / "model" / "model.safetensors")
    folder = tmp_path / "out"
    code, _, errors = export(variant, "--to", folder, "--max-shard-size", "100KB")
    assert (code, errors) == (0, "")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    assert index["weight_map"].keys() == whole.keys()
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert names == [f"model-{n + 1:05d}-of-{len(names):05d}.safetensors" for n in range(len(names))]
    assert len(names) > 2
    for name in names:
        tensors = load_file(folder / name)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 100_000
        assert all(index["weight_map"][key] == name for key in tensors)
        assert all(torch.equal(tensor, whole[key]) for key, tensor in tensors.items())
    assert torch.equal(load(folder, device="cpu").logits(IDS), load(variant, device="cpu").logits(IDS))
    if family != "llada":  # which transformers has no class for
        stock = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        ours = load(variant, device="cpu").lm.module.network.state_dict()
        assert all(torch.equal(stock[name], tensor) for name, tensor in ours.items())


@pytest.mark.parametrize("size", ["0", "-1GB", "many", "nanGB", "5 parsecs", ""])
def test_a_shard_size_that_is_none_is_one_line(tmp_path: Path, export: Export, size: str) -> None:
    variant = checkpoint("open-dcoder", tmp_path / "run")
    code, _, errors = export(variant, "--to", tmp_path / "out", f"--max-shard-size={size}")
    assert code == 2
    assert repr(size) in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_only_the_files_that_are_read_are_exported(tmp_path: Path, export: Export, stock: Any) -> None:
    """transformers merges whatever shards hold: what the index does not name must not get into them."""
    given = tmp_path / "given"
    stock(given, "qwen2", saving={"max_shard_size": "40KB"})
    edit_config(given, mask_token_id=5)
    before = load(given, device="cpu").logits(IDS)
    [first, second, *_] = sorted(given.glob("model-*.safetensors"))
    stray = {key: tensor + 1 for key, tensor in load_file(first).items()}
    save_file(load_file(second) | stray, second, metadata={"format": "pt"})
    (given / "model-extra.safetensors").write_bytes(b"not one")
    assert export(given, "--to", tmp_path / "out")[0] == 0
    written = [load_file(path) for path in sorted((tmp_path / "out").glob("*.safetensors"))]
    assert len(written) == 1  # 5 GB hold it all
    assert torch.equal(load(tmp_path / "out", device="cpu").logits(IDS), before)
    stock_model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in load(given, device="cpu").lm.module.network.state_dict().items():
        assert torch.equal(stock_model[name], tensor), name
