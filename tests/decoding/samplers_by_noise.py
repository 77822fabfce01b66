"""The installed samplers by what they undo, and models that were trained on that."""

from __future__ import annotations

import copy
from typing import Any

from opendllm.core.language_model import LanguageModel
from opendllm.core.testing.trained_noise import noise_for
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import SamplerOptions


def _options(name: str) -> type[SamplerOptions]:
    options = installed_plugins().samplers.get(name).options
    assert issubclass(options, SamplerOptions)
    return options


SAMPLERS = installed_plugins().samplers.names()
OF_MASKS = [name for name in SAMPLERS if "mask" in _options(name).destinations]
OF_OTHER_NOISE = [name for name in SAMPLERS if name not in OF_MASKS]
ONE_WAY = [name for name in OF_MASKS if name not in ("dreamon", "token-editing", "multi-block")]
"""Of masks, block by block: neither changing a row's length nor going back to a block that is written."""


def with_effect(name: str, **options: Any) -> dict[str, Any]:
    """The options that this sampler reads: another one is refused."""
    return {key: value for key, value in options.items() if key not in _options(name).without_effect}


def suited(model: LanguageModel, name: str) -> LanguageModel:
    """The same weights, taken to be trained on the noise that a sampler undoes."""
    found = copy.copy(model)
    found.lm = copy.copy(model.lm)
    destinations = _options(name).destinations
    found.lm.noise = noise_for("mask" if "mask" in destinations else sorted(destinations)[0])
    return found
