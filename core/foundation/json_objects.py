"""JSON: objects in files that somebody else wrote, and digests of content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from opendllm.registries.errors import UserError, first_line


def read_json_object(path: Path, optional: bool = False) -> dict[str, Any]:
    """The object in a file.

    Args:
        path: of the file.
        optional: whether it may be missing; then it is empty.

    Raises:
        UserError: it can't be read, isn't JSON, or holds something else.
    """
    if optional and not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def digest(content: Any) -> str:
    """A short, stable digest of JSON content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
