"""The names of transformers' models are read from their files once, and are the same afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

SCRIPT = """
import builtins, json, sys
from importlib import import_module
if sys.argv[1] == "kept":
    from opendllm.core.foundation.kept_names import names_of_models_kept
    with names_of_models_kept():
        transformers = import_module("transformers")
else:
    transformers = import_module("transformers")
read = transformers.utils.import_utils.create_import_structure_from_path.cache_info().misses
models = import_module("transformers.models")
state = {k: sorted(map(str, v)) for k, v in transformers._import_structure.items()}
lacking = sorted(transformers._object_missing_backend)
print(json.dumps([read, state, dict(sorted(transformers._class_to_module.items())), lacking,
                  dict(sorted(models._class_to_module.items())), transformers.Qwen2Config.__name__]))
"""


FAKE = {
    "transformers/__init__.py": """
from functools import partial
from pathlib import Path
from .utils.import_utils import define_import_structure, read
names = define_import_structure(Path(__file__).parent / "models", prefix="models")
of_one = define_import_structure(str(Path(__file__).parent / "models" / "a" / "__init__.py"))
""",
    "transformers/utils/__init__.py": "",
    "transformers/utils/import_utils.py": """
read = []
def define_import_structure(path, prefix=None):
    read.append(str(path))
    before = "" if prefix is None else prefix + "."
    return {frozenset({"torch"}): {before + "a.modeling_a": {"A", "B"}}}
""",
    "transformers-1.0.dist-info/RECORD": "as pip left it",
}
"""A package that is read as transformers is, in no time."""
FAKE_SCRIPT = """
from opendllm.core.foundation.kept_names import names_of_models_kept
with names_of_models_kept():
    import transformers
assert transformers.names == {frozenset({"torch"}): {"models.a.modeling_a": {"A", "B"}}}, transformers.names
assert transformers.of_one == {frozenset({"torch"}): {"a.modeling_a": {"A", "B"}}}, transformers.of_one
print(sum(path.endswith("models") for path in transformers.read))
"""


def printed(script: str, cache: Path, *arguments: str, path: Path | None = None) -> str:
    """The last line of a process."""
    found = os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(path) if path else found},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_all_names_are_the_same_and_no_model_is_read_the_second_time(tmp_path: Path) -> None:
    """Of transformers itself."""
    plain, first, again = (json.loads(printed(SCRIPT, tmp_path, how)) for how in ("plain", "kept", "kept"))
    assert first[1:] == again[1:] == plain[1:]
    assert first[0] > again[0] == 0


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    for name, text in FAKE.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(text)
    return tmp_path / "site"


def test_another_installation_is_read_anew(fake: Path, tmp_path: Path) -> None:
    reads = partial(printed, FAKE_SCRIPT, tmp_path, path=fake)
    assert [reads(), reads()] == ["1", "0"]
    (fake / "transformers-1.0.dist-info" / "RECORD").write_text("installed again")
    assert [reads(), reads()] == ["1", "0"]
    (fake / "transformers-1.0.dist-info" / "RECORD").unlink()  # as in a checkout, edited where it lies
    assert [reads(), reads()] == ["1", "1"]


@pytest.mark.parametrize("content", ["{", "[]", '{"installation": 1}', None])
def test_a_damaged_file_is_not_believed(fake: Path, tmp_path: Path, content: str | None) -> None:
    if content is None:  # nothing can be kept there
        (tmp_path / "open-dllm").write_text("")
    else:
        printed(FAKE_SCRIPT, tmp_path, path=fake)
        [file] = (tmp_path / "open-dllm").glob("names-*.json")
        file.write_text(content)
    assert printed(FAKE_SCRIPT, tmp_path, path=fake) == "1"
