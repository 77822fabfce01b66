"""`extends`, the manifest, the variant, `--set`: who has the last word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opendllm.core.manifest.experiment_manifest import Experiment, read_experiment
from opendllm.registries import UserError
from opendllm.registries.discovery import installed_plugins


def by_name(experiment: Experiment) -> dict[str, Any]:
    return {variant.name: variant.manifest for variant in experiment.variants}


def child(text: str, *settings: str, folder: str = ".") -> Experiment:
    path = Path(folder) / "child.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return read_experiment(path, settings, installed_plugins())


def test_set_overrides_the_variant_the_variant_the_manifest_the_manifest_its_base(write: Any) -> None:
    write("description: from the base\nseed: 1\n", base=BASE_WITH_FOUR)
    text = """\
extends: m.yaml
train: {steps: 22, global_batch_size: 24, learning_rate: 0.2}
variants:
  v: {train: {global_batch_size: 33, learning_rate: 0.3}}
"""
    manifest = by_name(child(text, "train.learning_rate=0.4"))["v"]
    assert manifest.train.warmup_ratio == 0.1  # the base
    assert manifest.train.steps == 22  # the manifest
    assert manifest.train.global_batch_size == 33  # the variant
    assert manifest.train.learning_rate == 0.4  # --set


BASE_WITH_FOUR = """\
name: base
model: {backbone: {name: open-dcoder}}
data: {corpus: {name: python-stdlib}, tokenizer: {train: {vocab_size: 300}}, sequence_length: 32}
train: {objective: {name: mdlm}, steps: 11, global_batch_size: 12, learning_rate: 0.1, warmup_ratio: 0.1}
variants: {v: {train: {learning_rate: 0.11}}}
"""


def test_extends_is_relative_to_the_file_that_says_it(write: Any) -> None:
    write()
    assert child("extends: ../m.yaml\nname: mine\n", folder="deeper").name == "mine"


def test_a_mistake_in_the_extended_file_is_placed_there(write: Any) -> None:
    write("sed: 3\n")
    with pytest.raises(UserError, match=r"^m\.yaml:14:1: sed: unknown key"):
        child("extends: m.yaml\n")


def test_what_both_lack_is_missing_in_the_file_that_was_given(write: Any) -> None:
    write(base="seed: 3\n")
    with pytest.raises(UserError, match=r"^child\.yaml:1:1: name: is missing"):
        child("extends: m.yaml\n")


def test_a_missing_base_is_reported_with_the_place_that_asks_for_it(write: Any) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: No such file .*\(extended at child\.yaml:2:1\)"):
        child("name: a\nextends: gone.yaml\n")


def test_manifests_that_extend_each_other_are_refused(write: Any) -> None:
    write("extends: child.yaml\n")
    with pytest.raises(UserError, match="extends itself"):
        child("extends: m.yaml\n")


def test_extends_must_be_a_path(write: Any) -> None:
    with pytest.raises(UserError, match=r"child\.yaml:1:1: extends: give the path"):
        child("extends: [m.yaml]\n")


def test_a_null_removes_a_section_of_the_base_that_set_may_bring_back(write: Any) -> None:
    write()
    assert by_name(child("extends: m.yaml\ntrain: null\n"))["default"].train is None
    settings = ("train.steps=3", "train.objective.name=mdlm")
    assert by_name(child("extends: m.yaml\ntrain: null\n", *settings))["default"].train.steps == 3


def test_variants_keep_their_order_and_an_empty_one_is_the_manifest_itself(read: Any) -> None:
    experiment = read("variants: {zebra: {}, ant: null, mole: {seed: 4}}\n")
    assert [variant.name for variant in experiment.variants] == ["zebra", "ant", "mole"]
    assert [variant.manifest.seed for variant in experiment.variants] == [0, 0, 4]


def test_set_puts_nothing_into_a_section_that_a_variant_removed(read: Any) -> None:
    manifests = by_name(read("variants: {full: {}, bare: {train: null}}\n", "train.steps=7"))
    assert manifests["full"].train.steps == 7
    assert manifests["bare"].train is None


def test_set_has_the_last_word_on_a_value_that_a_variant_removed(read: Any) -> None:
    text = "variants: {full: {}, usual: {generate: {steps: null}}}\n"
    assert [m.generate.steps for m in by_name(read(text)).values()] == [4, None]
    assert [m.generate.steps for m in by_name(read(text, "generate.steps=7")).values()] == [7, 7]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("variants: {a: {name: other}}", "m.yaml:14:16: variants.a.name: belongs to the whole experiment"),
        ("variants: {a: {description: d}}", "variants.a.description: belongs to the whole experiment"),
        ("variants: {a: {output: o}}", "variants.a.output: belongs to the whole experiment"),
        ("variants: {a: {seeds: [1]}}", "variants.a.seeds: belongs to the whole experiment"),
        ("variants: {a: {trian: {}}}", "variants.a.trian: unknown key; did you mean 'train'?"),
        (
            "variants: {a: {train: {stesp: 3}}}",
            "m.yaml:14:24: train.stesp: unknown key; did you mean 'steps'?",
        ),
        ("variants: {../a: {}}", "variants.../a: use letters, digits, '.', '_' and '-'"),
        ("variants: {'': {}}", "use letters, digits, '.', '_' and '-'"),
        ("variants: {a: 3}", "variants.a: a variant is a mapping; `{}` changes nothing"),
        ("variants: {}", "m.yaml:14:1: variants: name at least one variant"),
        ("variants: [a]", "m.yaml:14:1: variants: name at least one variant"),
    ],
)
def test_a_variant_that_cannot_be_is_refused(refusal: Any, text: str, expected: str) -> None:
    [line] = refusal(text + "\n")
    assert expected in line


def test_set_reaches_into_lists(read: Any) -> None:
    experiment = read("", "evaluate.0.benchmark.options.documents=3", "evaluate.0.label=short")
    [entry] = by_name(experiment)["default"].evaluate
    assert (entry.label, entry.benchmark.options) == ("short", {"documents": 3})


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.steps", "--set 'train.steps': write it as a.b=value"),
        ("=3", "--set '=3': write it as a.b=value"),
        ("train..steps=3", "--set 'train..steps=3': write it as a.b=value"),
        ("train.steps=[", "--set train.steps: '[' is not a YAML value"),
        (
            "trian.steps=3",
            "--set trian.steps: a manifest has no key 'trian' that can be set; did you mean 'train'",
        ),
        (
            "extends=x",
            "--set extends: a manifest has no key 'extends' that can be set; did you mean 'seeds'?",
        ),
        (
            "variants.a.seed=1",
            "a manifest has no key 'variants' that can be set; known: allow_code_exec",
        ),
        ("train.steps.more=3", "--set train.steps.more: train.steps has no 'more'"),
        ("evaluate.1.label=x", "--set evaluate.1.label: evaluate has no 1"),
        ("evaluate.first.label=x", "--set evaluate.first.label: evaluate has no 'first'"),
        (
            "evaluate.0.lable=x",
            "--set evaluate.0.lable: unknown key; did you mean 'label'?",
        ),
        ("train.steps=", "--set train.steps: Input should be a valid integer (given: None)"),
        ("train.deepspeed.zero_optimization.stage=7", "Input should be 0, 1, 2 or 3 (given: 7)"),
        ("train.micro_batch_size=5", "train: global_batch_size 16 is not a multiple of micro_batch_size 5"),
        ("device=gpu", "--set device: String should match pattern"),
    ],
)
def test_a_set_that_cannot_be_is_refused(refusal: Any, setting: str, expected: str) -> None:
    [line] = refusal("", setting)
    assert expected in line


def test_a_set_value_is_read_as_the_file_would_read_it(read: Any) -> None:
    experiment = read("", "description=2026-01-02", "train.adam_betas=[0.5, 0.6]", "train.learning_rate=5e-3")
    train = by_name(experiment)["default"].train
    assert (experiment.description, train.adam_betas, train.learning_rate) == ("2026-01-02", (0.5, 0.6), 5e-3)


def test_seeds_repeat_every_variant(read: Any) -> None:
    text = "seeds: [0, 3]\nvariants: {a: {}, b: {seed: 9}}\n"
    seeds = {name: manifest.seed for name, manifest in by_name(read(text)).items()}
    assert seeds == {"a-seed-0": 0, "a-seed-3": 3, "b-seed-0": 0, "b-seed-3": 3}
    assert list(by_name(read(text, "seeds=[5]"))) == ["a-seed-5", "b-seed-5"]


@pytest.mark.parametrize("seeds", ["[]", "3", "[0, 0]", "[a]", "[-1]", "[true]", "[1.5]"])
def test_seeds_that_cannot_be_are_refused(refusal: Any, seeds: str) -> None:
    [line] = refusal(f"seeds: {seeds}\n")
    assert line.startswith("m.yaml:14:1: seeds: list different whole numbers from 0 on, as in `[0, 1, 2]`")
    [line] = refusal("", f"seeds={seeds}")
    assert line.startswith("--set seeds: list different whole numbers")
