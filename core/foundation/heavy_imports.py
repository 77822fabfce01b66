"""The libraries that models need, imported once and only as far as they are used. Imports no torch itself.

A third of the seconds that `from transformers import PreTrainedModel` takes goes to the garbage collector,
which looks through everything again and again and finds nothing, and to what only other models need: SciPy's
optimizers for losses of object detection, torchao (which warns of each kernel that it lacks) for
quantizations. And `transformers` reads all files of all models, twice, to learn what names they have: see
`kept_names.py`. `benchmarks/starting.py` shows the profile.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from opendllm.core.foundation.device_start import start_device
from opendllm.core.foundation.kept_names import names_of_models_kept

_DEFERRED: Mapping[str, Sequence[str]] = {
    "scipy.optimize": ("linear_sum_assignment",),
    "torchao.prototype.safetensors.safetensors_support": (
        "flatten_tensor_state_dict",
        "unflatten_tensor_state_dict",
    ),
    "torchao.prototype.safetensors.safetensors_utils": ("is_metadata_torchao",),
}
"""Modules that transformers imports functions from, and calls them for some models only."""


_WHOLE = "transformers.modeling_utils"
"""Brings all the rest, torch first."""


def imported() -> bool:
    """Whether they are there already."""
    return _WHOLE in sys.modules


def import_model_libraries(device: str = "cpu") -> None:
    """Import torch and transformers' models: what every command that loads a model begins with.

    Whoever imports them otherwise gets the same, later.

    Args:
        device: where the model will be; a GPU is made ready meanwhile.
    """
    with uncollected(), _deferred(_DEFERRED), names_of_models_kept():
        importlib.import_module("torch")
        start_device(device)
        importlib.import_module(_WHOLE)


@contextmanager
def uncollected() -> Iterator[None]:
    """Within it the garbage collector rests; nothing that is imported is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _StandIn(ModuleType):
    """Takes a module's place while another imports functions from it, which import it when called."""

    def __init__(self, name: str, functions: Sequence[str]) -> None:
        super().__init__(name)
        for function in functions:
            setattr(self, function, self._called_later(function))

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":
            return self._folders()
        if name.startswith("__"):  # who looks through all modules wants none of it
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _folders(self) -> list[str]:
        """Where its own submodules lie, which may be imported meanwhile."""
        package, *parts = self.__name__.split(".")
        spec = importlib.util.find_spec(package)
        places = (spec and spec.submodule_search_locations) or ()
        found = [str(Path(place, *parts)) for place in places if Path(place, *parts).is_dir()]
        if not found:
            raise AttributeError("__path__")
        return found

    def _real(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)

    def _called_later(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            return getattr(self._real(), name)(*arguments, **named)

        return call


@contextmanager
def _deferred(modules: Mapping[str, Sequence[str]]) -> Iterator[None]:
    absent = [name for name in modules if name not in sys.modules]
    stand_ins = {name: _StandIn(name, modules[name]) for name in absent}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
