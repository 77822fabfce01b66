"""Deliberately wrong policy objectives: the contract's test for a mistake catches it, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from .wrong_plugins import policies
from .wrong_plugins.wrong import Wrong, contract_for, failures


@pytest.mark.parametrize("plugin", [policies.Right, *policies.ALSO_RIGHT], ids=lambda each: each.__name__)
def test_a_right_one_passes(plugin: type, tmp_path: Path) -> None:
    """The control: the wrong ones differ from it by their mistake."""
    assert failures(contract_for("objectives", plugin, policies.OPTIONS), tmp_path) == {}


@pytest.mark.parametrize("wrong", policies.WRONG, ids=lambda each: each.plugin.__name__)
def test_a_wrong_one_is_caught(wrong: Wrong, tmp_path: Path) -> None:
    contract = contract_for("objectives", wrong.plugin, wrong.options or policies.OPTIONS, wrong.watched)
    found = failures(contract, tmp_path, wrong.caught_by)
    assert wrong.caught_by in found
    assert wrong.says in found[wrong.caught_by]
    assert "\n" not in found[wrong.caught_by]


def test_every_test_of_the_contract_has_a_wrong_one() -> None:
    from opendllm.core.testing import PluginContract, PolicyObjectiveContract

    own = {name for name in dir(PolicyObjectiveContract) if name.startswith("test_")}
    assert own - set(dir(PluginContract)) == {wrong.caught_by for wrong in policies.WRONG}
