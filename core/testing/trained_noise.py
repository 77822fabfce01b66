"""Noise that the kit's models count as trained on, from whatever schedules are installed."""

from __future__ import annotations

from pydantic import ValidationError

from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import Destination
from opendllm.registries.options import noise_destination
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.trained_noise import TrainedNoise


def noise_for(destination: Destination) -> TrainedNoise:
    """Noise of that destination: masks nobody wrote down, or the first schedule that sends tokens there."""
    if destination == "mask":
        return TrainedNoise()
    for registration in installed_plugins().noise_schedules:
        given = {"destination": destination} if "destination" in registration.options.model_fields else {}
        try:
            options = registration.options.model_validate(given)
        except ValidationError:
            continue
        if noise_destination(options) == destination:
            return TrainedNoise(ChosenPlugin(registration, options))
    raise AssertionError(
        f"no installed noise schedule sends tokens to {destination}: install one to test this"
    )
