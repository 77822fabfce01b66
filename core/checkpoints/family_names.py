"""Which built-in family a checkpoint of an unknown one is named like."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from opendllm.registries.discovery import Plugins
from opendllm.registries.options import BackboneOptions

ALIKE = 0.75
"""How alike two names are that are probably of one family, of 1."""


def named_alike(plugins: Plugins, config: Mapping[str, Any]) -> str | None:
    """The backbone whose checkpoints are named most like config.json's model_type or class, if any is."""
    given = [str(config.get("model_type")), *map(str, config.get("architectures") or [])]
    likeness = {
        registration.name: max(
            difflib.SequenceMatcher(None, _bare(name), _bare(known)).ratio()
            for name in given
            for known in (registration.name, *registration.options.model_types)
        )
        for registration in plugins.backbones
        if issubclass(registration.options, BackboneOptions)
    }
    best = max(likeness, key=lambda name: likeness[name], default=None)
    return best if best is not None and likeness[best] >= ALIKE else None


def _bare(name: str) -> str:
    """Without what all classes' names have in them."""
    return re.sub(r"forcausallm|modellm|model|[^a-z0-9]", "", name.lower())
