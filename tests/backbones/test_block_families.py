"""Block-diffusion families and mixtures: what published code computes, and what their files look like."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from opendllm.core import load
from opendllm.core.language_model import LanguageModel
from opendllm.core.toolkit.segments import document_positions
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.objectives import Masking
from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs, TokenIds, TokenRows

from ..golden_vectors import Entry, Vectors, golden, golden_entries

FAMILIES = ("sdar", "llada2", "fast-dllm-v2", "llada-moe")
PLUGINS = installed_plugins()


SECTIONS = {
    "sdar": {
        "pad_token_id", "training_forward", "filters", "samples", "quirks", "rollouts", "loss",
        "trace_rl", "trace_rl_value",
    },
    "llada2": {"forward_block4", "samples", "loss"},
    "fast-dllm-v2": {"sub_block_length", "how_to_read", "samples", "loss", "first_token_log_likelihood"},
    "llada-moe": {"note"},
}  # fmt: skip
"""What the tests here and in tests/decoding hold, but for trace_rl*, which tests/objectives have."""


@golden(*FAMILIES)
def test_every_section_is_held(vectors: Vectors) -> None:
    expected = vectors.expected
    blocks = {"block_length"} if "block_length" in expected else set()
    assert set(expected) == SECTIONS[vectors.name] | blocks | {"forward", "mask_token_id", "logit_shift"}
    lm = vectors.model.lm
    assert lm.logit_shift is expected["logit_shift"]
    assert lm.mask_token_id == expected["mask_token_id"]
    assert lm.attention.block_length == expected.get("block_length")
    if vectors.name == "sdar":
        assert set(expected["loss"]) == {"pretrain", "sft_semi_ar", "sft_semi_ar_with_padding", "sft_trace"}


def forwards(expected: dict[str, Any]) -> list[dict[str, Any]]:
    first = expected["forward"]
    return [*(first if isinstance(first, list) else [first])]


@golden(*FAMILIES)
def test_logits_and_every_argmax(vectors: Vectors) -> None:
    """And routers; LLaDA-MoE's from its modelling file with random weights, see the goldens' README."""
    for content in forwards(vectors.expected):
        with Entry({"attention": None, "block_length": None, **content}) as forward:
            forward.take("attention")  # in words
            model = vectors.with_blocks(forward.take("block_length"))
            tokens = torch.tensor(forward.take("input_ids"))
            logits = model.logits(tokens)
            row = torch.tensor(forward.take("aligned_logits_row0"))
            torch.testing.assert_close(logits[0], row, atol=1e-4, rtol=0)
            assert logits.argmax(-1).tolist() == forward.take("aligned_logits_argmax")
            if "router_row0" in forward:
                check_routers(model, tokens[:1], forward.take("router_row0"))
            for other in forward.take("other_block_lengths") if "other_block_lengths" in forward else []:
                logits = vectors.with_blocks(other["block_length"]).logits(tokens)
                assert logits.argmax(-1).tolist() == other["aligned_logits_argmax"]
                few = torch.tensor(other["aligned_logits_row0_first4"])
                torch.testing.assert_close(logits[0, :, :4], few, atol=1e-4, rtol=0)


def check_routers(model: LanguageModel, tokens: Tensor, routers: list[dict[str, Any]]) -> None:
    """Each token's experts and their weights, in any order."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    handles = []
    for router in routers:
        gate = model.lm.network.get_submodule(f"model.layers.{router['layer']}.mlp.gate")

        def keep(_module: Any, _inputs: Any, output: Any, layer: int = router["layer"]) -> None:
            found[layer] = (output[1], output[2])

        handles.append(gate.register_forward_hook(keep))
    model.logits(tokens)
    for handle in handles:
        handle.remove()
    for router in routers:
        weights, experts = found[router["layer"]]
        for token, wanted in enumerate(router["experts"]):
            ours = dict(zip(experts[token].tolist(), weights[token].tolist(), strict=True))
            theirs = dict(zip(wanted, router["weights"][token], strict=True))
            assert ours == pytest.approx(theirs, abs=1e-4)


