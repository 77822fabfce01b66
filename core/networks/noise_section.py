"""What config.json says of the noise that a checkpoint was trained to undo: nothing, where it is masks."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from opendllm.core.foundation.option_errors import option_errors
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.options import Bound
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.trained_noise import TrainedNoise

CONFIG_FILE = "config.json"
OWN_SECTION = "open_dllm"
"""The part of config.json that says what the family's own format has no word for."""
NOISE_KEY = "noise"


def noise_section(noise: TrainedNoise) -> dict[str, Any]:
    """The part of a checkpoint's own section of config.json; empty for masks."""
    if noise == TrainedNoise():
        return {}
    chosen = noise.schedule
    schedule = chosen and {"name": chosen.written_name, "options": chosen.options.model_dump(mode="json")}
    return {
        NOISE_KEY: {
            "destination": noise.destination,
            "schedule": schedule,
            "bound": noise.bound,
            "time_conditioning": noise.time_conditioning,
        }
    }


def read_noise(own: Mapping[str, Any], path: Path) -> TrainedNoise:
    """What `noise_section` wrote.

    Args:
        own: the checkpoint's own section of config.json.
        path: of config.json, for messages.

    Raises:
        UserError: it can't be understood, or its noise schedule isn't installed.
    """
    section = own.get(NOISE_KEY)
    if section is None:
        return TrainedNoise()
    try:
        bound, schedule = section["bound"], section["schedule"]
        if bound not in typing.get_args(Bound):
            raise UserError(f"bound {bound!r} is none of {', '.join(typing.get_args(Bound))}")
        return TrainedNoise(
            None if schedule is None else _schedule(schedule["name"], schedule["options"]),
            bound,
            bool(section["time_conditioning"]),
        )
    except (UserError, KeyError, TypeError) as error:
        reason = error if isinstance(error, UserError) else "it must hold bound, schedule, time_conditioning"
        raise UserError(f"{path}: the noise of its section open_dllm cannot be used: {reason}") from error


def _schedule(name: str, options: Mapping[str, Any]) -> ChosenPlugin[Any, Any]:
    registration = installed_plugins().noise_schedules.get(name)
    try:
        return ChosenPlugin(registration, registration.options.model_validate(options))
    except ValidationError as error:
        first = next(option_errors(error, registration.options))
        raise UserError(f"{'.'.join(map(str, first.path))}: {first.message}") from error
