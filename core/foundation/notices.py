"""What a user should know while the work goes on: one line on standard error."""

from __future__ import annotations

import sys
from functools import cache

from opendllm.core.foundation.ranks import is_first_process


@cache
def warn_once(line: str) -> None:
    """Say `line`, once in a process and by the first of a run's processes only."""
    if is_first_process():
        print(f"warning: {line}", file=sys.stderr)


@cache
def tell_once(line: str) -> None:
    """Say what goes on, not that anything is wrong; see `warn_once`."""
    if is_first_process():
        print(line, file=sys.stderr)