@golden("llada2")
def test_llada2_reads_other_blocks(vectors: Vectors) -> None:
    with Entry(vectors.expected["forward_block4"]) as forward:
        forward.take("attention")
        logits = vectors.with_blocks(forward.take("block_length")).logits(
            torch.tensor(forward.take("input_ids"))
        )
        assert logits.argmax(-1).tolist() == forward.take("aligned_logits_argmax")
        positions = forward.take("aligned_logits_row0_positions")
        rows = torch.tensor(forward.take("aligned_logits_row0"))
        torch.testing.assert_close(logits[0, positions], rows, atol=1e-4, rtol=0)


@golden("sdar")
def test_sdar_reads_noisy_and_clean_halves(vectors: Vectors) -> None:
    with Entry(vectors.expected["training_forward"]) as forward:
        for key in ("layout", "attention"):
            forward.take(key)
        model = vectors.with_blocks(forward.take("block_length"))
        rows = token_rows(model, torch.tensor(forward.take("x_0")))
        masked = torch.tensor(forward.take("masked"))
        corruption = corrupted("sdar", rows, masked, torch.ones(masked.shape))
        noisy, clean = corruption.inputs.tokens.chunk(2, dim=1)
        assert noisy.tolist() == forward.take("x_t")
        assert torch.equal(clean, rows.tokens)
        with torch.no_grad():
            logits = model.lm.project(model.lm.hidden_states(corruption.inputs))
        of_noisy, of_clean = logits.chunk(2, dim=1)
        assert of_noisy.argmax(-1).tolist() == forward.take("aligned_logits_argmax_x_t")
        assert of_clean.argmax(-1).tolist() == forward.take("aligned_logits_argmax_x_0")
        row, last = (torch.tensor(forward.take(f"aligned_logits_row0_x_{n}")) for n in ("t", "0_last"))
        torch.testing.assert_close(of_noisy[0], row, atol=1e-4, rtol=0)
        torch.testing.assert_close(of_clean[0, -1], last, atol=1e-4, rtol=0)


def token_rows(
    model: LanguageModel, tokens: Tensor, maskable: Tensor | None = None, segments: Tensor | None = None
) -> TokenRows:
    segments = torch.zeros_like(tokens) if segments is None else segments
    positions = document_positions(segments)
    return TokenRows(
        tokens,
        segments,
        positions,
        torch.ones_like(tokens).bool() if maskable is None else maskable,
        torch.arange(len(tokens)),
        blocks=model.lm.attention.blocks(positions),
        ids=TokenIds(model.lm.vocab_size, model.lm.mask_token_id),
    )


def corrupted(name: str, rows: TokenRows, masked: Tensor, probability: Tensor, **options: Any) -> Any:
    schedule = PLUGINS.noise_schedules.get("linear").build()
    masking = Masking(masked, probability.double(), probability.double(), rows)
    assert rows.ids is not None
    return PLUGINS.objectives.get(name).build(options).corrupt(masking, schedule, rows.ids.mask_token_id)


def likelihoods(model: LanguageModel, corruption: Any) -> Tensor:
    with torch.no_grad():
        return model.lm.negative_log_likelihood(corruption.inputs, corruption.targets, corruption.scored)


