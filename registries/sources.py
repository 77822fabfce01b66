"""Which source code a plugin is: its package's version says it only for those that are released."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from opendllm.registries.registry import OWN_PACKAGE, ChosenPlugin, Registration

DIGITS = 12


def source_digest(registration: Registration[Any]) -> str | None:
    """A digest of the files that a plugin's code is in; None where there are none to read.

    Of a built-in plugin that is its own module: what it has in common with all others changes with the
    platform's version. Of anybody else's it is every Python file of the package that its target is in, since
    a plugin's helpers are its own. Nothing is imported but the packages that the module lies in.
    """
    module = registration.target.partition(":")[0]
    return _digest(module, own=registration.provenance.package == OWN_PACKAGE)


def source_digests(plugins: Iterable[ChosenPlugin[Any, Any]]) -> dict[str, str]:
    """By KIND/NAME, of those that have one."""
    found = {f"{each.registration.kind}/{each.name}": source_digest(each.registration) for each in plugins}
    return {name: digest for name, digest in found.items() if digest is not None}


def changed_sources(before: object, now: Mapping[str, str]) -> list[str]:
    """The plugins that were other source then, each with both digests.

    Args:
        before: what `source_digests` gave then; anything else where nobody wrote it down.
        now: what it gives now.
    """
    known = before if isinstance(before, dict) else {}
    return [
        f"{name} (source {known[name]} then, {digest} now)"
        for name, digest in now.items()
        if known.get(name, digest) != digest
    ]


@functools.cache
def _digest(module: str, own: bool) -> str | None:
    try:
        contents = [(name, path.read_bytes()) for name, path in _files(module, own)]
    except (ImportError, OSError, ValueError):  # of a module that isn't there, or is no file
        return None
    found = hashlib.sha256()
    for name, content in contents:
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:DIGITS] if contents else None


def _files(module: str, own: bool) -> Iterator[tuple[str, Path]]:
    """(a name that doesn't hang on where it is installed, the file)."""
    top = importlib.util.find_spec(module.partition(".")[0])
    if own or top is None or (top.origin is None and top.submodule_search_locations):
        top = importlib.util.find_spec(module)  # a namespace holds other people's packages too
    if top is None or top.origin is None:
        return
    if not top.submodule_search_locations:
        yield module, Path(top.origin)
        return
    folder = Path(top.origin).parent
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder).as_posix(), path
