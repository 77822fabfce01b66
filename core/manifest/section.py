"""What all sections of a manifest have in common."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from opendllm.registries.frozen_options import FrozenOptions

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of what a user names."""


class Section(FrozenOptions):
    """Part of a manifest."""


class PluginChoice(Section):
    """A plugin by name, with its options."""

    name: str = Field(description="The plugin's name; `platform plugins` lists them.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Its options; `platform plugins show KIND/NAME` explains them."
    )