@golden("sdar")
def test_sdar_loss_of_packed_documents(vectors: Vectors) -> None:
    with Entry(vectors.expected["loss"]["pretrain"]) as loss:
        loss.take("code")
        eps = loss.take("eps")
        model = vectors.with_blocks(loss.take("block_length"))
        lengths = loss.take("packed_sample_lengths")
        segments = torch.stack(
            [torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in lengths]
        )
        labelled = torch.tensor(loss.take("labels")) >= 0
        rows = token_rows(model, torch.tensor(loss.take("input_ids")), labelled, segments)
        real = segments != segments[:, -1:]  # the last is padding, whose positions the packer leaves at 0
        assert rows.positions[real].tolist() == torch.tensor(loss.take("position_ids"))[real].tolist()
        masked = torch.tensor(loss.take("masked"))
        probability = torch.tensor(loss.take("mask_probability"))
        for row, (documents, times) in enumerate(zip(lengths, loss.take("t"), strict=True)):
            ours = (1 - eps) * torch.tensor(times).repeat_interleave(torch.tensor(documents)) + eps
            torch.testing.assert_close(ours, probability[row], atol=1e-6, rtol=0)
        corruption = corrupted("sdar", rows, masked, probability)
        assert corruption.inputs.tokens.chunk(2, dim=1)[0].tolist() == loss.take("x_t")
        nll = likelihoods(model, corruption)
        wanted = torch.tensor(loss.take("token_negative_log_likelihood"))
        torch.testing.assert_close(nll, wanted[masked], atol=1e-4, rtol=0)
        assert int(corruption.count) == loss.take("answer_tokens")
        mean = float((corruption.weight * nll).sum() / corruption.count)
        assert mean == pytest.approx(loss.take("loss"), abs=1e-4)
        assert gradient_norm(model, corruption) == pytest.approx(loss.take("gradient_norm"), rel=1e-3)


def gradient_norm(model: LanguageModel, corruption: Any) -> float:
    """Of sum weight nll / count, over all parameters."""
    module = model.lm.module
    loss = module(
        corruption.inputs,
        corruption.targets,
        corruption.scored,
        lambda nll, chosen: (corruption.weight[chosen] * nll).sum() / corruption.count,
    )
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    return float(torch.nn.utils.get_total_norm(gradients))


@golden("sdar")
@pytest.mark.parametrize("name", ["sft_semi_ar", "sft_semi_ar_with_padding", "sft_trace"])
def test_dllm_rls_fine_tuning_loss(vectors: Vectors, name: str) -> None:
    """sum nll / response tokens: SDAR's objective with masks that are given, and weight 1.

    Prompts are padded on their left, and blocks counted from the response on; it is padded with tokens
    that are read, of which some are masked and not scored.
    """
    with Entry(vectors.expected["loss"][name]) as loss:
        for key in ("code", "method", "shrink", "step_map"):
            loss.take(key)  # how the masks were chosen, which are given
        block = loss.take("block_length")
        model = vectors.with_blocks(block)
        start, length = loss.take("start_pos"), loss.take("response_length")
        pad, extended = loss.take("pad_token_id"), torch.tensor(loss.take("extended_input_ids"))
        clean, noisy = extended.split([start + length, length], dim=1)
        given = torch.tensor(loss.take("input_ids"))
        assert {tuple(row) for row in clean.tolist()} <= {tuple(row) for row in given.tolist()}
        prompt_padding = (clean[:, :start] == pad).int().cumprod(1).bool()
        segments = torch.zeros_like(clean)
        segments[:, :start].masked_fill_(prompt_padding, PADDING_SEGMENT)
        positions = torch.tensor(loss.take("position_ids"))
        own = (torch.arange(start + length) - prompt_padding.sum(1, keepdim=True)).clamp(min=0)
        real = segments != PADDING_SEGMENT
        assert positions[:, : start + length][real].tolist() == own[real].tolist()
        assert torch.equal(positions[:, start + length :], own[:, start:])
        hidden = noisy == model.lm.mask_token_id
        if "uniforms" in loss:
            drawn, probability = (torch.tensor(loss.take(key)) for key in ("uniforms", "mask_probability"))
            assert torch.equal(hidden, drawn <= probability)
        masked = torch.zeros_like(real)
        masked[:, start:] = hidden
        response = (torch.arange(start + length) >= start).expand_as(masked)
        blocks = (torch.arange(start + length) - start).div(block, rounding_mode="floor") + start
        rows = replace(
            token_rows(model, clean, response, segments), positions=own, blocks=blocks.expand_as(clean)
        )
        corruption = corrupted("sdar", rows, masked, torch.ones(masked.shape))
        scored = torch.tensor(loss.take("p_mask"))
        padding, post_num = masked & (clean == pad), loss.take("post_num")
        if "trace" not in name:
            spared = padding & (padding.cumsum(1) > (length if post_num is None else post_num))
            assert torch.equal(scored, masked & ~spared)
        corruption = replace(
            corruption,
            scored=torch.cat([scored, torch.zeros_like(scored)], dim=1),
            weight=torch.ones(int(scored.sum())),
        )
        nll = likelihoods(model, corruption)
        wanted = torch.tensor(loss.take("token_negative_log_likelihood"))
        torch.testing.assert_close(nll, wanted[scored], atol=1e-4, rtol=0)
        assert float(nll.sum() / corruption.count) == pytest.approx(loss.take("loss"), abs=1e-4)
        assert gradient_norm(model, corruption) == pytest.approx(loss.take("gradient_norm"), rel=1e-3)


