"""What still works and will not for ever: said once, with what to write in its place."""

from __future__ import annotations

import functools
import warnings


class DeprecatedWarning(FutureWarning):
    """An argument or option goes by another name now."""


@functools.cache
def warn_deprecated(what: str, instead: str) -> None:
    """Say once in a process that `what` is deprecated.

    Args:
        what: an argument or option, and of what.
        instead: what to do, as an instruction.
    """
    warnings.warn(f"{what} is deprecated: {instead}", DeprecatedWarning, stacklevel=3)
