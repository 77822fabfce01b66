"""What is wrong, and where: file, line, column, key and a suggestion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries import UserError
from opendllm.registries.discovery import installed_plugins


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: base", "nmae: base", "m.yaml:1:1: nmae: unknown key; did you mean 'name'?"),
        ("steps: 2", "stesp: 2", "m.yaml:9:3: train.stesp: unknown key; did you mean 'steps'?"),
        (
            "{train: {vocab_size: 300}}",
            "{train: {vocabsize: 300}}",
            "m.yaml:5:23: data.tokenizer.train.vocabsize: unknown key; did you mean 'vocab_size'?",
        ),
        (
            "{name: perplexity}",
            "{name: perplexity, optoins: {}}",
            "m.yaml:13:35: evaluate.0.benchmark.optoins: unknown key; did you mean 'options'?",
        ),
        (
            "{name: perplexity}",
            "{name: perplexity, options: {document: 3}}",
            "m.yaml:13:45: evaluate.0.benchmark.options.document: unknown key; did you mean 'documents'?",
        ),
        (
            "{name: perplexity}",
            "{name: perplexity, options: {documents: 0}}",
            "m.yaml:13:45: evaluate.0.benchmark.options.documents: "
            "Input should be greater than or equal to 1 (given: 0)",
        ),
        ("steps: 2", "steps: true", "train.steps: should be a number, not true or false (given: True)"),
        (
            "steps: 2",
            "steps: 2\n  deepspeed: {zero_optimization: {stage: true}}",
            "train.deepspeed.zero_optimization.stage: should be a number, not true or false",
        ),
        (
            "{name: perplexity}",
            "{name: perplexity, options: {documents: true}}",
            "evaluate.0.benchmark.options.documents: should be a number, not true or false (given: True)",
        ),
        (
            "{name: open-dcoder}",
            "{name: open-dcodr}",
            "m.yaml:2:20: model.backbone.name: no plugin backbones/open-dcodr: did you mean 'open-dcoder'?",
        ),
        (
            "{name: open-dcoder}",
            "{name: open-dcoder, options: {preset: giant}}",
            "m.yaml:2:49: model.backbone.options.preset: Input should be 'nano', 'small', '60m' "
            "or '0.5b' (given: 'giant')",
        ),
        (
            "{name: open-dcoder}",
            "open-dcoder",
            "model.backbone: should be a mapping (given: 'open-dcoder'): write {name: open-dcoder}",
        ),
        (
            "{backbone: {name: open-dcoder}}",
            "open-dcoder",
            "model: should be a mapping (given: 'open-dcoder'): write {backbone: {name: open-dcoder}}",
        ),
        (
            "benchmark: {name: perplexity}",
            "perplexity",
            "evaluate.0: should be a mapping (given: 'perplexity'): write {benchmark: {name: perplexity}}",
        ),
        (
            "evaluate:\n  - benchmark: {name: perplexity}",
            "evaluate: perplexity",
            "evaluate: should be a list (given: 'perplexity'): write [{benchmark: {name: perplexity}}]",
        ),
        (
            "{train: {vocab_size: 300}}",
            "gpt2/tokenizer",
            "data.tokenizer: should be a mapping (given: 'gpt2/tokenizer'): write {path: gpt2/tokenizer}",
        ),
        (
            "{name: mdlm}",
            "'a: b'",
            "m.yaml:8:3: train.objective: should be a mapping (given: 'a: b')",
        ),
        ("  - benchmark", "    benchmark", "evaluate: should be a list"),
        ("steps: 2", "steps: soon", "m.yaml:9:3: train.steps: Input should be a valid integer"),
        ("steps: 4", "steps: 0", "m.yaml:11:3: generate.steps: Input should be greater than or equal to 1"),
        ("steps: 2", "steps: .nan", "m.yaml:9:3: train.steps:"),
        ("  steps: 2\n", "", "m.yaml:7:1: train.steps: is missing"),
        ("name: base\n", "name: base\nseed: 9223372036854775808\n", "seed: Input should be less than"),
        ("name: base\n", "", "m.yaml:1:1: name: is missing"),
        ("name: base", "name: ../base", "m.yaml:1:1: name: String should match pattern"),
        ("{train: {vocab_size: 300}}", "{}", "data.tokenizer: give either `train` or `path`"),
        ("steps: 4", "steps: 4\n  steps: 5", 'm.yaml:12:3: not valid YAML: found duplicate key "steps"'),
    ],
)
def test_a_mistake_is_reported_with_its_place_its_key_and_a_hint(
    refusal: Any, base_text: str, old: str, new: str, expected: str
) -> None:
    assert old in base_text
    lines = refusal(base=base_text.replace(old, new, 1))
    assert any(expected in line for line in lines), lines


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["train.stpes=3"], "--set train.stpes: unknown key; did you mean 'steps'?"),
        (["train={stpes: 3}"], "--set train: train.stpes: unknown key; did you mean 'steps'?"),
    ],
)
def test_a_key_that_was_set_is_named_once(refusal: Any, settings: list[str], expected: str) -> None:
    assert expected in refusal("", *settings)


@pytest.mark.parametrize(
    "setting",
    [
        "train.global_batch_size={grid: [2, 4]}",
        "train.checkpoint={grid: [2, 4]}",
        "data.sequence_length={grid: [16, 32]}",
        "evaluate.0.benchmark.options={documents: {grid: [1, 2]}}",
    ],
)
def test_a_grid_where_none_is_taken_is_told_where_they_are(refusal: Any, setting: str) -> None:
    said = "a grid is of `generate` or its sampler's options: compare other values as variants"
    assert any(said in line for line in refusal("", setting)), refusal("", setting)


def test_all_mistakes_are_reported_at_once(refusal: Any) -> None:
    lines = refusal("sed: 1\nextend: x\n", "train.stpes=3")
    assert [line.split(": unknown key; ")[1] for line in lines] == [
        "did you mean 'steps'?",
        "did you mean 'seed' or 'seeds'?",
        "did you mean 'extends' or 'seed'?",
    ]


def test_the_keys_of_the_whole_file_are_suggested_too(refusal: Any) -> None:
    assert refusal("variant: {}\n") == ["m.yaml:14:1: variant: unknown key; did you mean 'variants'?"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "m.yaml:1:1: a manifest is a mapping, this is empty"),
        (b"- a\n", "m.yaml:1:1: a manifest is a mapping, this is a list"),
        (b"just words\n", "m.yaml:1:1: a manifest is a mapping, this is a single value"),
        (b"a: [1,\n", "m.yaml:2:1: not valid YAML: expected the node content"),
        (b"\ta: 1\n", "m.yaml:1:1: not valid YAML: found character '\\t'"),
        (b"a: *nowhere\n", "m.yaml:1:4: not valid YAML: found undefined alias 'nowhere'"),
        (b"a: 1\n---\nb: 2\n", "m.yaml:2:1: not valid YAML"),
        (b"a: \x00\n", "m.yaml: not valid YAML: unacceptable character #x0000"),
        (b"a: \xff\n", "m.yaml is not UTF-8 text (byte 3)"),
    ],
)
def test_a_file_that_holds_no_manifest_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_experiment(Path("m.yaml"), [], installed_plugins())
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: No such file"):
        read_experiment(tmp_path / "gone.yaml", [], installed_plugins())
    with pytest.raises(UserError, match=f"{tmp_path}: Is a directory"):
        read_experiment(tmp_path, [], installed_plugins())


def test_what_a_yaml_merge_key_brings_is_read_and_its_mistakes_are_placed(read: Any, refusal: Any) -> None:
    anchored = "variants:\n  a: &a {train: {steps: 3}}\n  b: {<<: *a, seed: 5}\n"
    variants = {variant.name: variant.manifest for variant in read(anchored).variants}
    assert (variants["b"].train.steps, variants["b"].seed) == (3, 5)
    misspelt = "variants:\n  a: {seed: 1}\n  b: {<<: {train: {stesp: 3}}}\n"
    [line] = refusal(misspelt)
    assert line.endswith("train.stesp: unknown key; did you mean 'steps'?")


@pytest.mark.parametrize(
    ("written", "found"),
    [("1.10", "1.1"), ("1e-4", "0.0001"), ("0x10", "16"), ("010", "10"), ("true", "True")],
)
def test_a_variant_is_called_what_is_written(read: Any, refusal: Any, written: str, found: str) -> None:
    line = f"m.yaml:15:3: the key {written} is read as {found}: put it into quotes"
    assert refusal(f"variants:\n  {written}: {{}}\n") == [line]
    names = read(f"variants:\n  '{written}': {{}}\n  8: {{}}\n  0.5: {{}}\n  no: {{}}\n").variants
    assert {written, "8", "0.5", "no"} == {variant.name for variant in names}
