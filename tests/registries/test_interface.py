"""INTERFACE_VERSION says something: it rises whenever a hook, a contract or an options base changes."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import pytest

from opendllm.registries.version import INTERFACE_VERSION

from . import public_interface as public

COMMAND = "python tests/registries/public_interface.py"


def test_the_interface_is_that_of_its_version(repository: Path) -> None:
    assert public.version() == INTERFACE_VERSION
    head, _, held = public.SNAPSHOT.read_text().partition("\n\n")
    difference = list(
        difflib.unified_diff(
            held.splitlines(),
            public.interface().splitlines(),
            "interface.txt",
            "registries/",
            lineterm="",
            n=2,
        )
    )
    shown = "\n".join(difference[:60])
    if difference and head == f"plugin interface {INTERFACE_VERSION}":
        pytest.fail(
            f"the plugin interface has changed: raise INTERFACE_VERSION in registries/version.py (the first "
            f"number where plugins have to be changed, the second where there is more than there was), and "
            f"write the snapshot anew with {COMMAND}\n{shown}"
        )
    assert not difference, f"write the snapshot anew with {COMMAND}\n{shown}"
    assert head == f"plugin interface {INTERFACE_VERSION}", f"write the snapshot anew with {COMMAND}"


def test_every_module_is_public_or_not(repository: Path) -> None:
    modules = {path.stem for path in (repository / "registries").glob("*.py")}
    assert modules == {*public.PUBLIC, *public.INTERNAL}
    assert not set(public.PUBLIC) & set(public.INTERNAL)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("samplers", "growth: int = 0", "growth: int = 1"),
        ("samplers", "def select(self, step: Step)", "def select(self, now: Step)"),
        ("options", "        return 0.5\n", "        return 0.25\n"),
        ("options", 'default_sampler: ClassVar[str] = "ancestral"', 'default_sampler: ClassVar[str] = "p2"'),
        (
            "options",
            "load_in_8bit: bool = Field(\n        False",
            "load_in_8bit: bool = Field(\n        True",
        ),
        ("backbones", "min_vocab_size: int = 0", "min_vocab_size: int = 1"),
        ("corpora", "    @abstractmethod\n    def fingerprint", "    def fingerprint"),
        ("benchmarks", "notes: tuple[str, ...] = ()", "notes: tuple[str, ...] | None = None"),
        ("hookspecs", "target: str, summary: str)", "target: str, summary: str = '')"),
        ("__init__", '    "hookimpl",\n', ""),
    ],
)
def test_a_change_is_seen_and_no_snapshot_is_written_over(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str
) -> None:
    """Tried on a copy: the command wants another version first."""
    copy = tmp_path / "registries"
    shutil.copytree(repository / "registries", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(public, "REGISTRIES", copy)
    monkeypatch.setattr(public, "SNAPSHOT", tmp_path / "interface.txt")
    public.main()
    public.main()  # again, and nothing has changed
    before = public.SNAPSHOT.read_text()
    text = (copy / f"{file}.py").read_text()
    assert old in text
    (copy / f"{file}.py").write_text(text.replace(old, new))
    with pytest.raises(SystemExit, match="raise INTERFACE_VERSION in"):
        public.main()
    assert public.SNAPSHOT.read_text() == before
    version = (copy / "version.py").read_text()
    (copy / "version.py").write_text(version.replace(f'"{INTERFACE_VERSION}"', '"77.0"'))
    public.main()
    assert public.SNAPSHOT.read_text().startswith("plugin interface 77.0\n")
    assert public.SNAPSHOT.read_text().partition("\n\n")[2] != before.partition("\n\n")[2]


def test_how_things_are_described_is_no_part_of_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = public.interface()
    copy = tmp_path / "registries"
    shutil.copytree(repository / "registries", copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / "options.py").read_text()
    changed = text.replace("Options that every backbone has.", "What else.").replace(
        "Keep a pretrained", "Hold a"
    )
    assert changed != text
    (copy / "options.py").write_text(changed)
    monkeypatch.setattr(public, "REGISTRIES", copy)
    assert public.interface() == before
