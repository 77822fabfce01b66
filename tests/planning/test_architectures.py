"""The formula for a model's size against the model itself, on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoModelForCausalLM

from opendllm.core.networks.transformers_backbone import TransformersBackbone
from opendllm.registries.architecture import Architecture
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.options import BackboneOptions

BACKBONES = installed_plugins().backbones
PUBLISHED = {
    ("open-dcoder", "0.5b"): 494_032_768,
    ("llada", "8b"): 8_015_581_184,
    ("dream", "7b"): 7_615_616_512,
    ("qwen3", "0.6b"): 596_049_920,
    ("causal-lm", "llama-3.2-1b"): 1_235_814_400,
    ("sdar", "1.7b"): 2_031_739_904,
    ("sdar", "4b"): 4_411_424_256,
    ("sdar", "8b"): 8_190_735_360,
    ("fast-dllm-v2", "1.5b"): 1_543_714_304,
    ("fast-dllm-v2", "7b"): 7_615_616_512,
    ("sdar-moe", "30b-a3b"): 30_532_122_624,
    ("llada-moe", "7b-a1b"): 7_356_880_896,
    ("llada2", "mini"): 16_255_638_528,
    ("llada2", "flash"): 102_889_697_280,
}


def options_of(name: str, **options: Any) -> BackboneOptions:
    found = BACKBONES.get(name).options.model_validate(options)
    assert isinstance(found, BackboneOptions)
    return found


OUR_SIZES = ("nano", "small", "60m")


def presets() -> list[tuple[str, str]]:
    return [
        (name, preset)
        for name in BACKBONES.names()
        for preset in get_args(BACKBONES.get(name).options.model_fields["preset"].annotation)
    ]


def counted(backbone: TransformersBackbone, config: dict[str, Any]) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(backbone._describe(config).network_config)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "preset"), presets())
def test_a_preset_has_the_parameters_that_are_planned(name: str, preset: str) -> None:
    backbone = BACKBONES.get(name).build({"preset": preset})
    assert isinstance(backbone, TransformersBackbone)
    assert backbone._preset is not None
    architecture = options_of(name, preset=preset).architecture(None)
    assert architecture is not None
    assert architecture.parameters == counted(backbone, dict(backbone._preset))
    assert architecture.parameters == PUBLISHED.get((name, preset), architecture.parameters)


@pytest.mark.parametrize("name", ["sdar-moe", "llada-moe", "llada2"])
def test_active_parameters_leave_out_the_experts_that_are_not_read(name: str) -> None:
    backbone = BACKBONES.get(name).build()
    assert isinstance(backbone, TransformersBackbone)
    assert backbone._preset is not None
    config = dict(backbone._preset)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(backbone._describe(config).network_config)
    active = 0.0
    for key, parameter in model.named_parameters():
        share = config["num_experts_per_tok"] / config["num_experts"] if ".mlp.experts." in key else 1
        active += parameter.numel() * share
    architecture = options_of(name).architecture(None)
    assert isinstance(architecture, Architecture)
    assert architecture.active_parameters == active < architecture.parameters


@pytest.mark.parametrize("name", ["a2d", "llada", "dream", "sdar"])
def test_adapters_are_counted_as_peft_makes_them(name: str) -> None:
    """On every linear layer but the head."""
    backbone = BACKBONES.get(name).build()
    assert isinstance(backbone, TransformersBackbone)
    assert backbone._preset is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(backbone._describe(dict(backbone._preset)).network_config)
        inject_adapter_in_model(LoraConfig(r=5, target_modules="all-linear", task_type="CAUSAL_LM"), model)
    counted = sum(value.numel() for key, value in model.named_parameters() if ".lora_" in key)
    architecture = options_of(name).architecture(None)
    assert isinstance(architecture, Architecture)
    assert architecture.adapter_parameters(5) == counted


def test_every_published_total_is_checked() -> None:
    assert set(PUBLISHED) == {(name, preset) for name, preset in presets() if preset not in OUR_SIZES}


@pytest.mark.parametrize("name", BACKBONES.names())
def test_a_trained_tokenizer_sets_the_vocabulary(name: str) -> None:
    architecture = options_of(name).architecture(333)
    assert isinstance(architecture, Architecture)
    built = BACKBONES.get(name).build().build(Vocabulary(333, 1, 0))
    assert architecture.vocab_size == 333
    assert architecture.parameters == sum(p.numel() for p in built.module.parameters())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("open-dcoder", {"num_key_value_heads": 1}),
        ("dream", {"num_hidden_layers": 2}),
        ("qwen3", {"head_dim": 16}),
        ("a2d", {"model_type": "a2d-qwen2", "head_dim": None}),
        ("causal-lm", {"num_key_value_heads": 4, "head_dim": 40}),
        ("causal-lm", {"model_type": "qwen2"}),
        ("causal-lm", {"model_type": "qwen3", "head_dim": 32}),
        ("llada", {"n_layers": 2, "mlp_hidden_size": 100, "embedding_size": 640}),
    ],
)
def test_a_local_config_is_read(tmp_path: Path, name: str, changes: dict[str, Any], tied: bool) -> None:
    backbone = BACKBONES.get(name).build()
    assert isinstance(backbone, TransformersBackbone)
    assert backbone._preset is not None
    key = "weight_tying" if name == "llada" else "tie_word_embeddings"
    config = {**backbone._preset, **changes, key: tied}
    (tmp_path / "config.json").write_text(json.dumps(config))
    # a vocabulary that is trained here changes nothing about a model that is given
    architecture = options_of(name, pretrained=str(tmp_path)).architecture(9999)
    assert isinstance(architecture, Architecture)
    assert architecture.parameters == counted(backbone, config)
    assert architecture.tied is tied


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    for kind in ("llama", "mistral", "qwen2", "qwen3"):
        from transformers import AutoConfig

        sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        config = AutoConfig.for_model(kind, **sizes, num_attention_heads=4, num_key_value_heads=2)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        config.save_pretrained(tmp_path / kind)
        architecture = options_of("causal-lm", pretrained=str(tmp_path / kind)).architecture(None)
        assert architecture is not None
        assert architecture.parameters == sum(parameter.numel() for parameter in model.parameters()), kind


@pytest.mark.parametrize(
    "config",
    [{"model_type": "gpt2"}, {"model_type": "llama", "attention_bias": True}, {"model_type": "gemma"}],
)
def test_sizes_without_a_formula_are_unknown(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert options_of("causal-lm", pretrained=str(tmp_path)).architecture(None) is None


@pytest.mark.parametrize(("name", "preset"), presets())
def test_a_hub_id_has_its_presets_sizes_and_none_without_one(name: str, preset: str) -> None:
    architecture = options_of(name, pretrained="org/name", preset=preset).architecture(None)
    if preset in OUR_SIZES:
        assert architecture is None
    else:
        assert architecture is not None
        assert architecture.parameters == PUBLISHED[(name, preset)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"model_type": "qwen2", "vocab_size": 9}', "lacks the key 'num_attention_heads'"),
        ("{}", "lacks the key"),
        ("{", "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"model_type": "qwen2", "num_attention_heads": "four", "hidden_size": 8}', "config.json"),
    ],
)
@pytest.mark.parametrize("name", BACKBONES.names())
def test_a_config_without_sizes_names_the_file(
    tmp_path: Path, name: str, content: str, expected: str
) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json") as caught:
        options_of(name, pretrained=str(tmp_path)).architecture(None)
    if name in ("open-dcoder", "dream"):
        assert expected in str(caught.value)
