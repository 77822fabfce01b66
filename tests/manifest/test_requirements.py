"""`require`: what has to be installed, in which version."""

from __future__ import annotations

from pathlib import Path

import pytest

from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = (REPOSITORY / "experiments" / "quickstart.yaml").read_text()


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
        ("{open-dllm: newest}", "a specifier of versions was expected, as in '>=1.0,<2'"),
        ("{'': '>=1'}", "name a package, or a plugin as KIND/NAME"),
        ("[open-dllm]", "require: map packages or KIND/NAME to versions"),
    ],
)
def test_what_is_missing_is_told_in_one_line(tmp_path: Path, required: str, expected: str) -> None:
    [line] = refusal(tmp_path, QUICKSTART + f"require: {required}\n")
    assert expected in line


def test_plugin_names_are_looked_up_in_the_round_that_finds_wrong_keys(tmp_path: Path) -> None:
    text = QUICKSTART.replace("name: p2", "name: p3").replace("  steps: 100", "  stepps: 100")
    lines = refusal(tmp_path, text.split("variants:")[0])
    assert any("no plugin samplers/p3: did you mean 'p2'?" in line for line in lines)
    assert any("train.stepps: unknown key" in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{name: linear}", "{name: linaer}", "no plugin noise_schedules/linaer"),
        ("{name: open-dcoder, options: {preset: nano}}", "open-dcoder", "should be a mapping"),
        ("{name: python-stdlib}", "{name: python-stdlb}", "no plugin corpora/python-stdlb"),
    ],
)
def test_one_mistake_is_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in QUICKSTART
    [line] = refusal(tmp_path, QUICKSTART.replace(old, new, 1).split("variants:")[0])
    assert expected in line
