"""`require`: what has to be installed, in which version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = (REPOSITORY / "experiments" / "quickstart.yaml").read_text()
BACKBONE = "{name: open-dcoder, options: {preset: nano}}"


def refusal(folder: Path, text: str) -> list[str]:
    path = folder / "m.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_experiment(path, [], installed_plugins())
    return str(caught.value).replace(f"{path}:", "").splitlines()


def test_what_is_there_is_accepted_and_written_down(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(QUICKSTART + "require: {open-dllm: '>=0.1', samplers/p2: '>=0.1,<9'}\n")
    found = read_experiment(tmp_path / "m.yaml", [], installed_plugins())
    assert found.resolved()["require"] == {"open-dllm": ">=0.1", "samplers/p2": ">=0.1,<9"}
    (tmp_path / "again.yaml").write_text(QUICKSTART)
    plain = read_experiment(tmp_path / "again.yaml", [], installed_plugins())
    assert "require" not in plain.resolved()
    assert [each.training_digest for each in plain.variants] == [
        each.training_digest for each in found.variants
    ]


@pytest.mark.parametrize(
    ("required", "expected"),
    [
        ("{my-sampler: '>=0.2'}", "my-sampler: the package isn't installed: pip install 'my-sampler>=0.2'"),
        ("{open-dllm: '>=99'}", "and >=99 is required: pip install 'open-dllm>=99'"),
        ("{samplers/p2: '>=99'}", "require.samplers/p2: open-dllm"),
        ("{samplers/p3: '>=0'}", "no plugin samplers/p3: did you mean 'p2'?"),
        (
            "{open-dllm: newest}",
            "open-dllm: the version is 'newest': a specifier of versions was expected, as ",
        ),
        (
            "{open-dllm: '0.1'}",
            "require.open-dllm: the version is '0.1': write '>=0.1' for that one and later",
        ),
        ("{open-dllm: 0.1}", "require.open-dllm: write its versions as text, as in '>=0.1' (given: 0.1)"),
        ("{open-dllm: }", "require.open-dllm: write its versions as text, as in '>=0.2' (given: null)"),
        ("{open-dllm: ['>=0.1']}", "write its versions as text, as in '>=0.2' (given: ['>=0.1'])"),
        ("{sampler/p3: '>=0'}", "require.sampler/p3: no plugin samplers/p3: did you mean 'p2'?"),
        ("{samplr/p2: '>=0'}", "require.samplr/p2: no extension point 'samplr': did you mean 'samplers'"),
        ("{'': '>=1'}", "name a package, or a plugin as KIND/NAME"),
        ("{' ': '>=1'}", "name a package, or a plugin as KIND/NAME"),
        ("{'my sampler': '>=1'}", "name a package, or a plugin as KIND/NAME"),
        ("[open-dllm]", "require: map packages or KIND/NAME to versions"),
    ],
)
def test_what_is_missing_is_told_in_one_line(tmp_path: Path, required: str, expected: str) -> None:
    [line] = refusal(tmp_path, QUICKSTART + f"require: {required}\n")
    assert expected in line


def test_plugin_names_are_looked_up_in_the_round_that_finds_wrong_keys(tmp_path: Path) -> None:
    text = QUICKSTART.replace("name: p2", "name: p3").replace("  steps: 100", "  stepps: 100")
    lines = refusal(tmp_path, text)
    assert any("no plugin samplers/p3: did you mean 'p2'?" in line for line in lines)
    assert any("train.stepps: unknown key" in line for line in lines)


SECTION = re.compile(r"^(model|data|train|generate):\n(  .*\n)+", re.MULTILINE)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{name: linear}", "{name: linaer}", "17:20: train.noise_schedule.name: no plugin noise_schedules/l"),
        ("{name: python-stdlib}", "{name: python-stdlb}", "no plugin corpora/python-stdlb"),
        (BACKBONE, "open-dcoder", "8:3: model.backbone: should be a mapping (given: 'open-dcoder')"),
        (BACKBONE, "3", "8:3: model.backbone: should be a mapping (given: 3)"),
        (BACKBONE, "[open-dcoder]", "8:3: model.backbone: should be a mapping (given: ['open-dcoder'])"),
        ("{train: {vocab_size: 320}}", "320", "data.tokenizer: should be a mapping (given: 320)"),
        ("{name: open-dcoder}", "open-dcoder", "train.objective: should be a mapping (given: 'open-dcoder')"),
        ("{name: p2}", "p2", "generate.sampler: should be a mapping (given: 'p2')"),
        ("model", "model: open-dcoder", "7:1: model: should be a mapping (given: 'open-dcoder')"),
        ("data", "data: [a]", "data: should be a mapping (given: ['a'])"),
        ("train", "train: 100", "train: should be a mapping (given: 100)"),
        ("generate", "generate: p2", "generate: should be a mapping (given: 'p2')"),
    ],
)
@pytest.mark.parametrize("extended", [False, True])
def test_one_mistake_is_one_line(tmp_path: Path, old: str, new: str, expected: str, extended: bool) -> None:
    """Whichever of the real quickstart's variants come by it, and where another file extends it."""
    text = SECTION.sub(lambda found: f"{new}\n" if found[1] == old else found[0], QUICKSTART)
    if text == QUICKSTART:
        text = QUICKSTART.replace(old, new, 1)
    assert text != QUICKSTART
    if extended:
        (tmp_path / "base.yaml").write_text(text)
        text = "extends: base.yaml\nmodel: {backbone: {options: {attention: bidirectional}}}\n"
    [line] = refusal(tmp_path, text)
    assert expected in line


def test_what_a_variant_itself_does_wrong_is_told_beside_it(tmp_path: Path) -> None:
    text = QUICKSTART.replace(BACKBONE, "open-dcoder").replace("{attention: causal}}", "{}, optoins: {}}")
    lines = refusal(tmp_path, text)
    assert len(lines) == 2
    assert any("model.backbone: should be a mapping" in line for line in lines)
    assert any("model.backbone.optoins: unknown key; did you mean 'options'" in line for line in lines)


def test_a_variant_may_give_the_mapping_that_the_manifest_lacks(tmp_path: Path) -> None:
    """What is laid over is gone; nothing else needs it here."""
    text = QUICKSTART.replace(BACKBONE, "open-dcoder").split("variants:")[0]
    text += "variants: {llada: {model: {backbone: {name: llada}}}}\n"
    (tmp_path / "m.yaml").write_text(text)
    assert len(read_experiment(tmp_path / "m.yaml", [], installed_plugins()).variants) == 1
