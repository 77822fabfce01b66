"""Calls into plugins: an error in one carries its plugin's name, and what one returns is looked at first."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from opendllm.registries.errors import PluginError, UserError
from opendllm.registries.machine_errors import machine_error
from opendllm.registries.source_lines import placed, where_defined, where_raised

PluginT = TypeVar("PluginT")
CONTRACTS = "opendllm.registries."
"""Modules whose classes are contracts: of their methods, those that a plugin implements are watched."""
Check = Callable[[Any, Sequence[Any], Any], str | None]
"""From a plugin, a call's arguments in order and its result to what is wrong; None where nothing is, and
`LOOK_AGAIN` where this call could not have shown it."""
LOOK_AGAIN = ""
"""The next call is looked at too."""
ItemCheck = Callable[[Any], str | None]
"""The same for what an iterator of the plugin yields."""


class PluginFailureError(PluginError):
    """A plugin raised what no user could have caused."""

    exit_code = 1


def watched(plugin: PluginT, owner: str) -> PluginT:
    """The same object, whose contract's methods say whose they are when they fail.

    A `UserError` keeps its type and gets the owner's name in front; any other error becomes a
    `PluginFailureError`. The result of a method's first call is checked (see `result_checks`; of more calls
    where the first shows nothing), and everything that an iterator yields. Objects of other contracts that a
    method returns are watched too.

    Args:
        plugin: an instance; one of no contract stays as it is.
        owner: its kind, name, package and version, for people.
    """
    cls: Any = type(plugin)
    subclass = _watched_class(cls, owner)
    if subclass is not None:
        try:
            object.__setattr__(plugin, "__class__", subclass)
        except TypeError:  # of another layout: a class with slots, say
            return plugin
    return plugin


def owner_of(plugin: object, otherwise: str) -> str:
    """Whose a plugin is, for messages; `otherwise` and its class's name where nobody has said."""
    owner = getattr(type(plugin), "_watched_owner", None)
    return owner if isinstance(owner, str) else f"{otherwise} {type(plugin).__name__}"


def wrong_answer(plugin: object, kind: str, method: str, issue: str) -> PluginError:
    """The error of a plugin's method that gave what its contract has no use for, with the line to mend.

    Args:
        plugin: whose method.
        kind: of plugin, for one that nobody has named.
        method: its name.
        issue: what is wrong, in words that complete "select ...".
    """
    place = where_defined(getattr(type(plugin), method, type(plugin)))
    return PluginError(f"{owner_of(plugin, kind)}: {method} {issue}{place}")


@functools.cache
def _watched_class(cls: type, owner: str) -> type | None:
    """A subclass of `cls` whose methods are watched; None where there is nothing to watch."""
    names = {
        name: base
        for base in reversed(cls.__mro__)
        if base.__module__.startswith(CONTRACTS)
        for name, value in vars(base).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    }
    if hasattr(cls, "_watched_owner"):
        return None
    namespace: dict[str, Any] = {}
    for name, base in names.items():
        own = inspect.getattr_static(cls, name)
        if own is vars(base)[name]:
            continue  # the contract's own answer
        if isinstance(own, property):
            namespace[name] = property(_watched_call(own.fget, name, base, owner), own.fset, own.fdel)
        elif inspect.isfunction(own):
            namespace[name] = _watched_call(own, name, base, owner)
    if not namespace:
        return None
    about = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {**namespace, **about, "_watched_owner": owner})


def _watched_call(function: Any, name: str, contract: type, owner: str) -> Any:
    from opendllm.registries.backbones import DistributionLoss
    from opendllm.registries.result_checks import ITEM_CHECKS, RESULT_CHECKS

    check = RESULT_CHECKS.get((contract.__name__, name))
    item_check = ITEM_CHECKS.get((contract.__name__, name))
    signature = inspect.signature(function)
    checked = f"_checked_{name}"

    @functools.wraps(function)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        with Blame(owner, name):
            result = function(self, *arguments, **named)
        if check is not None and checked not in vars(self):
            issue = check(self, _in_order(signature, self, arguments, named), result)
            if issue:
                raise PluginError(placed(f"{owner}: {name} {issue}", where_defined(function)))
            if issue != LOOK_AGAIN:
                object.__setattr__(self, checked, True)
        if isinstance(result, Iterator):
            return _watched_items(result, function, owner, item_check)
        if isinstance(result, DistributionLoss):
            return replace(result, of=_watched_part(result.of, name, owner))
        if inspect.isfunction(result):
            return _watched_part(result, name, owner)
        return watched(result, owner)

    return call


def _in_order(
    signature: inspect.Signature, plugin: Any, arguments: Sequence[Any], named: Mapping[str, Any]
) -> Sequence[Any]:
    """A call's arguments without the plugin itself, whatever they were given by."""
    return list(signature.bind(plugin, *arguments, **named).arguments.values())[1:]


def _watched_part(part: Any, name: str, owner: str) -> Any:
    """A loss part that is whose it is when it fails, or gives no scalar."""

    @functools.wraps(part)
    def loss(*arguments: Any) -> Any:
        with Blame(owner, f"what {name} gave"):
            value = part(*arguments)
        if getattr(value, "ndim", None) != 0:
            came = list(value.shape) if hasattr(value, "shape") else type(value).__name__
            raise PluginError(
                f"{owner}: what {name} gave is a function of {came}, and a scalar tensor was expected"
                f"{where_defined(part)}"
            )
        return value

    return loss


def _watched_items(items: Iterator[Any], method: Any, owner: str, check: ItemCheck | None) -> Iterator[Any]:
    """What a plugin's method yields, looked at."""
    name = method.__name__
    while True:
        with Blame(owner, name):
            try:
                item = next(items)
            except StopIteration:
                return
        issue = None if check is None else check(item)
        if issue is not None:
            raise PluginError(f"{owner}: {name} {issue}{where_defined(method)}")
        yield item


def _is_full_memory(error: Exception) -> bool:
    """No plugin's mistake: who decodes goes on with fewer rows. torch's error has only its name here."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


class Blame:
    """A `with` block in which errors are the plugin's."""

    def __init__(self, owner: str, call: str) -> None:
        self._owner = owner
        self._call = call

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, UserError):
            if error.plugin is None:
                error.plugin = self._owner
                error.args = (f"{self._owner}: {error}", *error.args[1:])
        elif isinstance(error, Exception) and not (_is_full_memory(error) or machine_error(error)):
            message = " ".join(str(error).split())
            failure = PluginFailureError(
                f"{self._owner} failed in {self._call}: {type(error).__name__}: {message}"
                f"{where_raised(error)}; platform --debug shows all of it"
            )
            failure.plugin = self._owner
            raise failure from error
