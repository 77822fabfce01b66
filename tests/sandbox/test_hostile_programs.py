"""Programs that do harm, and programs that cheat: each fails, in bounded time, and nothing is harmed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
LEVELS = ("namespaces", "rlimits", *(["bubblewrap"] if shutil.which("bwrap") else []))


def _module(name: str) -> ModuleType:
    """A neighbouring file; tests are no package."""
    module = ModuleType(name)
    exec(compile((HERE / f"{name}.py").read_text(), name, "exec", dont_inherit=True), module.__dict__)
    return module


programs = _module("hostile_programs")


@pytest.fixture(scope="module")
def jailed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """What became of all programs at a level."""

    @cache
    def run(level: str) -> Any:
        request = {
            "level": level,
            "folder": str(tmp_path_factory.mktemp("jail")),
            "programs": {
                **{name: (text, 2) for name, text in programs.HOSTILE.items()},
                **{f"honest: {name}": (text, 30) for name, text in programs.HONEST.items()},
            },
        }
        with subprocess.Popen(["sleep", "600"]) as bystander:  # shares our group, our user, our namespaces
            done = subprocess.run(
                [sys.executable, str(HERE / "jail.py")],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                check=False,
            )
            unharmed = bystander.poll() is None
            bystander.kill()
        assert unharmed
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        if "skip" in result:
            pytest.skip(result["skip"])
        return result

    return run


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", programs.HOSTILE)
def test_no_hostile_program_passes(jailed: Callable[[str], Any], level: str, name: str) -> None:
    if level == "rlimits" and name in programs.NEEDS_A_ROOM:
        pytest.skip("not promised by rlimits: files can be seen, and written where the user may")
    passed, reason, unscorable = jailed(level)["verdicts"][name]
    assert not passed
    assert not unscorable, reason


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", programs.HONEST)
def test_an_honest_program_passes(jailed: Callable[[str], Any], level: str, name: str) -> None:
    passed, reason, _ = jailed(level)["verdicts"][f"honest: {name}"]
    assert passed == ["tests"], reason


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_stays_behind_and_nobody_got_out(jailed: Callable[[str], Any], level: str) -> None:
    result = jailed(level)
    assert result["survivors"] == [1]
    assert result["left_behind"] == []
    assert result["connections"] == []
    if level != "rlimits":
        assert result["home"] == {"secret": "secret"}


@pytest.mark.parametrize("level", LEVELS)
def test_the_level_in_force_is_reported(jailed: Callable[[str], Any], level: str) -> None:
    assert jailed(level)["described"].startswith(level)


def test_there_are_enough_of_them() -> None:
    assert len(programs.HOSTILE) >= 40
