"""Options that any value would do for."""

from __future__ import annotations

from typing import Any

from opendllm.registries.options import PluginOptions


def untyped_options(options: type[PluginOptions]) -> list[str]:
    """Names of the options that a model takes without a type: pydantic checks nothing about them."""
    return [name for name, field in options.model_fields.items() if field.annotation in (Any, object)]
