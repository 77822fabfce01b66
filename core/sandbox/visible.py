"""What a confined process may read: Python, its libraries, and nothing of anybody's home.

Standard library only.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/nix/store")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
PRIVATE_FOLDER = "/private"
"""Where a program in a room may write; a file system of its own."""
OWN_CODE = "/opendllm-sandbox"
"""Where bubblewrap shows this package to the fork server; hidden from the programs."""


def readable_paths() -> list[str]:
    """Folders and files, those that lie in another one of them left out."""
    paths = sysconfig.get_paths()
    python = [sys.prefix, sys.base_prefix, sys.base_exec_prefix, paths["stdlib"], paths["platstdlib"]]
    python += [paths["purelib"], paths["platlib"]]
    kept: list[str] = []
    for path in sorted({*SYSTEM_FOLDERS, *SYSTEM_FILES, *python}):
        inside = any(path == outer or path.startswith(outer + "/") for outer in kept)
        if not inside and Path(path).exists():
            kept.append(path)
    return kept
