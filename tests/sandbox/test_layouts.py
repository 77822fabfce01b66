"""The sandbox finds its own code and numpy wherever they are installed, and hides the first from programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import numpy
import pydantic
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LIBRARIES = sorted({str(Path(str(package.__file__)).parents[1]) for package in (numpy, pydantic)})
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
JUDGE = """
import json, sys
from opendllm.core import sandbox
from opendllm.core.sandbox import assertion_judge
from opendllm.core.sandbox.cases import Case, Trial
from opendllm.core.sandbox.sandbox import Sandbox

PROGRAM = '''
def total(values):
    import numpy
    return int(numpy.sum(values))

def sees(path):
    import os
    return os.path.exists(path)
'''
own = sandbox.__path__[0]
tests = f"assert total([1, 2]) == 3\\nassert not sees({own!r}), 'own code'"
with Sandbox(sys.argv[1], workers=1) as started:
    script = open(assertion_judge.__file__).read()
    case = Case("case", script, {"gold": PROGRAM, "tests": tests if started.level != "rlimits" else
                tests.splitlines()[0]}, (Trial(PROGRAM, seconds=30.0),))
    verdict = started.judge([case])[0][0]
print(json.dumps({"level": started.level, "reason": verdict.reason, "own": own}))
"""


def copy_package(folder: Path) -> Path:
    """As a wheel has it."""
    for part in ("core", "plugins", "registries"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, folder / "opendllm" / part, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_package(tmp_path_factory.mktemp("a target"))


def environment(folder: Path, links: tuple[str, ...] = (), system_packages: bool = False) -> Path:
    """A virtual environment without this package; `links` are what a .pth file in it says.

    Returns:
        Its site-packages.
    """
    venv.create(folder, symlinks=True, system_site_packages=system_packages)
    site = folder / "lib" / VERSION / "site-packages"
    (site / "links.pth").write_text("".join(f"{link}\n" for link in links))
    return site


def judged(python: Path, level: str = "rlimits", **variables: str) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", JUDGE, level],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["reason"] == "passed", found
    return found


@pytest.mark.parametrize("level", ["rlimits", *(["bubblewrap"] if shutil.which("bwrap") else [])])
def test_on_the_python_path(package: Path, tmp_path: Path, level: str) -> None:
    """`pip install --target` is the same: one folder that PYTHONPATH names."""
    environment(tmp_path / "bare")
    path = os.pathsep.join([str(package), *LIBRARIES])
    found = judged(tmp_path / "bare" / "bin" / "python", level, PYTHONPATH=path)
    assert found["own"].startswith(str(package))


def test_installed_in_an_environment_that_is_reached_by_a_link(tmp_path: Path) -> None:
    copy_package(environment(tmp_path / "real", tuple(LIBRARIES)))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("real", "link"):
        assert judged(tmp_path / name / "bin" / "python")["own"].startswith(str(tmp_path / name))


def test_named_by_a_pth_file(package: Path, tmp_path: Path) -> None:
    environment(tmp_path / "linked", (str(package), *LIBRARIES))
    assert judged(tmp_path / "linked" / "bin" / "python")["own"].startswith(str(package))


def test_in_the_users_own_site(tmp_path: Path) -> None:
    environment(tmp_path / "bare", system_packages=True)
    base = tmp_path / "user"
    site = Path(
        sysconfig.get_path("purelib", "posix_user", {"userbase": str(base), "py_version_short": VERSION[6:]})
    )
    copy_package(site)
    (site / "links.pth").write_text("".join(f"{link}\n" for link in LIBRARIES))
    found = judged(tmp_path / "bare" / "bin" / "python", PYTHONUSERBASE=str(base))
    assert found["own"].startswith(str(site))


def test_editable() -> None:
    assert judged(Path(sys.executable))["own"].startswith(str(ROOT))


def test_a_refusal_is_one_short_line(tmp_path: Path, package: Path) -> None:
    """Its own code can't be loaded: said once, and not as a traceback."""
    broken = copy_package(tmp_path / "broken")
    (broken / "opendllm" / "core" / "sandbox" / "fork_server.py").write_text("import no_such_module\n")
    environment(tmp_path / "bare", tuple(LIBRARIES))
    done = subprocess.run(
        [tmp_path / "bare" / "bin" / "python", "-c", JUDGE, "rlimits"],
        env={**os.environ, "PYTHONPATH": str(broken)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.count("ModuleNotFoundError: No module named 'no_such_module'") == 1
    assert "Traceback" not in last
