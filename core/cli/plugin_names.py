"""A plugin as the command line names it."""

from __future__ import annotations

from typing import Any

from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import PluginError, UserError
from opendllm.registries.extension_points import EXTENSION_POINTS
from opendllm.registries.registry import Registration
from opendllm.registries.suggestions import did_you_mean


def named_plugin(given: str) -> Registration[Any]:
    """KIND/NAME, or NAME alone where only one extension point has a plugin of that name.

    Raises:
        UserError: there is none, or there are several.
    """
    kind, slash, name = given.partition("/")
    plugins = installed_plugins()
    if slash:
        return plugins.of_kind(kind).get(name)
    found = []
    for each in EXTENSION_POINTS:
        try:
            found.append(plugins.of_kind(each).get(given))
        except PluginError as error:
            if given in plugins.of_kind(each).conflicts():
                raise UserError(str(error)) from error
    if len(found) == 1:
        return found[0]
    if found:
        choices = " or ".join(f"{each.kind}/{each.name}" for each in found)
        raise UserError(f"{given!r} is the name of {len(found)} plugins: write {choices}")
    known = sorted({name for each in EXTENSION_POINTS for name in plugins.of_kind(each).names()})
    hint = did_you_mean(given, known)
    raise UserError(
        f"no plugin {given!r}: {hint}"
        if hint.startswith("did you")
        else f"no plugin {given!r}: see `platform plugins`"
    )
