"""Which source code a plugin is: its package's version says it only for those that are released."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from opendllm.registries.options import PluginOptions
from opendllm.registries.registry import OWN_PACKAGE, ChosenPlugin, Registration

DIGITS = 12
_MODULE = re.compile(r"\w+(\.\w+)+")
"""What a string looks like that may name a module to be started."""


def source_digest(registration: Registration[Any]) -> str | None:
    """A digest of the files that a plugin's code is in; None where there are none to read.

    Of a built-in plugin these are its module and those of its folder that it names, and that these name, and
    its options model: what it has in common with all others changes with the platform's version. Of anybody
    else's it is every file of the package that its target is in, tables and prompts as well as code, but for
    what Python and tools leave there. Nothing is imported but the packages that the module lies in.
    """
    module = registration.target.partition(":")[0]
    if registration.provenance.package == OWN_PACKAGE:
        return _digest_of_built_in(module, registration.options)
    return _digest_of_package(module)


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
def _digest_of_built_in(module: str, options: type[PluginOptions]) -> str | None:
    try:
        files = {name: _hashed(path) for name, path in _named_modules(module).items()}
        for each in options.__mro__:
            if each.__module__ == options.__module__:
                files[f"options {each.__name__}"] = inspect.getsource(each).encode()
    except (ImportError, OSError, TypeError, ValueError):  # of a module that isn't there, or is no file
        return None
    return _digest(files)


@functools.cache
def _digest_of_package(module: str) -> str | None:
    try:
        files = {name: _hashed(path) for name, path in _package_files(module)}
    except (ImportError, OSError, ValueError):
        return None
    return _digest(files)


def _digest(files: Mapping[str, bytes]) -> str | None:
    """Of contents by names that don't hang on where they are installed."""
    found = hashlib.sha256()
    for name, content in sorted(files.items()):
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:DIGITS] if files else None


def _hashed(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _named_modules(module: str) -> dict[str, Path]:
    """A module, and those beside it that it imports or starts by name; theirs too."""
    package = module.rpartition(".")[0]
    waiting, found = [module], dict[str, Path]()
    while waiting:
        name = waiting.pop()
        spec = importlib.util.find_spec(name)
        if name in found or spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        found[name] = Path(spec.origin)
        for other in _names(ast.parse(found[name].read_bytes()), package):
            if other.rpartition(".")[0] == package and importlib.util.find_spec(other) is not None:
                waiting.append(other)
    return found


def _names(code: ast.AST, package: str) -> Iterator[str]:
    """What may be a module of `package` among all that a module's source names."""
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom):
            above = package if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if base == package)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and _MODULE.fullmatch(str(node.value)):
            yield str(node.value)


def _package_files(module: str) -> Iterator[tuple[str, Path]]:
    """(name below its folder, file) of all of a package, or of a module that is in none."""
    top = importlib.util.find_spec(module.partition(".")[0])
    if top is None or (top.origin is None and top.submodule_search_locations):
        top = importlib.util.find_spec(module)  # a namespace holds other people's packages too
    if top is None or top.origin is None:
        return
    if not top.submodule_search_locations:
        yield module, Path(top.origin)
        return
    folder = Path(top.origin).parent
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        left_there = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if path.is_file() and not left_there and path.suffix != ".pyc":
            yield inside.as_posix(), path