def test_llada2_hides_as_much_as_its_authors_by_default() -> None:
    options = PLUGINS.objectives.get("llada2").options.model_validate({})
    assert options.model_dump()["noise_range"] == (0.3, 0.8)  # dFactory's configuration


@golden_entries("loss", "llada2")
def test_llada2_loss(vectors: Vectors, entry: dict[str, Any]) -> None:
    """Each micro-batch's mean; the published trainer averages these equally, ours by their tokens."""
    with Entry(entry) as loss:
        capped = loss.take("objective").endswith("_confidence")
        assert capped == ("confidence_beta" in loss)
        length, (least, most) = loss.take("seq_len"), loss.take("noise_range")
        model = vectors.with_blocks(loss.take("block_length"))
        same, beta = (
            loss.take("same_token_labels"),
            loss.take("confidence_beta") if "confidence_beta" in loss else None,
        )
        means = []
        counts = loss.take("micro_batch_labels")
        extra: list[list[float]] = [
            loss.take(key) if key in loss else [] for key in ("consistency_loss", "confidence_loss")
        ]
        wanted_nll, wanted = loss.take("per_token_nll"), loss.take("loss")
        for number, examples in enumerate(loss.take("micro_batches")):
            masked = torch.tensor([example["labels"] for example in examples]) >= 0
            for row, example in zip(masked.tolist(), examples, strict=True):
                sigma = example["u_sigma"] * (most - least) + least
                assert sigma == pytest.approx(example["sigma"], abs=1e-5)
                answer = [position >= example["prompt_length"] for position in range(length)]
                drawn = [number < example["sigma"] for number in example["u_mask"]]
                assert row == [*map(all, zip(answer, drawn, strict=True))]
            rows = token_rows(model, torch.tensor([example["input_ids"] for example in examples]))
            assert rows.tokens.shape[1] == length
            corruption = corrupted("llada2", rows, masked, torch.full(masked.shape, 0.5))
            noisy = corruption.inputs.tokens.chunk(2, dim=1)[0].tolist()
            assert noisy == [example["noisy_input_ids"] for example in examples]
            if same:
                nll = likelihoods(model, corruption)
                scored = masked
            else:  # dFactory's other labels, as for a shifted model, which no published checkpoint is
                nll = next_token_likelihoods(model, corruption, rows.tokens, masked)
                scored = masked[:, 1:]
            torch.testing.assert_close(nll, torch.tensor(wanted_nll[number])[scored], atol=1e-4, rtol=0)
            assert len(nll) == counts[number]
            means.append(float(nll.mean()))
            if beta is None:
                continue
            assert means[-1] == pytest.approx(extra[0][number], abs=1e-4)
            total, count = model.loss(
                rows.tokens, masked, torch.tensor(0.5), objective="llada2", confidence_beta=beta
            )
            added = float(total / count) - means[-1]
            assert added == pytest.approx(beta * extra[1][number], abs=1e-4)
            means[-1] += added
        assert sum(means) / len(means) == pytest.approx(wanted, abs=1e-4)


