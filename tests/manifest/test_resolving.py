"""Checks across sections, digests, and the resolved manifest."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from opendllm.core.foundation.json_objects import digest
from opendllm.core.manifest.checks import generation_of
from opendllm.core.manifest.experiment_manifest import Experiment, read_experiment
from opendllm.core.training.settings import batch_shape
from opendllm.registries.discovery import installed_plugins


def round_trip(experiment: Experiment, path: Path) -> Experiment:
    text = io.StringIO()
    YAML().dump(experiment.resolved(), text)
    path.write_text(text.getvalue())
    return read_experiment(path, [], installed_plugins())


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        (
            ["generate.alg_temp=.5", "generate.sampler.name=p2"],
            "generate: alg_temp has no effect with sampler 'p2'",
        ),
        (["generate.alg_temp=.5"], "m.yaml:10:1: generate: alg_temp has no effect with sampler 'p2'"),
        (
            ["evaluate.0.generate.alg_temp=.5"],
            "evaluate.0.generate: alg_temp has no effect with sampler 'p2': leave it out",
        ),
        (
            ["train.objective.name=ar"],
            "'ar' trains causal models, and the backbone's attention is bidirectional",
        ),
        (
            ["model.backbone.options.attention=causal"],
            "m.yaml:8:15: train.objective: 'mdlm' trains bidirectional models",
        ),
        (
            ["train.objective.name=llada", "train.noise_schedule.name=cosine"],
            "objective 'llada' brings its own schedule; only linear goes with it",
        ),
        (
            ["model.backbone.options.attention=block-causal", "train=null"],
            "`attention: block-causal` and `block_length` go together",
        ),
        (["model.backbone.options.block_length=4"], "`block_length` go together"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    refusal: Any, settings_: list[str], expected: str
) -> None:
    [line] = refusal("", *settings_)
    assert expected in line


def test_any_schedule_goes_with_an_objective_that_takes_any(read: Any) -> None:
    [variant] = read("", "train.noise_schedule.name=cosine").variants
    assert variant.manifest.train.noise_schedule.name == "cosine"


def test_a_benchmark_twice_needs_labels(read: Any, refusal: Any) -> None:
    twice = "  - benchmark: {name: perplexity}\n"
    [line] = refusal(twice)
    assert line == "m.yaml:14:5: evaluate.1: 'perplexity' is there twice: give each a `label`"
    [variant] = read(twice + "    label: again\n").variants
    assert len(variant.manifest.evaluate) == 2
    assert "'again' is there twice" in refusal(2 * (twice + "    label: again\n"))[0]


def test_an_entrys_generate_overrides_only_the_keys_it_gives(read: Any) -> None:
    entry = "  - {benchmark: {name: stdlib-infilling}, generate: {temperature: 0.5, max_new_tokens: 64}}\n"
    [variant] = read(entry, "generate.max_new_tokens=8", "generate.sampler.name=entropy").variants
    first, second = (generation_of(variant.manifest, index) for index in range(2))
    assert first == variant.manifest.generate
    assert (second.temperature, second.max_new_tokens) == (0.5, 64)
    assert (second.steps, second.sampler) == (first.steps, first.sampler)


def test_variants_that_differ_in_sampler_and_benchmarks_only_share_a_training_run(read: Any) -> None:
    text = """\
variants:
  plain: {}
  sampler: {generate: {sampler: {name: entropy}, steps: 9}}
  benchmarks: {evaluate: [{benchmark: {name: stdlib-infilling}}], device: cpu}
