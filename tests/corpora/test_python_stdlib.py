"""Python's own source as a corpus, and that of packages beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from opendllm.core.foundation.globs import MatchedFile
from opendllm.core.toolkit import stdlib_source
from opendllm.core.toolkit.held_out import is_held_out
from opendllm.core.toolkit.stdlib_source import package_files
from opendllm.plugins.corpora import python_stdlib
from opendllm.registries.corpora import Split
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package of thirty modules, a file that isn't Python and a folder of tests."""
    folder = tmp_path / "sourceful"
    (folder / "inner").mkdir(parents=True)
    (folder / "tests").mkdir()
    for number in range(30):
        (folder / "inner" / f"module{number}.py").write_text(f"value = {number}\n")
    (folder / "__init__.py").write_text("raise SystemExit('never imported')\n")
    (folder / "data.txt").write_text("no source")
    (folder / "tests" / "test_it.py").write_text("assert True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    package_files.cache_clear()
    some = stdlib_source.stdlib_files()[:60]
    for module in (stdlib_source, python_stdlib):
        monkeypatch.setattr(module, "stdlib_files", lambda: some)
    return "sourceful"


def names(split: Split, *packages: str) -> list[str]:
    corpus = installed_plugins().corpora.get("python-stdlib").build({"packages": list(packages)})
    return [document.name for document in corpus.documents(split)]


def test_a_packages_files_come_besides_and_are_held_out_by_their_names(package: str) -> None:
    alone: dict[Split, list[str]] = {"train": names("train"), "held-out": names("held-out")}
    for split, library in alone.items():
        found = names(split, package)
        assert found[: len(library)] == library
        assert found[len(library) :] == sorted(
            name
            for name in ["sourceful/__init__.py", *[f"sourceful/inner/module{n}.py" for n in range(30)]]
            if is_held_out(name) == (split == "held-out")
        )
    assert package not in sys.modules


def test_the_fingerprint_sees_a_packages_bytes(package: str) -> None:
    corpus = installed_plugins().corpora.get("python-stdlib")
    before = corpus.build({"packages": [package]}).fingerprint()
    assert before != corpus.build({}).fingerprint()
    file: MatchedFile = MatchedFile(*package_files(package)[0])
    file.path.write_text("changed = True\n")
    assert corpus.build({"packages": [package]}).fingerprint() != before


@pytest.mark.parametrize("name", ["no_such_package", "os.path", "json.decoder", "this", "../x"])
def test_what_is_no_installed_package_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"corpus python-stdlib: '{name}' is no installed package"):
        package_files(name)


@pytest.mark.parametrize(
    ("packages", "why"),
    [
        (["json"], "json is of the standard library, which is read anyway: leave it out"),
        (["pluggy", "numpy", "pluggy"], "pluggy is named twice"),
    ],
)
def test_no_file_is_learnt_twice(packages: list[str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        installed_plugins().corpora.get("python-stdlib").options.model_validate({"packages": packages})
