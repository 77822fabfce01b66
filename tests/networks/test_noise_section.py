"""What a checkpoint says of its noise means the same plugin when it is read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from opendllm.core.networks import noise_section
from opendllm.plugins.noise_schedules import LinearOptions
from opendllm.registries.discovery import Plugins, installed_plugins
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.registry import ChosenPlugin, Provenance, Registration
from opendllm.registries.trained_noise import TrainedNoise


@pytest.mark.filterwarnings("ignore:noise_schedules/linear is the built-in one")
def test_a_strangers_schedule_is_not_taken_for_the_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two schedules `linear`, a checkpoint's is the one that it was trained with."""
    built_in = installed_plugins().noise_schedules.get("linear")
    strangers: Registration[NoiseSchedule] = Registration(
        "noise_schedules", "linear", LinearOptions, "nowhere:Linear", "another", Provenance("stranger", "0.1")
    )
    plugins = Plugins()
    for registration in (strangers, built_in):
        plugins.noise_schedules.add(registration)
    monkeypatch.setattr(noise_section, "installed_plugins", lambda: plugins)
    for registration, name in ((strangers, "stranger:linear"), (built_in, "linear")):
        options = LinearOptions(destination="uniform")
        trained = TrainedNoise(ChosenPlugin(registration, options), "noise")
        section = noise_section.noise_section(trained)
        assert section["noise"]["schedule"]["name"] == name
        read = noise_section.read_noise(section, Path("config.json"))
        assert read == trained
