"""Mixtures of experts: equality with published and stock code, what is read of them, and how they train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from opendllm.core import load
from opendllm.core.networks.load_balancing import load_balancing_loss
from opendllm.core.networks.safetensors_folder import load_into
from opendllm.core.networks.transformers_lm import TransformersLM
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import ModelInputs

MIXTURES = ("sdar-moe", "llada-moe", "llada2")
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "norm_topk_prob": True,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
}


def built(name: str, **options: Any) -> DiffusionLM:
    torch.manual_seed(0)
    return installed_plugins().backbones.get(name).build(options).build(Vocabulary(64, 63, 1))


def inputs_of(tokens: Tensor) -> ModelInputs:
    return ModelInputs(tokens, tokens * 0, torch.arange(tokens.shape[1]).expand_as(tokens))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Qwen3MoeForCausalLM]:
    """A sparse SDAR checkpoint in Qwen3-MoE's keys, and the stock network with the same weights."""
    folder = tmp_path_factory.mktemp("sdar-moe")
    torch.manual_seed(1)
    network = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5 if "gate" in name else 0.3)
    network.save_pretrained(folder)
    config = {**SIZES, "model_type": "sdar_moe", "block_size": 4, "mask_token_id": 63, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, network


@torch.no_grad()
def stock_answers(network: Qwen3MoeForCausalLM, tokens: Tensor) -> tuple[Tensor, list[dict[int, float]]]:
    """([L, V], each mixture layer's and token's map from expert to weight), block-causal in blocks of 4."""
    blocks = torch.arange(tokens.shape[1]) // 4
    mask = torch.where(blocks[None] <= blocks[:, None], 0.0, -torch.inf)[None, None]
    maps: list[dict[int, float]] = []
    handles = [
        layer.mlp.gate.register_forward_hook(
            lambda _module, _inputs, output: maps.extend(expert_maps(output))
        )
        for layer in network.model.layers
        if hasattr(layer.mlp, "gate")
    ]
    logits = network(input_ids=tokens, attention_mask=mask).logits[0]
    for handle in handles:
        handle.remove()
    return logits, maps


def expert_maps(output: tuple[Tensor, Tensor, Tensor]) -> list[dict[int, float]]:
    return [
        dict(zip(experts.tolist(), weights.tolist(), strict=True))
        for weights, experts in zip(output[1], output[2], strict=True)
    ]


def test_sparse_sdar_is_the_stock_class(stock: tuple[Path, Qwen3MoeForCausalLM]) -> None:
    """Not its published code, which was not to be had: transformers' Qwen3-MoE under a block-causal mask."""
    folder, network = stock
    tokens = torch.arange(18)[None] * 3 % 64
    model = load(folder, device="cpu")
    assert model.lm.attention.block_length == 4
    maps: list[dict[int, float]] = []
    for layer in model.lm.network.get_submodule("model.layers").children():
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(lambda _m, _i, output: maps.extend(expert_maps(output)))
    logits = model.logits(tokens)[0]
    wanted, wanted_maps = stock_answers(network, tokens)
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)
    assert logits.argmax(-1).tolist() == wanted.argmax(-1).tolist()
    assert len(maps) == len(wanted_maps) == 18  # of three layers, every second is a mixture
    for ours, theirs in zip(maps, wanted_maps, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_sparse_sdar_keeps_the_published_keys(
    stock: tuple[Path, Qwen3MoeForCausalLM], tmp_path: Path
) -> None:
    folder, _ = stock
    lm = load(folder, device="cpu").lm
    lm.save(tmp_path, lm.module.state_dict())
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert "model.layers.1.mlp.experts.7.down_proj.weight" in after
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert json.loads((tmp_path / "config.json").read_text())["block_size"] == 4
    again, tokens = load(tmp_path, device="cpu"), torch.arange(18)[None]
    assert torch.equal(again.logits(tokens), load(folder, device="cpu").logits(tokens))


class Allocations(TorchDispatchMode):
    """The numbers of the largest tensor that anything computed while it is on."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {each.untyped_storage().data_ptr() for each in tree_leaves(args) if isinstance(each, Tensor)}
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, each.numel())
        return result


@pytest.mark.parametrize(
    ("name", "options"), [("llada-moe", {}), ("llada2", {"mask_token_id": 150, "block_length": 8})]
)
def test_experts_load_into_place_without_a_second_copy(name: str, options: Any, goldens: Path) -> None:
    """One by one into the stacked parameter: nothing of a layer's size, nor of an expert's, is made."""
    lm = load(goldens / name, device="cpu", **options).lm
    assert isinstance(lm, TransformersLM)
    kept = {key: tensor.clone() for key, tensor in lm.network.state_dict().items()}
    with torch.no_grad():
        for tensor in lm.network.state_dict().values():
            tensor.zero_()
    names = {theirs: ours for ours, theirs in lm._format.published_keys.items()}
    with Allocations() as allocations:
        load_into(lm.network, goldens / name, names, lm._format.pieces, lm._format.other_pieces)
    assert all(torch.equal(tensor, kept[key]) for key, tensor in lm.network.state_dict().items())
    expert = min(tensor[0].numel() for key, tensor in kept.items() if ".experts." in key)
    assert allocations.largest < expert


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_that_no_token_chose_are_not_read(name: str) -> None:
    """On a CPU; a number that were read, and multiplied by nothing, would still be no number."""
    lm = built(name)
    layers = lm.network.get_submodule("model.layers")
    chosen: dict[int, set[int]] = {}

    def keep(layer: int) -> Any:
        return lambda _m, _i, output: chosen.setdefault(layer, set()).update(output[2].flatten().tolist())

    sparse: dict[int, Any] = {
        number: layer.mlp for number, layer in enumerate(layers.children()) if hasattr(layer.mlp, "gate")
    }
    for number, mlp in sparse.items():
        mlp.gate.register_forward_hook(keep(number))
    one = inputs_of(torch.tensor([[5]]))
    with torch.no_grad():
        wanted = lm.hidden_states(one)
        for number, mlp in sparse.items():
            unread = sorted(set(range(mlp.gate.weight.shape[0])) - chosen[number])
            assert unread
            mlp.experts.gate_up_proj[unread] = torch.nan
            mlp.experts.down_proj[unread] = torch.nan
        assert torch.equal(lm.hidden_states(one), wanted)


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_computed_grouped_as_one_by_one(name: str) -> None:
    lm = built(name)
    inputs = inputs_of(torch.arange(48).view(2, 24))
    assert lm.network.config._experts_implementation == "grouped_mm"
    with torch.no_grad():
        grouped = lm.hidden_states(inputs)
        lm.network.set_experts_implementation("eager")
        torch.testing.assert_close(grouped, lm.hidden_states(inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_routers_are_computed_in_float32_also_in_bf16(name: str) -> None:
    """Choices of a bf16 network are those of its own hidden states in float32: no two experts tie."""
    lm = built(name)
    lm.module.to(torch.bfloat16)
    seen: list[tuple[Tensor, Any, Any]] = []
    for layer in lm.network.get_submodule("model.layers").children():
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(
                lambda module, inputs, output: seen.append((inputs[0], module, output))
            )
    with torch.no_grad():
        lm.hidden_states(inputs_of(torch.arange(60)[None]))
    assert seen
    for hidden, module, (logits, weights, _experts) in seen:
        assert hidden.dtype == torch.bfloat16
        assert logits.dtype == weights.dtype == torch.float32
        exact = hidden.double().flatten(0, -2) @ module.weight.double().T
        torch.testing.assert_close(logits.double(), exact, atol=1e-5, rtol=1e-5)


def test_load_balancing_is_transformers_row_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = tuple(torch.randn(3 * 10, 8, generator=generator, requires_grad=True) for _ in range(4))
    real = torch.arange(10)[None] < torch.tensor([[10], [7], [3]])
    ours = load_balancing_loss(logits, 2, real)
    rows = [
        load_balancing_loss_func(
            tuple(layer.view(3, 10, 8)[row] for layer in logits), 8, 2, real[row : row + 1].long()
        )
        for row in range(3)
    ]
    torch.testing.assert_close(ours, torch.stack(rows).mean())
    (slopes,) = torch.autograd.grad(ours, logits[0])
    assert bool((slopes.view(3, 10, 8)[0] != 0).any())
    assert not slopes.view(3, 10, 8)[~real].any()


def test_balanced_experts_cost_least() -> None:
    """k where every expert is chosen alike, up to E where one is."""
    even = torch.eye(4).repeat(3, 1) * 1e-3
    skewed = torch.tensor([20.0, 0, 0, 0]).expand(12, 4)
    real = torch.ones(1, 12, dtype=torch.bool)
    assert float(load_balancing_loss([even], 1, real)) == pytest.approx(1, abs=1e-3)
    assert float(load_balancing_loss([skewed], 1, real)) == pytest.approx(4, abs=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_experts_are_balanced_in_compiled_passes_too(stock: tuple[Path, Qwen3MoeForCausalLM]) -> None:
    tokens = torch.arange(12).view(2, 6)
    scored = tokens % 3 == 0
    inputs = inputs_of(torch.where(scored, 63, tokens))

    def mean(likelihoods: Tensor, _which: slice) -> Tensor:
        return likelihoods.sum() / 4

    found: list[list[Tensor]] = []
    for compiled in (False, True):
        lm = load(stock[0], device="cpu").lm
        lm.balance_experts(0.5)
        if compiled:
            torch._dynamo.reset()
            lm.module.compile(backend="eager")
        balanced = lm.module(inputs, tokens, scored, mean)
        balanced.backward()
        router = lm.network.get_parameter("model.layers.1.mlp.gate.weight").grad
        assert router is not None
        found.append([balanced.detach(), router])
    torch._dynamo.reset()
    with torch.no_grad():
        assert float(found[0][0] - lm.module(inputs, tokens, scored, mean)) > 0.5
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["llada", "llada2"])
def test_what_has_no_softmax_router_cannot_be_balanced(name: str) -> None:
    with pytest.raises(UserError, match="no mixture layers that a softmax routes: leave it out"):
        built(name).balance_experts(0.1)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llada-moe", {"moe_router_enable_expert_bias": True}, "sets moe_router_enable_expert_bias"),
        ("llada-moe", {"moe_router_score_function": "sigmoid"}, "moe_router_score_function to 'sigmoid'"),
        ("llada-moe", {"partial_rotary_factor": 0.5}, "partial_rotary_factor to 0.5"),
        ("llada2", {"moe_router_enable_expert_bias": False}, "moe_router_enable_expert_bias to False"),
        ("llada2", {"score_function": "softmax"}, "score_function to 'softmax'"),
    ],
)
def test_another_router_is_refused(
    name: str, changes: dict[str, Any], said: str, goldens: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(goldens / name, tmp_path / name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=said):
        load(folder, mask_token_id=150, block_length=None if name == "llada-moe" else 8, device="cpu")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("llada2", "model.layers.1.mlp.gate.expert_bias"),
        ("llada2", "model.layers.2.mlp.experts.3.gate_proj.weight"),
        ("llada-moe", "model.layers.2.mlp.experts.3.gate_proj.weight"),
        ("llada-moe", "model.layers.0.mlp.gate.weight"),
    ],
)
def test_a_missing_expert_or_bias_is_named(name: str, key: str, goldens: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(goldens / name, tmp_path / name)
    weights = load_file(folder / "model.safetensors")
    del weights[key]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"lacks the weights {key}$"):
        load(folder, mask_token_id=150, block_length=None if name == "llada-moe" else 8, device="cpu")


def test_dense_layers_stand_between_mixtures(goldens: Path, tmp_path: Path) -> None:
    """LLaDA-MoE's moe_layer_freq; and published code renormalises no weights, whatever config.json says."""
    folder = shutil.copytree(goldens / "llada-moe", tmp_path / "llada-moe")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"norm_topk_prob": True}))
    tokens = torch.arange(20)[None]
    wanted = load(goldens / "llada-moe", device="cpu").logits(tokens)
    assert torch.equal(load(folder, device="cpu").logits(tokens), wanted)
    weights = load_file(folder / "model.safetensors")
    width = config["dense_intermediate_size"]
    for key in [key for key in weights if key.startswith("model.layers.1.mlp.")]:
        del weights[key]
    for name in ("gate_proj", "up_proj", "down_proj"):
        shape = (48, width) if name == "down_proj" else (width, 48)
        weights[f"model.layers.1.mlp.{name}.weight"] = torch.zeros(shape)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"moe_layer_freq": [1, 0, 1]}))
    assert not torch.equal(load(folder, device="cpu").logits(tokens), wanted)
    options = (
        installed_plugins().backbones.get("llada-moe").options.model_validate({"pretrained": str(folder)})
    )
    architecture = options.architecture(None)  # type: ignore[attr-defined]
    assert architecture.parameters == sum(weight.numel() for weight in weights.values())
