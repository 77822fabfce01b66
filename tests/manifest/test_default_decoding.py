"""Where no sampler is named, a manifest decodes as its backbone's authors do, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.decoding.settings import default_options, sort_options
from opendllm.core.manifest.checks import generation_of
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import BackboneOptions

from .test_resolving import round_trip

PUBLISHED = """\
name: base
model: {backbone: {name: FAMILY, options: {pretrained: someone/CHECKPOINT}}}
evaluate:
  - benchmark: {name: stdlib-infilling}
"""
LLADA2 = PUBLISHED.replace("FAMILY", "llada2")
FAST = PUBLISHED.replace("FAMILY", "fast-dllm-v2")

Read = Callable[..., Any]


def decoded_with(experiment: Any, index: int = 0) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The sampler, its options, and what of the decoder's isn't its own default."""
    [variant] = experiment.variants
    generate = generation_of(variant.manifest, index)
    own = generate.model_dump(exclude={"sampler", "chat"}, exclude_defaults=True)
    assert variant.plugins.evaluations[index].sampler.name == generate.sampler.name
    return generate.sampler.name, generate.sampler.options, own


@pytest.mark.parametrize("name", [registration.name for registration in installed_plugins().backbones])
def test_a_familys_options_are_its_samplers(name: str) -> None:
    plugins = installed_plugins()
    family = plugins.backbones.get(name).options
    assert issubclass(family, BackboneOptions)
    assert "max_new_tokens" not in family.default_options
    sort_options(family.default_options, plugins.samplers.get(family.default_sampler))


def test_the_authors_options_are_spelled_out(read: Read, tmp_path: Path) -> None:
    experiment = read("", base=LLADA2)
    wanted = {"rule": "dynamic", "threshold": 0.95, "confidence": "filtered"}
    assert decoded_with(experiment) == ("block-steps", wanted, {})
    [variant] = experiment.variants
    chosen = variant.plugins.evaluations[0].sampler.options
    assert (chosen.threshold, chosen.confidence) == (0.95, "filtered")
    assert decoded_with(round_trip(experiment, tmp_path / "resolved.yaml")) == decoded_with(experiment)


def test_what_a_manifest_says_goes_before(read: Read) -> None:
    own = {"rule": "dynamic", "threshold": 1.0}
    assert decoded_with(read("", base=FAST)) == ("block-steps", own, {"block_length": 8})
    said = read("generate: {block_length: 16, cache: dual}\n", base=FAST)
    assert decoded_with(said) == ("block-steps", own, {"block_length": 16, "cache": "dual"})
    undone = read("generate: {block_length: null}\n", base=FAST)
    assert decoded_with(undone) == ("block-steps", own, {})
    named = read("generate: {sampler: {name: block-steps, options: {threshold: 0.9}}}\n", base=FAST)
    assert decoded_with(named) == ("block-steps", {"threshold": 0.9}, {})


def test_an_entry_that_names_a_sampler_has_none_of_it(read: Read, tmp_path: Path) -> None:
    text = (
        "  - {benchmark: {name: stdlib-infilling}, label: other, generate: {sampler: {name: entropy}}}\n"
        "  - {benchmark: {name: stdlib-infilling}, label: longer, generate: {max_new_tokens: 7}}\n"
    )
    experiment = read(text, base=FAST)
    for each in (experiment, round_trip(experiment, tmp_path / "resolved.yaml")):
        assert decoded_with(each, 1) == ("entropy", {}, {})
        own = {"rule": "dynamic", "threshold": 1.0}
        assert decoded_with(each, 2) == ("block-steps", own, {"block_length": 8, "max_new_tokens": 7})


@pytest.mark.parametrize(("length", "sub_blocks"), [(4, None), (12, None), (16, 8), (32, 8)])
def test_sub_blocks_are_left_out_where_they_divide_no_block(
    length: int, sub_blocks: int | None, read: Read, tmp_path: Path
) -> None:
    """Whether the manifest says the length of a block, or a checkpoint that was made here."""
    asked = read("", f"model.backbone.options.block_length={length}", base=FAST)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    own = {"backbone": "fast-dllm-v2", "attention": "block-causal", "block_length": length}
    (folder / "config.json").write_text(json.dumps({"model_type": "Fast_dLLM_Qwen", "open_dllm": own}))
    stored = read("", f"model.backbone.options.pretrained={folder}", base=FAST)
    for experiment in (asked, stored):
        assert decoded_with(experiment)[2].get("block_length") == sub_blocks


def test_a_family_without_options_keeps_its_manifests_as_they_were(read: Read) -> None:
    [variant] = read().variants
    assert variant.manifest.generate.sampler is None
    assert default_options(variant.plugins.backbone.options) == {}


def test_likelihoods_of_other_noise_need_no_sampler(read: Read) -> None:
    """A family's sampler of masks is named by nobody: only a manifest that names one is refused."""
    noise = [
        "train.noise_schedule={name: linear, options: {destination: uniform}}",
        "train.objective.name=udlm",
    ]
    family = [
        "model.backbone.name=llada2",
        "model.backbone.options.attention=bidirectional",
        "generate.steps=null",
    ]
    read("", *noise, *family)
    with pytest.raises(Exception, match="undoes mask noise"):
        read("", *noise, *family, "generate.sampler.name=block-steps")
