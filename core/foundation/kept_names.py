"""What names transformers' models have, read from their files once for each installation.

To be imported, transformers lists the folders of all its models and reads each of their files, some two
thousand, twice. That takes half a second on a disk of one's own, and several where a file costs a
millisecond to open, as in many containers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

from opendllm.core.foundation.atomic_files import write_json
from opendllm.core.foundation.cache_folder import cache_folder

_READER = "transformers.utils.import_utils"
_FUNCTION = "define_import_structure"
Names = dict[frozenset[str], dict[str, set[str]]]
"""Libraries that are needed -> module -> its names."""
Read = Callable[..., Names]


@contextmanager
def names_of_models_kept() -> Iterator[None]:
    """Within it transformers, once imported, takes the names from a file of ours, which is made if need be.

    It is believed as long as pip's record of the installation stays what it was; an installation that has
    none, or is edited where it lies, is read anew.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _READER else None
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        read = getattr(module, _FUNCTION, None)
        if read is not None:
            setattr(module, _FUNCTION, _reading_once(read, Path(self.path).parents[1] / "models"))


def _reading_once(read: Read, models: Path) -> Read:
    @cache
    def of_all() -> Names:
        return _kept_or_read(read, models)

    def names(module_path: str | Path, prefix: str | None = None) -> Names:
        if Path(module_path) not in (models, models / "__init__.py"):
            return read(module_path, prefix)
        before = "" if prefix is None else f"{prefix}."
        return {
            needed: {before + name: set(own) for name, own in of.items()} for needed, of in of_all().items()
        }

    return names


def _kept_or_read(read: Read, models: Path) -> Names:
    state, folder = _installation(models.parent), cache_folder()
    if state is None or folder is None:
        return read(str(models))
    file = folder / f"names-{sha256(str(models).encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["installation"] == state:
            return {
                frozenset(needed): {name: set(own) for name, own in of.items()}
                for needed, of in kept["names"]
            }
    found = read(str(models))
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"installation": state, "names": _plain(found)})
    return found


def _plain(names: Mapping[frozenset[str], Mapping[str, set[str]]]) -> list[object]:
    return [[sorted(needed), {name: sorted(own) for name, own in of.items()}] for needed, of in names.items()]


def _installation(package: Path) -> list[str | int] | None:
    """What changes when pip installs the package anew; None where it lies outside of pip's records."""
    records = list(package.parent.glob(f"{package.name}-*.dist-info/RECORD"))
    if len(records) != 1:
        return None
    state = records[0].stat()
    return [str(records[0]), state.st_mtime_ns, state.st_size]
