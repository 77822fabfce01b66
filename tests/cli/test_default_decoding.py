"""What a checkpoint is decoded with where nobody names a sampler, and where that is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.checkpoints.families import stored_block_length
from opendllm.core.decoding.settings import default_options
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.options import BackboneOptions

from .conftest import save_letter_tokenizer

Accepted = Callable[..., str]
Refused = Callable[..., str]
AUTHORS = {"rule": "dynamic", "threshold": 0.95, "confidence": "filtered"}
ASCII = [chr(number) for number in range(10, 127)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaDA2 of one-letter tokens, with blocks of 8."""
    folder = tmp_path_factory.mktemp("llada2")
    size = save_letter_tokenizer(folder, ASCII)
    torch.manual_seed(0)
    backbone = installed_plugins().backbones.get("llada2").build({"block_length": 8})
    lm = backbone.build(Vocabulary(size, size - 1, size - 2))
    lm.save(folder, lm.module.state_dict())
    return folder


def test_a_call_that_names_no_sampler_has_its_authors_options(goldens: Path) -> None:
    model = load(goldens / "fast-dllm-v2", mask_token_id=150, block_length=16, device="cpu")
    own = {"rule": "dynamic", "threshold": 1.0, "block_length": 8}
    assert (model.default_sampler, model.default_options) == ("block-steps", own)
    other = load(goldens / "fast-dllm-v2", mask_token_id=150, block_length=4, device="cpu")
    assert "block_length" not in other.default_options
    canvas = torch.tensor([[5, 6, 7, *[150] * 29]])
    decoded = [
        model.sample(canvas, name, **options).tokens.tolist()
        for name, options in ((None, {}), ("block-steps", own), ("block-steps", {"threshold": 0.01}))
    ]
    assert decoded[0] == decoded[1] != decoded[2]
    overridden = model.sample(canvas, threshold=0.01, block_length=16)
    assert overridden.tokens.tolist() == decoded[2]
    assert model.decoding(None, {"threshold": 0.01}) == ("block-steps", {**own, "threshold": 0.01})
    assert model.decoding("block-steps", {}) == ("block-steps", {})


@pytest.mark.parametrize(
    ("family", "asked", "kept"),
    [
        ("llada2", {"rule": "sequential"}, {}),
        ("sdar", {"rule": "static"}, {"temperature": 1.0}),
        ("sdar", {"rule": "entropy-bound"}, {"temperature": 1.0}),
        ("fast-dllm-v2", {"rule": "static"}, {"block_length": 8}),
        ("sdar", {"temperature": 0.0}, {"rule": "dynamic", "threshold": 0.85}),
    ],
)
def test_what_does_not_go_with_what_is_asked_for_is_left_out(
    goldens: Path, family: str, asked: dict[str, Any], kept: dict[str, Any]
) -> None:
    """Another rule has no use for their rule's threshold."""
    model = load(goldens / family, mask_token_id=150, block_length=16, device="cpu")
    assert model.decoding(None, asked) == ("block-steps", {**kept, **asked})
    canvas = torch.tensor([[5, *[150] * 15]])
    own = model.sample(canvas, seed=1, **asked)
    assert torch.equal(own.tokens, model.sample(canvas, "block-steps", seed=1, **kept, **asked).tokens)
    with pytest.raises(UserError, match="has an option 'treshold'"):
        model.sample(canvas, treshold=0.5, **asked)


@pytest.mark.parametrize(
    ("stored", "given", "sub_blocks"), [(4, None, None), (12, None, None), (16, None, 8), (16, 4, None)]
)
def test_sub_blocks_fit_the_blocks_that_config_json_tells(
    goldens: Path, tmp_path: Path, stored: int, given: int | None, sub_blocks: int | None
) -> None:
    """In the family's own key, unless an option says another length."""
    config = json.loads((goldens / "fast-dllm-v2" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"bd_size": stored}))
    family = installed_plugins().backbones.get("fast-dllm-v2").options.model_validate({"block_length": given})
    assert isinstance(family, BackboneOptions)
    found = default_options(family, stored_block_length(tmp_path, family))
    assert found.get("block_length") == sub_blocks


def test_a_trace_says_what_was_used(checkpoint: Path, accepted: Accepted, tmp_path: Path) -> None:
    call = ("generate", "--checkpoint", checkpoint, "--prompt", "ab", "-o", "max_new_tokens=5")
    for number, (extra, sampler, options) in enumerate(
        [
            ((), "block-steps", AUTHORS),
            (("-o", "threshold=0.5"), "block-steps", {**AUTHORS, "threshold": 0.5}),
            (("--sampler", "entropy"), "entropy", {}),
        ]
    ):
        path = tmp_path / f"{number}.json"
        accepted(*call, *extra, "--trace", path)
        trace = json.loads(path.read_text())
        assert (trace["sampler"], trace["options"]) == (sampler, {**options, "max_new_tokens": 5})


def test_mistakes_are_told_before_the_model_is_loaded(
    checkpoint: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opendllm.core.load", lambda *_args, **_options: pytest.fail("loaded"))
    said = refused("generate", "--checkpoint", checkpoint, "--prompt", "ab", "-o", "rule=statick")
    assert "option rule: " in said


def test_a_result_says_what_was_used(
    checkpoint: Path, accepted: Accepted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = ("--benchmark", "stdlib-infilling", "-o", "fixed_lengths=[3]", "--limit", "1")
    accepted("evaluate", checkpoint, *corpus, "-o", "threshold=0.6", "--progress", "none", "--output", "here")
    results = tmp_path / "here" / "checkpoint" / "results" / "stdlib-infilling.json"
    settings = json.loads(results.read_text())["settings"]
    assert settings["sampler"] == {"name": "block-steps", "options": {**AUTHORS, "threshold": 0.6}}


def test_a_backbones_page_shows_them(accepted: Accepted) -> None:
    shown = accepted("plugins", "show", "backbones/llada2")
    assert (
        "decodes by default with block-steps -o rule=dynamic -o threshold=0.95 -o confidence=filtered"
        in shown
    )
    details: dict[str, Any] = json.loads(accepted("plugins", "show", "backbones/fast-dllm-v2", "--json"))
    assert details["default_sampler"] == "block-steps"
    assert details["default_options"] == {"rule": "dynamic", "threshold": 1.0, "block_length": 8}
