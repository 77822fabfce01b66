"""The version of the interface between the platform and its plugins."""

from __future__ import annotations

from types import ModuleType

from opendllm.registries.errors import PluginError
from opendllm.registries.source_lines import where_assigned

INTERFACE_VERSION = "1.3"
"""Of the hooks and contracts in this package. The first number rises where a plugin has to be changed, the
second where there is more than there was. `tests/registries/interface.txt` holds what it stands for."""
REQUIREMENT = "OPENDLLM_INTERFACE"
"""The name under which a package's light module says which versions it was written for: a specifier of
versions, as in `OPENDLLM_INTERFACE = ">=1.0,<2"`."""


def requirement() -> str:
    """What a package that is written for this interface says."""
    return f">={INTERFACE_VERSION},<{int(INTERFACE_VERSION.partition('.')[0]) + 1}"


def check_interface(module: ModuleType | object) -> bool:
    """A package that needs another interface is not taken in.

    Returns:
        Whether it says what it needs.

    Raises:
        PluginError: it needs another, or says something that is no specifier.
    """
    needed = getattr(module, REQUIREMENT, None)
    if needed is None:
        return False
    try:
        is_this = fits(INTERFACE_VERSION, needed, REQUIREMENT)
    except PluginError as error:
        raise PluginError(f"{error}{where_assigned(module, REQUIREMENT)}") from error
    if not is_this:
        raise PluginError(
            f"it needs plugin interface {needed}, and this open-dllm has {INTERFACE_VERSION}: install a "
            f"version of the package, or of open-dllm, that goes with the other"
            f"{where_assigned(module, REQUIREMENT)}"
        )
    return True


def fits(version: str, specifier: object, where: str) -> bool:
    """Whether a version satisfies a specifier of PEP 440, such as `>=1.0,<2`.

    Args:
        version: an installed one; pre-releases count.
        specifier: what was written.
        where: it was, for messages.

    Raises:
        PluginError: it is no specifier.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        return SpecifierSet(str(specifier)).contains(version, prereleases=True)
    except InvalidSpecifier as error:
        try:
            meant = f"write '>={Version(str(specifier))}' for that one and later ones"
        except InvalidVersion:
            meant = "a specifier of versions was expected, as in '>=1.0,<2'"
        raise PluginError(f"{where} is {specifier!r}: {meant}") from error
    except InvalidVersion:
        return False
