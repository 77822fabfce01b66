"""Every registered plugin keeps its contract; one added tomorrow is tested here untouched."""

from __future__ import annotations

from opendllm.core.testing import CONTRACTS
from opendllm.registries.discovery import EXTENSION_POINTS, installed_plugins

for _kind in EXTENSION_POINTS:
    for _registration in installed_plugins().of_kind(_kind):
        _name = f"Test_{_kind}_{_registration.name.replace('-', '_')}"
        globals()[_name] = type(_name, (CONTRACTS[_kind],), {"plugin": _registration.name})


def test_every_extension_point_has_a_contract() -> None:
    assert set(CONTRACTS) == set(EXTENSION_POINTS)