def next_token_likelihoods(model: LanguageModel, corruption: Any, tokens: Tensor, masked: Tensor) -> Tensor:
    with torch.no_grad():
        states = model.lm.hidden_states(corruption.inputs)[:, : tokens.shape[1] - 1]
        logits = model.lm.project(states[masked[:, 1:]])
    return torch.nn.functional.cross_entropy(logits, tokens[:, 1:][masked[:, 1:]], reduction="none")


@golden("fast-dllm-v2")
def test_fast_dllm_v2_loss_of_both_views(vectors: Vectors) -> None:
    with Entry(vectors.expected["loss"]) as loss:
        for key in ("views", "nll_fields"):
            loss.take(key)  # in words
        block = loss.take("block_length")
        model = vectors.with_blocks(block)
        labelled = torch.tensor(loss.take("labels")) >= 0
        rows = token_rows(model, torch.tensor(loss.take("input_ids")), labelled)
        hidden = torch.tensor(loss.take("masked"))
        drawn, times = (torch.tensor(loss.take(f"{key}_per_block")) for key in ("uniforms", "t"))
        eps = loss.take("eps")
        assert torch.equal(hidden.view(-1, block), drawn < ((1 - eps) * times + eps)[:, None])
        masked = hidden & labelled
        corruption = corrupted("fast-dllm-v2", rows, masked, torch.full(masked.shape, 0.5))
        nll = likelihoods(model, corruption)
        # Their views stand one below the other, ours row by row.
        count = len(masked)
        found = sorted(
            [row // 2 + row % 2 * count, column, value]
            for (row, column), value in zip(corruption.scored.nonzero().tolist(), nll.tolist(), strict=True)
        )
        wanted = torch.tensor(loss.take("nll"))
        torch.testing.assert_close(torch.tensor(found), wanted, atol=1e-4, rtol=0)
        with torch.no_grad():
            logits = model.lm.project(model.lm.hidden_states(corruption.inputs)).chunk(2, dim=1)[0]
        best = logits.argmax(-1)
        assert [*best[::2].tolist(), *best[1::2].tolist()] == loss.take("aligned_noisy_logits_argmax")
        assert float(nll.sum() / corruption.count) == pytest.approx(loss.take("fast_dllm_v2"), abs=1e-4)
        # Its trainer divides by all labelled tokens, those that have no predictor among them.
        items = loss.take("num_items_in_batch")
        assert items == int(labelled.sum())
        wanted_mean = loss.take("fast_dllm_v2_divided_by_num_items")
        assert float(nll.sum() / items) == pytest.approx(wanted_mean, abs=1e-4)
        example = torch.tensor(loss.take("attention_example_n4_block2")).bool()
        assert torch.equal(noisy_clean_visibility(4, 2), example)


def noisy_clean_visibility(length: int, block: int) -> Tensor:
    from opendllm.core.toolkit.segments import noisy_then_clean, visibility

    tokens = torch.zeros(1, length, dtype=torch.int64)
    positions = torch.arange(length)[None]
    inputs = noisy_then_clean(ModelInputs(tokens, tokens, positions), tokens, positions // block)
    seen = visibility(inputs, inputs.blocks)
    assert seen is not None
    return seen[0]


@golden(*FAMILIES)
def test_save_and_load_are_bit_equal(vectors: Vectors, tmp_path: Path) -> None:
    model = vectors.model
    model.lm.save(tmp_path, model.lm.module.state_dict())
    before = load_file(vectors.folder / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = load(tmp_path, device="cpu")
    assert again.lm.attention == model.lm.attention
    assert again.lm.logit_shift == model.lm.logit_shift
    tokens = torch.tensor(forwards(vectors.expected)[0]["input_ids"])
    assert torch.equal(again.logits(tokens), model.logits(tokens))


@pytest.fixture
def llada2(goldens: Path, tmp_path: Path) -> Path:
    shutil.copytree(goldens / "llada2", tmp_path / "llada2")
    return tmp_path / "llada2"


def without(folder: Path, key: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[key]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_projection_is_named_as_published(llada2: Path) -> None:
    key = "model.layers.0.attention.query_key_value.weight"
    without(llada2, key)
    with pytest.raises(UserError, match=rf"lacks the weights {key}$"):
        load(llada2, mask_token_id=150, block_length=8, device="cpu")


def test_stacked_experts_of_a_training_checkpoint(llada2: Path, tmp_path: Path) -> None:
    """dFactory's: [E, out, in], no `.weight`."""
    tokens = torch.arange(20)[None]
    wanted = load(llada2, mask_token_id=150, block_length=8, device="cpu").logits(tokens)
    weights = load_file(llada2 / "model.safetensors")
    for layer in (1, 2):
        for name in ("gate_proj", "up_proj", "down_proj"):
            keys = [f"model.layers.{layer}.mlp.experts.{expert}.{name}.weight" for expert in range(16)]
            weights[f"model.layers.{layer}.mlp.experts.{name}"] = torch.stack(
                [weights.pop(key) for key in keys]
            )
    save_file(weights, llada2 / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((llada2 / "config.json").read_text()) | {"model_type": "llada2_moe_veomni"}
    (llada2 / "config.json").write_text(json.dumps(config))
    model = load(llada2, mask_token_id=150, block_length=8, device="cpu")
    assert torch.equal(model.logits(tokens), wanted)
    # That type means stacked experts to the published loader: they are saved one by one, under the other.
    saved = tmp_path / "saved"
    saved.mkdir()
    model.lm.save(saved, model.lm.module.state_dict())
    assert json.loads((saved / "config.json").read_text())["model_type"] == "llada2_moe"
    assert "model.layers.1.mlp.experts.0.gate_proj.weight" in load_file(saved / "model.safetensors")
    assert torch.equal(load(saved, device="cpu").logits(tokens), wanted)


def test_a_tiny_checkpoint_has_no_published_ids_or_blocks(llada2: Path) -> None:
    with pytest.raises(UserError, match="names a mask token: give mask_token_id"):
        load(llada2, device="cpu")
    with pytest.raises(UserError, match="how long a block is: give block_length"):
        load(llada2, mask_token_id=150, device="cpu")


def test_another_block_length_is_warned_of(
    goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(goldens / "sdar", tmp_path / "sdar")
    load(folder, block_length=8, device="cpu")
    load(folder, block_length=8, device="cpu")
    assert (
        capsys.readouterr().err.count("block_length 8 is asked for, and the checkpoint was trained with 4")
        == 1
    )


def test_llada_moe_under_llada_model_type(tmp_path: Path) -> None:
    built = PLUGINS.backbones.get("llada-moe").build({})
    from opendllm.registries.backbones import Vocabulary

    lm = built.build(Vocabulary(64, 63, 1))
    lm.save(tmp_path, lm.module.state_dict())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["open_dllm"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llada"}))
    again = load(tmp_path, device="cpu")
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        wanted = lm.project(lm.hidden_states(ModelInputs(tokens, tokens * 0, tokens)))
    assert torch.equal(again.logits(tokens), wanted)


@pytest.mark.parametrize("length", [-4, 0, "4", 2.5, True])
@pytest.mark.parametrize(("family", "key"), [("sdar", "block_size"), ("fast-dllm-v2", "bd_size")])
def test_a_block_length_that_is_none_is_refused(
    goldens: Path, tmp_path: Path, family: str, key: str, length: object
) -> None:
    folder = Path(shutil.copytree(goldens / family, tmp_path / family))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: length}))
    with pytest.raises(UserError, match=f"{key} is .*, and a block has 1 position or more"):
        load(folder, mask_token_id=150, device="cpu")