"""
    assert len({variant.training_digest for variant in read(text).variants}) == 1


@pytest.mark.parametrize(
    "setting",
    [
        "seed=1",
        "train=null",
        "train.steps=3",
        "train.objective.name=open-dcoder",
        "train.objective.options.times=independent",
        "train.learning_rate=1",
        "train.deepspeed.zero_optimization.stage=1",
        "model.backbone.name=llada",
        "model.backbone.options.preset=0.5b",
        "data.sequence_length=33",
        "data.tokenizer.train.vocab_size=301",
    ],
)
def test_whatever_changes_the_training_changes_its_digest(read: Any, setting: str) -> None:
    [plain], [changed] = read().variants, read("", setting).variants
    assert plain.training_digest != changed.training_digest


def test_a_digest_depends_on_content_and_not_on_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})


def test_a_run_of_an_earlier_version_is_known_again(read: Any) -> None:
    options = ["model.backbone.options.preset=small", "train.objective.options.times=independent"]
    digests = [read("", *options[:count]).variants[0].training_digest for count in range(3)]
    assert digests == ["cc084e44c49a3d25", "f6b4bcdf36510bf4", "b8627af35cb23d60"]


def test_a_variant_has_its_plugins_options_as_objects_with_what_nobody_gave(read: Any) -> None:
    sampler = "{name: remdm, options: {eta: 0.25}}"
    text = f"  - {{benchmark: {{name: stdlib-infilling}}, generate: {{sampler: {sampler}}}}}\n"
    [variant] = read(text, "train.objective.options.times=independent").variants
    plugins = variant.plugins
    assert plugins.training.objective.options.times == "independent"
    assert (plugins.backbone.name, plugins.backbone.options.pretrained) == ("open-dcoder", None)
    assert [each.benchmark.name for each in plugins.evaluations] == ["perplexity", "stdlib-infilling"]
    own, given = [each.sampler for each in plugins.evaluations]
    assert own == plugins.sampler
    assert own.name == plugins.backbone.options.default_sampler != given.name
    assert (own.options.model_fields_set, given.options.eta) == (set(), 0.25)


def test_a_mixture_keeps_its_corpora_in_order(read: Any) -> None:
    parts = "{corpus: {name: text-files, options: {train: x}}}, {corpus: {name: python-stdlib}}"
    [variant] = read("", "data.corpus=null", f"data.mixture=[{parts}]").variants
    assert [corpus.name for corpus in variant.plugins.corpora] == ["text-files", "python-stdlib"]
    assert variant.plugins.corpora[0].options.train == str(Path.cwd() / "x")


patches = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**31),
        "generate": st.fixed_dictionaries(
            {},
            optional={
                "steps": st.one_of(st.none(), st.integers(1, 99)),
                "temperature": st.one_of(st.just(0.0), st.floats(1e-6, 2)),
                "sampler": st.sampled_from([{"name": "p2"}, {"name": "entropy"}, {"name": "low-confidence"}]),
            },
        ),
        "train": st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {"learning_rate": st.floats(1e-9, 1)},
                optional={"held_out": st.fixed_dictionaries({"every": st.one_of(st.none(), st.just(3))})},
            ),
        ),
        "evaluate": st.just([]),
    },
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    variants=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True), patches, min_size=1
    )
)
def test_the_resolved_manifest_resolves_to_itself(write: Any, variants: dict[str, Any]) -> None:
    path = write(f"variants: {json.dumps(variants)}\n")
    experiment = read_experiment(path, [], installed_plugins())
    again = round_trip(experiment, path)
    assert [variant.name for variant in again.variants] == [variant.name for variant in experiment.variants]
    for before, after in zip(experiment.variants, again.variants, strict=True):
        assert after.training_digest == before.training_digest
        assert after.manifest.model_dump(exclude={"output"}) == before.manifest.model_dump(exclude={"output"})
    assert again.output == experiment.output


def test_the_resolved_manifest_of_seeds_spells_them_out(read: Any, tmp_path: Path) -> None:
    experiment = read("seeds: [1, 2]\n")
    again = round_trip(experiment, tmp_path / "resolved.yaml")
    assert {v.name: v.manifest.seed for v in again.variants} == {"default-seed-1": 1, "default-seed-2": 2}


def test_every_manifest_in_experiments_is_valid(repository: Path) -> None:
    paths = sorted((repository / "experiments").glob("*.yaml"))
    assert paths
    for path in paths:
        assert read_experiment(path, [], installed_plugins()).variants


FIGURES = """
figures:
- {model: Other, benchmark: perplexity, metrics: {perplexity: 3.5}, source: "arXiv:0000.00000"}
"""


def test_published_figures_travel_with_the_resolved_manifest(write: Any, tmp_path: Path) -> None:
    for name in ("base", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "figures.yaml").write_text(FIGURES)
    write("published: figures.yaml\n", "base/base.yaml")
    path = write("name: m\nextends: base/base.yaml\n", base="")
    experiment = read_experiment(path, [], installed_plugins())
    assert [figures.metrics for figures in experiment.published] == [{"perplexity": 3.5}]
    assert round_trip(experiment, tmp_path / "elsewhere" / "resolved.yaml").published == experiment.published


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("none.yaml", "none.yaml: No such file"),
        ("3", "published: name a YAML file, or list the figures"),
        ("[{model: m, benchmark: b, metrics: {a: 1}}]", "figures.0.source: is missing"),
        ("[{model: m, benchmark: b, metrics: {a: x}, source: s}]", "figures.0.metrics.a: Input should be"),
    ],
)
def test_broken_figures_are_refused_with_their_place(refusal: Any, published: str, expected: str) -> None:
    [line] = refusal(f"published: {published}\n")
    assert expected in line


def test_the_seed_tables_figures_stand_beside_something_that_is_measured(repository: Path) -> None:
    experiment = read_experiment(repository / "experiments" / "seed-table.yaml", [], installed_plugins())
    for variant in experiment.variants:
        labels = {entry.label or entry.benchmark.name for entry in variant.manifest.evaluate}
        assert {figures.benchmark for figures in experiment.published} == labels
    for figures in experiment.published:
        assert all(0 < share < 1 for share in figures.metrics.values())
        assert "read 20" in figures.source
    assert {figures.model for figures in experiment.published} >= {"Open-dCoder 0.5B", "LLaDA 8B", "Dream 7B"}


def test_what_the_head_of_an_experiment_sets_for_two_cores_can_be_run(repository: Path) -> None:
    checked = 0
    for path in sorted((repository / "experiments").glob("*.yaml")):
        head = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
        _, found, told = head.partition("On two CPU cores: ")
        if found:
            experiment = read_experiment(path, re.findall(r"--set (\S+=\S+)", told), installed_plugins())
            for variant in experiment.variants:
                if variant.manifest.train is not None:
                    batch_shape(variant.manifest.train, 1)
                    checked += 1
    assert checked >= 2
