"""What a confined process may read: Python, its libraries, and nothing of anybody's home.

Standard library only.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/nix/store")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
PRIVATE_FOLDER = "/private"
"""Where a program in a room may write; a file system of its own."""
OWN_CODE = "/opendllm-sandbox"
"""Where bubblewrap shows this package to the fork server; hidden from the programs."""
_OWN_FOLDERS = ("core", "plugins", "registries")


@dataclass(frozen=True)
class Layout:
    """Where this package and the libraries beside it lie, as the host imports them.

    The fork server starts isolated from the user's environment, which may have told the host where.

    Attributes:
        own: the folder of `opendllm.core`.
        libraries: the folders that other packages are imported from.
    """

    own: str
    libraries: tuple[str, ...]

    def readable_paths(self) -> list[str]:
        """Folders and files, those that lie in another one of them left out."""
        paths = sysconfig.get_paths()
        python = [sys.prefix, sys.base_prefix, sys.base_exec_prefix, paths["stdlib"], paths["platstdlib"]]
        kept: list[str] = []
        for path in sorted({*SYSTEM_FOLDERS, *SYSTEM_FILES, *python, *self.libraries}):
            inside = any(path == outer or path.startswith(outer + "/") for outer in kept)
            if not inside and Path(path).exists():
                kept.append(path)
        return kept

    def hidden_paths(self) -> list[str]:
        """This package's folders, which may lie among the libraries; by both names, if links lead there."""
        parents = {Path(self.own).parent, Path(self.own).resolve().parent}
        return [OWN_CODE, *(str(parent / part) for parent in sorted(parents) for part in _OWN_FOLDERS)]


def layout_here() -> Layout:
    """Of the process that asks. numpy, which tests may want, shows where its libraries are."""
    paths = sysconfig.get_paths()
    libraries = [paths["purelib"], paths["platlib"]]
    numpy = importlib.util.find_spec("numpy")
    if numpy is not None and numpy.origin is not None:
        libraries.append(str(Path(numpy.origin).parent.parent))
    return Layout(str(Path(__file__).parents[1]), tuple(dict.fromkeys(libraries)))
