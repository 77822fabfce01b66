"""What a process that failed leaves behind for the launcher, which only sees its exit code."""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path

from opendllm.core.launching.launcher import COMMAND_VARIABLE

_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"
"""Set by torch's elastic agent, with and without torchrun."""


def record_error(error: BaseException) -> None:
    """Write down an error where the launcher looks for it, in torch's format.

    The time is in hundredths of a second: the first to fail is the cause, and others follow within one
    second, torch's own unit; torch also makes a date of it, which must exist.
    """
    path = os.environ.get(_FILE_VARIABLE)
    if path is None:
        return
    said = {
        "message": str(error),
        "extraInfo": {
            "py_callstack": "".join(traceback.format_exception(error)),
            "timestamp": str(int(time.time() * 100)),
        },
    }
    Path(path).write_text(json.dumps({"message": said}), encoding="utf-8")


def launcher_reports() -> bool:
    """Whether the launcher prints this process's error, so that it need not itself."""
    return _FILE_VARIABLE in os.environ and COMMAND_VARIABLE in os.environ
