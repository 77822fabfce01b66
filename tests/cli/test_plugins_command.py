"""`platform plugins`, with a real third-party package on the path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.registries.extension_points import EXTENSION_POINTS
from opendllm.registries.version import requirement

SAMPLER_PACKAGE = '''
from pathlib import Path

from pydantic import Field

from opendllm.registries import SamplerOptions, hookimpl


class Options(SamplerOptions):
    """Of a stranger's sampler."""

    gamma: float = Field(0.5, ge=0, description="How strange it is.")
    names: tuple[str, ...] = Field(default_factory=lambda: ("a", "b"), description="Made by a factory.")
    path: Path = Field(Path("here"), description="JSON does not know paths.")
    must: int = Field(description="Has no default.")


@hookimpl
def register_samplers(register):
    register("{name}", options=Options, target="{module}_heavy:Strange", summary="a stranger's sampler")
'''


def install(folder: Path, package: str, source: str) -> None:
    """What pip would leave of a package with one module and one entry point."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[opendllm]\nentry = {module}\n")


def install_sampler(folder: Path, package: str, name: str) -> None:
    module = package.replace("-", "_")
    install(folder, package, SAMPLER_PACKAGE.replace("{name}", name).replace("{module}", module))


@pytest.fixture
def ask(platform: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Run a command where `tmp_path`'s packages are installed."""

    def run(*arguments: str | Path) -> Any:
        return platform(*arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path))

    return run


def test_a_third_party_sampler_is_listed_with_its_package(ask: Any, tmp_path: Path) -> None:
    install_sampler(tmp_path, "stranger-things", "strange")
    result = ask("plugins", "--json")
    assert result.returncode == 0, result.stderr
    listing = json.loads(result.stdout)
    assert listing["problems"] == []
    [note] = listing["notes"]
    assert note.startswith("stranger-things 1.0 doesn't say which plugin interface it is for")
    assert f"OPENDLLM_INTERFACE = {requirement()!r}" in note
    assert {
        "name": "strange",
        "package": "stranger-things",
        "version": "1.0",
        "summary": "a stranger's sampler",
    } in listing["samplers"]
    assert {entry["package"] for kind in EXTENSION_POINTS for entry in listing[kind]} == {
        "open-dllm",
        "stranger-things",
    }


def test_its_options_are_shown_with_types_defaults_and_meaning(ask: Any, tmp_path: Path) -> None:
    install_sampler(tmp_path, "stranger", "strange")
    details = json.loads(ask("plugins", "show", "samplers/strange", "--json").stdout)
    assert details["target"] == "stranger_heavy:Strange"
    options = {option["name"]: option for option in details["options"]}
    assert options["gamma"] == {
        "name": "gamma",
        "type": "number",
        "required": False,
        "default": 0.5,
        "description": "How strange it is.",
    }
    assert options["names"]["default"] == ["a", "b"]
    assert options["path"]["default"] == "here"
    assert options["must"]["required"]
    text = ask("plugins", "show", "samplers/strange").stdout
    assert "from stranger 1.0" in text
    assert "gamma: number, default 0.5\n    How strange it is." in text
    assert "must: integer, required" in text


def test_broken_packages_are_problems_that_stop_nobody_else(
    ask: Any, tmp_path: Path, repository: Path
) -> None:
    install(tmp_path, "cannot-import", "import a_module_that_is_gone\n")
    install(tmp_path, "bad-syntax", "def broken(:\n")
    install(tmp_path, "wants-to-leave", "import sys\nsys.exit(3)\n")
    install(tmp_path, "no-hooks", "")
    install(
        tmp_path,
        "old-hook",
        "from opendllm.registries import hookimpl\n@hookimpl\ndef register_sampler(register): ...\n",
    )
    install_sampler(tmp_path, "fine", "strange")
    result = ask("plugins", "--json")
    assert result.returncode == 0, result.stderr
    listing = json.loads(result.stdout)
    problems = "\n".join(sorted(listing["problems"]))
    assert "bad-syntax 1.0 (entry): SyntaxError" in problems
    assert (
        "cannot-import 1.0 (entry): ModuleNotFoundError: No module named 'a_module_that_is_gone'" in problems
    )
    assert "no-hooks 1.0 (entry): it registers nothing" in problems
    assert "old-hook 1.0 (entry): there is no hook 'register_sampler': did you mean 'register_s" in problems
    assert "wants-to-leave 1.0 (entry): SystemExit: 3" in problems
    assert len(listing["problems"]) == 5
    assert "strange" in {entry["name"] for entry in listing["samplers"]}
    assert "problem: no-hooks 1.0" in ask("plugins").stderr
    assert ask("validate", repository / "experiments" / "quickstart.yaml").returncode == 0


def test_a_stranger_of_a_built_in_name_disables_nothing_and_is_had_by_its_package(
    ask: Any, tmp_path: Path, repository: Path
) -> None:
    install_sampler(tmp_path, "first", "p2")
    quickstart = repository / "experiments" / "quickstart.yaml"
    listing = json.loads(ask("plugins", "--json").stdout)
    [problem] = listing["problems"]
    assert "samplers/p2 is registered by" in problem
    assert "rename the other in register_samplers (at " in problem
    names = {entry["name"]: entry["package"] for entry in listing["samplers"]}
    assert (names["p2"], names["first:p2"]) == ("open-dllm", "first")
    result = ask("validate", quickstart)
    assert result.returncode == 0
    assert result.stderr.count("warning: samplers/p2 is the built-in one") == 1
    assert "first:p2 or open-dllm:p2" in result.stderr or "open-dllm:p2 or first:p2" in result.stderr
    shown = ask("plugins", "show", "samplers/first:p2")
    assert "from first 1.0" in shown.stdout
    chosen = ask("validate", quickstart, "--set", "generate.sampler={name: first:p2, options: {must: 1}}")
    assert chosen.returncode == 0, chosen.stderr
    missing = ask("plugins", "show", "samplers/second:p2")
    assert missing.returncode == 2
    assert "no plugin samplers/second:p2: known: " in missing.stderr


WRONG_SAMPLERS = """
from opendllm.registries.samplers import Sampler

class Duck:
    def __init__(self, options): pass
    def select(self, step): pass

class Lacking(Sampler):
    def __init__(self, options): pass

def nothing(options):
    return None
"""


@pytest.mark.slow
def test_check_finds_what_cannot_be_used(ask: Any, tmp_path: Path) -> None:
    hook = SAMPLER_PACKAGE.replace('    must: int = Field(description="Has no default.")\n', "")
    for target in ("raises:Any", "wrong:Duck", "wrong:Lacking", "wrong:nothing", "wrong:Gone"):
        name = target.replace(":", "-").lower()
        install(tmp_path, name, hook.replace("{name}", name).replace("{module}_heavy:Strange", target))
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "wrong.py").write_text(WRONG_SAMPLERS)
    result = ask("plugins", "--check")
    assert result.returncode == 2
    said = [line for line in result.stderr.splitlines() if line.startswith("problem: ")]
    contract = "opendllm.registries.samplers.Sampler"
    expected = [
        (
            "raises-any of raises-any 1.0 cannot be loaded from raises:Any: ZeroDivisionError: ",
            "raises.py:1",
        ),
        (
            "wrong-duck of wrong-duck 1.0 is no Sampler: wrong:Duck, which register_samplers names, is a "
            f"class that derives from another: derive it from {contract}",
            "wrong.py:4",
        ),
        ("wrong-gone of wrong-gone 1.0 cannot be loaded from wrong:Gone: AttributeError", "wrong_gone.py:19"),
        ("wrong-lacking of wrong-lacking 1.0 is not finished: wrong:Lacking lacks select", "wrong.py:8"),
        (
            "wrong-nothing of wrong-nothing 1.0 is no Sampler: wrong:nothing, which register_samplers names, "
            f"gave NoneType: let it return an instance of {contract}",
            "wrong.py:11",
        ),
    ]
    assert len(said) == len(expected)
    for line, (start, place) in zip(said, expected, strict=True):
        assert line.startswith(f"problem: samplers/{start}")
        assert line.endswith(f" (at {tmp_path / place})")
    assert result.stderr.endswith("error: 5 of the installed plugins cannot be used\n")
    assert "note: wrong-duck 1.0 doesn't say which plugin interface it is for" in result.stderr


def test_every_built_in_can_be_imported(ask: Any) -> None:
    """With no warning of a library that one of them imports."""
    result = ask("plugins", "--check")
    assert (result.returncode, result.stderr) == (0, "")
    assert all(kind in result.stdout for kind in EXTENSION_POINTS)


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        ("entrpy", "no plugin 'entrpy': did you mean 'entropy'"),
        ("gidd", "3 plugins: write noise_schedules/gidd or objectives/gidd or samplers/gidd"),
        ("samplr/p2", "no extension point 'samplr': did you mean 'samplers'?"),
        ("samplers/entrpy", "no plugin samplers/entrpy: did you mean 'entropy'"),
    ],
)
def test_a_plugin_that_is_not_there_is_refused_with_a_hint(refused: Any, plugin: str, expected: str) -> None:
    assert expected in refused("plugins", "show", plugin)


def test_a_name_that_only_one_kind_has_is_enough(accepted: Any) -> None:
    assert accepted("plugins", "show", "p2") == accepted("plugins", "show", "samplers/p2")


@pytest.mark.parametrize("kind", ["noise_schedule", "noise-schedules", "noise-schedule", "NoiseSchedule"])
def test_a_kind_is_taken_however_it_is_spelt_and_shown_in_one_way(accepted: Any, kind: str) -> None:
    shown = accepted("plugins", "show", f"{kind}/cosine")
    assert shown.startswith("noise_schedules/cosine: ")


@pytest.mark.slow
def test_a_plugin_is_held_against_its_contract(ask: Any, tmp_path: Path) -> None:
    kept = ask("plugins", "test", "noise_schedules/cosine", "-o", "eps=0.1")
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert "noise_schedules/cosine of open-dllm" in kept.stdout
    assert "passed" in kept.stdout
    refused = ask("plugins", "test", "cosine", "-o", "epps=0.1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "option epps: unknown key; did you mean 'eps'?" in refused.stderr


RISING = """
import torch
from opendllm.registries import NoiseScheduleOptions, hookimpl
from opendllm.registries.noise_schedules import NoiseSchedule

class Rising(NoiseSchedule):
    ends = (0.0, 1.0)
    def __init__(self, options): pass
    def alpha(self, t): return t
    def alpha_prime(self, t): return torch.ones_like(t)

@hookimpl
def register_noise_schedules(register):
    register("rising", options=NoiseScheduleOptions, target="stranger:Rising", summary="runs backwards")
"""


@pytest.mark.slow
def test_a_plugin_that_breaks_its_contract_is_told_what_and_where(ask: Any, tmp_path: Path) -> None:
    install(tmp_path, "stranger", RISING)
    broken = ask("plugins", "test", "noise-schedule/rising")
    assert broken.returncode == 1
    assert broken.stdout.splitlines()[-1] == (
        "noise_schedules/rising of stranger 1.0 doesn't keep its contract: see NoiseScheduleContract in "
        "opendllm.core.testing"
    )
    assert "test_alpha" in broken.stdout
    assert "failed" in broken.stdout
    assert "Traceback" not in broken.stdout + broken.stderr
