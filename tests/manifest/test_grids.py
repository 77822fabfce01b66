"""A grid on an option of `generate` makes a variant of each value."""

from __future__ import annotations

import pytest

from .conftest import BASE, Read, Refusal

GRID = BASE.replace("steps: 4", "steps: {grid: [8, 16, 32]}")


def test_each_value_is_a_variant_named_by_it_that_shares_one_training_run(read: Read) -> None:
    found = read(base=GRID).variants
    assert {variant.name: variant.manifest.generate.steps for variant in found} == {
        "steps-8": 8,
        "steps-16": 16,
        "steps-32": 32,
    }
    assert len({variant.shared_training for variant in found}) == 1


def test_grids_of_decoder_and_sampler_make_every_combination_beside_other_variants(read: Read) -> None:
    text = """\
variants:
  fast:
    generate: {sampler: {name: remdm, options: {eta: {grid: [0.5, 0.9]}}}}
  fixed: {generate: {steps: 2}}
"""
    found = {variant.name: variant for variant in read(text, base=GRID).variants}
    assert list(found) == [
        *(f"fast-steps-{steps}-eta-{eta}" for steps in (8, 16, 32) for eta in (0.5, 0.9)),
        "fixed",
    ]
    chosen = found["fast-steps-16-eta-0.9"]
    assert chosen.manifest.generate.steps == 16
    assert chosen.plugins.sampler.options.model_dump()["eta"] == 0.9


def test_a_setting_replaces_a_grid_or_brings_one(read: Read) -> None:
    assert [v.name for v in read("", "generate.steps=3", base=GRID).variants] == ["default"]
    found = read("seeds: [0, 1]\n", "generate.temperature={grid: [0, 0.5]}").variants
    assert [variant.name for variant in found] == [
        f"temperature-{value}-seed-{seed}" for value in ("0", "0.5") for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("{grid: []}", "a grid is a list of values"),
        ("{grid: 8}", "a grid is a list of values"),
        ("{grid: [8, 8.0]}", "differ from each other"),
        ("{grid: [[8]]}", "numbers, words, true, false or null"),
        ("{grid: [8], step: 2}", "stands alone, without step"),
        ("{grid: [8, -0]}", "greater than or equal to 1"),
        ('{grid: ["a/b"]}', "can't be part of a variant's name"),
    ],
)
def test_a_bad_grid_is_refused_where_it_stands(refusal: Refusal, grid: str, said: str) -> None:
    [line] = refusal(base=BASE.replace("steps: 4", f"steps: {grid}"))
    assert line.startswith("m.yaml:11:3: generate.steps")
    assert said in line


def test_a_grid_elsewhere_is_refused(refusal: Refusal) -> None:
    assert refusal(base=BASE.replace("steps: 2\n", "steps: {grid: [2, 4]}\n"))
    [line] = refusal(base=BASE.replace("steps: 4", "sampler: {grid: [p2, entropy]}"))
    assert "compare samplers as variants" in line


def test_a_name_that_a_grid_makes_twice_is_refused(refusal: Refusal) -> None:
    text = "variants: {a: {generate: {steps: {grid: [8, 16]}}}, a-steps-8: {}}\n"
    [line] = refusal(text)
    assert "variants.a-steps-8: there are 2 of this name" in line
