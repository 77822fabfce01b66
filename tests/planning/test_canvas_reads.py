"""What `plan` says of decoding, beside what a decoder does."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opendllm.core.checkpoints.loading import Checkpoint
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.language_model import LanguageModel
from opendllm.core.planning.canvas_pattern import Pattern
from opendllm.core.planning.canvas_reads import Canvas, CanvasReads, reads_of
from opendllm.core.planning.forward_costs import Loaded
from opendllm.core.planning.likelihood_reads import likelihood_reads
from opendllm.core.toolkit.likelihood import log_likelihood
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.architecture import Architecture
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.discovery import installed_plugins

VOCABULARY = 64
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bidirectional": ("llada", {}),
    "causal": ("open-dcoder", {"attention": "causal"}),
    "blocks": ("sdar", {}),
}
PLANNED = [
    ("bidirectional", "low-confidence", {}),
    ("bidirectional", "low-confidence", {"steps": 7}),
    ("bidirectional", "entropy", {"steps": 40}),
    ("bidirectional", "maskgit-plus", {"steps": 5, "guidance_scale": 1.0}),
    ("bidirectional", "topk-margin", {"steps": 9, "block_length": 8}),
    ("bidirectional", "p2", {"steps": 12}),
    ("bidirectional", "low-confidence", {"block_length": 8, "cache": "prefix"}),
    ("bidirectional", "low-confidence", {"block_length": 8, "cache": "dual"}),
    ("bidirectional", "low-confidence", {"block_length": 8, "cache": "dual", "cache_refresh": 3}),
    ("bidirectional", "p2", {"block_length": 8, "cache": "prefix", "steps": 12}),
    ("causal", "low-confidence", {}),
    ("blocks", "low-confidence", {}),
    ("blocks", "entropy", {"steps": 10}),
]
AT_MOST = [
    ("bidirectional", "ancestral", {"steps": 40}),
    ("bidirectional", "remdm", {"steps": 10}),
    ("bidirectional", "confidence-threshold", {"threshold": 0.01}),
    ("bidirectional", "confidence-factor", {"block_length": 8}),
    ("bidirectional", "entropy-bounded", {"gamma": 10.0}),
    ("bidirectional", "low-confidence", {"early_stop": True}),
    ("bidirectional", "token-editing", {}),
    ("bidirectional", "multi-block", {"block_length": 8, "cache": "delayed"}),
    ("bidirectional", "low-confidence", {"block_length": 8, "cache": "delayed"}),
    ("bidirectional", "dreamon", {"expand_token_id": 2, "expand_budget": 4}),
    ("blocks", "block-steps", {}),
    ("blocks", "token-editing", {"max_post_steps": 3}),
]


@functools.cache
def model(pattern: str) -> DiffusionLM:
    name, options = MODELS[pattern]
    torch.manual_seed(0)
    vocabulary = Vocabulary(VOCABULARY, VOCABULARY - 1, 0)
    lm = installed_plugins().backbones.get(name).build({"preset": "nano", **options}).build(vocabulary)
    lm.module.eval()
    return lm


@dataclass(frozen=True)
class Seen:
    """Of a real decode.

    Attributes:
        forward_passes: of its one row.
        columns: that went through the network in all passes.
        scored: positions that reached the LM head.
        cached: bytes of keys and values that were kept.
    """

    forward_passes: int
    columns: int
    scored: int
    cached: int


def seen(lm: DiffusionLM, canvas: Tensor, sampler: str, options: dict[str, Any]) -> Seen:
    columns: list[int] = []
    cached = [0]
    scored: list[int] = []

    def before(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        columns.append(kwargs["input_ids"].shape[1])
        cache = kwargs["past_key_values"]
        if cache is not None:  # as the passes before left it
            cached.append(sum(part.nbytes for part in (*cache.keys, *cache.values)))

    network: Any = lm.network
    hook = network.get_decoder().register_forward_pre_hook(before, with_kwargs=True)
    project = lm.project

    def counted(hidden: Tensor) -> Tensor:
        scored.append(len(hidden))
        return project(hidden)

    lm.project = counted
    try:
        language_model = LanguageModel(Checkpoint(lm, None, None), sampler, installed_plugins())
        decoded = language_model.sample(canvas, sampler=sampler, **options)
    finally:
        hook.remove()
        del lm.project
    return Seen(int(decoded.forward_passes[0]), sum(columns), sum(scored), max(cached))


def planned(pattern: str, canvas: Canvas, name: str, options: dict[str, Any]) -> CanvasReads:
    registration = installed_plugins().samplers.get(name)
    own = {key: value for key, value in options.items() if key in registration.options.model_fields}
    decoder = DecoderOptions(**{key: value for key, value in options.items() if key not in own})
    lm = model(pattern)
    checkpoint = Pattern(lm.attention.kind, lm.attention.block_length)
    return reads_of(canvas, checkpoint, registration.build(own), decoder)


def sizes_of(backbone: str, vocab_size: int | None, **options: Any) -> Architecture:
    chosen: Any = installed_plugins().backbones.get(backbone).options
    found = chosen(**options).architecture(vocab_size)
    assert isinstance(found, Architecture)
    return found


def row(canvas: Canvas) -> Tensor:
    tokens = torch.arange(1, canvas.length + 1)[None] % (VOCABULARY - 2) + 1
    tokens[0, canvas.left : canvas.left + canvas.gap] = VOCABULARY - 1
    return tokens


@pytest.mark.parametrize("canvas", [Canvas(12, 20), Canvas(9, 19, 7)])
@pytest.mark.parametrize(("pattern", "sampler", "options"), PLANNED)
def test_what_the_sampler_plans_is_what_is_read(
    pattern: str, sampler: str, options: dict[str, Any], canvas: Canvas
) -> None:
    found = planned(pattern, canvas, sampler, options)
    real = seen(model(pattern), row(canvas), sampler, options)
    assert not found.at_most
    assert real.forward_passes == len(found.columns)
    assert real.columns == found.columns.sum()
    assert real.scored == found.scored.sum()
    assert found.keeps_keys == (real.cached > 0)


@pytest.mark.parametrize(("pattern", "sampler", "options"), AT_MOST)
def test_where_the_data_decides_it_is_a_bound(pattern: str, sampler: str, options: dict[str, Any]) -> None:
    canvas = Canvas(12, 20)
    found = planned(pattern, canvas, sampler, options)
    assert found.at_most
    real = seen(model(pattern), row(canvas), sampler, options)
    assert 0 < real.forward_passes <= len(found.columns)
    if sampler != "dreamon":  # whose rows grow
        assert real.columns <= found.columns.sum()
        assert real.scored <= found.scored.sum()


def test_keys_and_values_are_as_large_as_the_cache() -> None:
    for pattern, sampler, options in [
        ("bidirectional", "low-confidence", {"cache": "dual", "block_length": 8}),
        ("causal", "low-confidence", {}),
        ("blocks", "block-steps", {}),
    ]:
        name, chosen = MODELS[pattern]
        architecture = sizes_of(name, VOCABULARY, preset="nano", **chosen)
        canvas = Canvas(12, 20)
        real = seen(model(pattern), row(canvas), sampler, options)
        assert real.cached == Loaded(architecture, 4).keys_values(canvas.length + 1)
        assert (
            sum(p.numel() * 4 for p in model(pattern).module.parameters()) == Loaded(architecture, 4).weights
        )


@pytest.mark.parametrize("pattern", MODELS)
@pytest.mark.parametrize("draws", [1, 20])
def test_likelihoods_take_the_passes_that_are_planned(pattern: str, draws: int) -> None:
    lm, length, texts = model(pattern), 40, 3
    read: list[tuple[int, int]] = []

    def before(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        read.append(tuple(kwargs["input_ids"].shape))

    network: Any = lm.network
    hook = network.get_decoder().register_forward_pre_hook(before, with_kwargs=True)
    tokens = torch.ones(texts, length, dtype=torch.int64)
    inputs = inputs_from_mask(tokens, torch.ones_like(tokens).bool())
    try:
        log_likelihood(lm, inputs, torch.ones_like(tokens).bool(), draws, torch.arange(texts))
    finally:
        hook.remove()
    checkpoint = Pattern(lm.attention.kind, lm.attention.block_length)
    found = likelihood_reads(texts, length, 0, checkpoint, ("masks", draws))
    assert sum(rows for rows, _ in read) == found.rows
    assert {columns for _, columns in read} == {found.columns}
    assert max(rows for rows, _ in read) == found.rows_together


def test_blocks_that_are_not_full_are_written_whole_and_count_from_the_rows_start() -> None:
    found = planned("blocks", Canvas(9, 9), "low-confidence", {})
    assert found.seen.max() == 20
    assert len(found.columns) == 3 + 4 + 4
    assert found.columns[:3].tolist() == [12, 4, 4]  # the prompt is read with the first block


def test_a_mixtures_pass_reads_what_its_tokens_are_sent_to() -> None:
    sizes = sizes_of("llada2", None, preset="mini", pretrained="a/b")
    loaded = Loaded(sizes, 2)
    embedding = sizes.vocab_size * sizes.hidden_size * 2
    one, many = loaded.weights_read(1), loaded.weights_read(100_000)
    assert one == pytest.approx(sizes.active_parameters * 2 - embedding, rel=1e-6)
    assert many == pytest.approx(sizes.parameters * 2 - embedding, rel=1e-6)
    assert one < loaded.weights_read(32) < many
