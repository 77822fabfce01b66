"""Of a wrong plugin, the error names the package, the hook and the line to mend."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.registries.discovery import Plugins, discover
from opendllm.registries.errors import PluginError

HOOK = """
from typing import Any
from opendllm.registries import NoiseScheduleOptions, hookimpl

class Options(NoiseScheduleOptions):
    {option}

@hookimpl
def register_noise_schedules(register):
    register("mine", options=Options, target="{module}_heavy:Mine", summary="mine")  # the hook
"""
HEAVY = """
import torch
from opendllm.registries.noise_schedules import NoiseSchedule

class Mine(NoiseSchedule):  # the class
    def __init__(self, options):
        pass

    @property
    def ends(self):
        return 1.0, 0.0

    def alpha(self, t):  # alpha
        return {alpha}
{rest}
"""
PRIME = """
    def alpha_prime(self, t):
        return -torch.ones_like(t)
"""


@pytest.fixture
def package(tmp_path: Path, package_of: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """(option, alpha, rest of the class) -> the plugins of a package of such a module, and its files."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def make(option: str = "pass", alpha: str = "1 - t", rest: str = PRIME) -> tuple[Plugins, Path, Path]:
        module = f"stranger_{tmp_path.name}_{len(names)}"
        names.append(module)
        light, heavy = tmp_path / f"{module}.py", tmp_path / f"{module}_heavy.py"
        light.write_text(HOOK.replace("{option}", option).replace("{module}", module))
        heavy.write_text(HEAVY.replace("{alpha}", alpha).replace("{rest}", rest))

        entry_point = package_of("stranger")
        entry_point.load = functools.partial(importlib.import_module, module)
        return discover([entry_point]), light, heavy

    yield make
    for name in names:
        sys.modules.pop(name, None)
        sys.modules.pop(f"{name}_heavy", None)


def line_of(file: Path, text: str) -> str:
    number = next(n for n, line in enumerate(file.read_text().splitlines(), 1) if text in line)
    return f"(at {file}:{number})"


def refusal(plugins: Plugins, times: Any = None) -> str:
    with pytest.raises(PluginError) as caught:
        plugins.noise_schedules.get("mine").build().alpha(torch.rand(3) if times is None else times)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_module_that_raises_when_it_is_imported(package: Any) -> None:
    plugins, _, heavy = package(rest="\n    WRONG = 1 / 0  # here\n")
    message = refusal(plugins)
    assert message.startswith("noise_schedules/mine of stranger 1.0 cannot be loaded from stranger_")
    assert "ZeroDivisionError" in message
    assert message.endswith(line_of(heavy, "# here"))


def test_a_class_that_lacks_a_method(package: Any) -> None:
    plugins, _, heavy = package(rest="")
    message = refusal(plugins)
    assert message.startswith("noise_schedules/mine of stranger 1.0 is not finished: stranger_")
    assert "lacks alpha_prime: define what its contract asks for" in message
    assert message.endswith(line_of(heavy, "# the class"))


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        ("(1 - t).sum()", "alpha gave float32 [], and float [3] was expected: the shape of t"),
        ("(1 - t) > 0", "alpha gave bool [3], and float [3] was expected"),
        ("[1.0, 0.5, 0.0]", "alpha gave list, and float [3] was expected"),
    ],
)
def test_a_wrong_shape_or_dtype(package: Any, alpha: str, expected: str) -> None:
    plugins, _, heavy = package(alpha=alpha)
    message = refusal(plugins)
    assert message.startswith(f"noise_schedules/mine of stranger 1.0: {expected}")
    assert message.endswith(line_of(heavy, "# alpha"))


def test_a_method_that_raises(package: Any) -> None:
    plugins, _, heavy = package(alpha="t[17]")
    message = refusal(plugins)
    assert "noise_schedules/mine of stranger 1.0 failed in alpha: IndexError" in message
    assert line_of(heavy, "return t[17]") in message


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [("3", "is no NoiseSchedule: "), ("None", "gave NoneType: let it return an instance of opendllm.regist")],
)
def test_a_factory_that_gives_none_of_its_kind(package: Any, alpha: str, expected: str) -> None:
    """`--check` and use say the same."""
    factory = f"\n\ndef Mine(options):  # the factory\n    return {alpha}\n"
    plugins, _, heavy = package(rest=PRIME + factory)
    message = refusal(plugins)
    assert message.startswith("noise_schedules/mine of stranger 1.0 is no NoiseSchedule: stranger_")
    assert "which register_noise_schedules names, gave " in message
    assert expected in message
    assert message.endswith(line_of(heavy, "# the factory"))
    with pytest.raises(PluginError) as checked:
        plugins.noise_schedules.get("mine").check()
    assert str(checked.value) == message


def test_a_class_that_has_all_methods_and_not_the_contract(package: Any) -> None:
    plugins, _, heavy = package()
    heavy.write_text(heavy.read_text().replace("class Mine(NoiseSchedule)", "class Mine"))
    message = refusal(plugins)
    assert message.startswith("noise_schedules/mine of stranger 1.0 is no NoiseSchedule: stranger_")
    assert "derive it from opendllm.registries.noise_schedules.NoiseSchedule" in message
    assert message.endswith(line_of(heavy, "# the class"))
    with pytest.raises(PluginError) as checked:
        plugins.noise_schedules.get("mine").check()
    assert str(checked.value) == message


INIT = "    def __init__(self, options):\n        pass\n"


@pytest.mark.parametrize(
    ("init", "place"),
    [
        ("", "# the class"),
        ("    def __init__(self):  # init\n        pass\n", "# init"),
        ("    def __init__(self, options, strength):  # init\n        pass\n", "# init"),
        ("    def __init__(self, *, options):  # init\n        pass\n", "# init"),
    ],
)
def test_a_class_that_does_not_take_its_options(package: Any, init: str, place: str) -> None:
    plugins, _, heavy = package()
    heavy.write_text(heavy.read_text().replace(INIT, init))
    message = refusal(plugins)
    assert message.startswith("noise_schedules/mine of stranger 1.0 cannot be built: stranger_")
    assert "which register_noise_schedules names" in message
    assert "give it `__init__(self, options)`" in message
    assert message.endswith(line_of(heavy, place))
    with pytest.raises(PluginError) as checked:
        plugins.noise_schedules.get("mine").check()
    assert str(checked.value) == message


def test_a_function_that_does_not_take_its_options(package: Any) -> None:
    plugins, _, heavy = package(rest=PRIME + "\n\ndef Mine():  # the factory\n    return 3\n")
    message = refusal(plugins)
    assert "let it take `options` and no more" in message
    assert message.endswith(line_of(heavy, "# the factory"))


def test_a_factory_is_checked_with_the_defaults_or_the_first_example(package: Any) -> None:
    factory = """
def Mine(options):  # the factory
    raise ValueError(options.strength)
"""
    for option, said in (
        ("strength: int = 3", "ValueError: 3"),
        (
            "strength: int\n    model_config = {'json_schema_extra': {'examples': [{'strength': 4}]}}",
            "Error: 4",
        ),
    ):
        plugins, _, _ = package(option, rest=PRIME + factory)
        with pytest.raises(PluginError, match=said):
            plugins.noise_schedules.get("mine").check()
    plugins, _, _ = package("strength: int", rest=PRIME + factory)
    plugins.noise_schedules.get("mine").check()  # nobody knows what to build it with


def test_a_target_that_is_not_there(package: Any) -> None:
    plugins, light, heavy = package()
    heavy.write_text(heavy.read_text().replace("class Mine", "class Other"))
    message = refusal(plugins)
    assert "AttributeError: module" in message
    assert message.endswith(line_of(light, "# the hook"))


@pytest.mark.parametrize(
    ("old", "new", "says", "place"),
    [
        ("def register_noise_schedules", "def register_noise_shedules", "there is no hook", "@hookimpl"),
        ("@hookimpl\n", "", "are its hooks marked with @hookimpl?", ""),
        ("schedules(register)", "schedules(reg)", "takes (reg): call its argument `register`", "@hookimpl"),
        ("(register):", "(register, more):", "takes (register, more): call its argument", "@hookimpl"),
        ("(register):", "(*, register):", "takes (*, register): call its argument `register`", "@hookimpl"),
    ],
)
def test_a_hook_that_nobody_calls(
    package: Any, monkeypatch: pytest.MonkeyPatch, old: str, new: str, says: str, place: str
) -> None:
    assert old in HOOK
    monkeypatch.setattr(sys.modules[__name__], "HOOK", HOOK.replace(old, new))
    plugins, light, _ = package()
    [broken] = plugins.broken
    assert says in broken.error
    assert broken.error.endswith(line_of(light, place))


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ("OPENDLLM_INTERFACE = '1.2'  # here", "OPENDLLM_INTERFACE is '1.2': write '>=1.2'"),
        ("OPENDLLM_INTERFACE: str = '>=7'  # here", "it needs plugin interface >=7, and this open-dllm has"),
        ("from keyword import __name__ as OPENDLLM_INTERFACE  # here", "OPENDLLM_INTERFACE is 'keyword': a"),
        ("globals()['OPENDLLM_INTERFACE'] = '>=7'", "it needs plugin interface >=7"),
    ],
)
def test_an_interface_that_does_not_fit(
    package: Any, monkeypatch: pytest.MonkeyPatch, stated: str, says: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "HOOK", HOOK + stated)
    plugins, light, _ = package()
    [broken] = plugins.broken
    assert broken.error.startswith(says)
    assert broken.error.endswith(line_of(light, "# here" if "# here" in stated else ""))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("strength = 3  # here", "non-annotated"),
        ("strength: Any = 3  # here", "anything as 'strength'"),
        ("strength: object = 3  # here", "anything as 'strength'"),
        ("many: list = []  # here", "anything as 'many'"),
        ("more: dict = {}  # here", "anything as 'more'"),
        ("more: dict[str, Any] = {}  # here", "anything as 'more'"),
        ("more: list[tuple] | None = None  # here", "anything as 'more'"),
        ("more: tuple[int, Any] | None = None  # here", "anything as 'more'"),
    ],
)
def test_an_option_without_a_type(package: Any, option: str, said: str) -> None:
    plugins, light, _ = package(option=f"right: int = 3\n    {option}")
    [broken] = plugins.broken
    assert str(broken.provenance) == "stranger 1.0"
    assert said in broken.error
    assert broken.error.endswith(line_of(light, "class Options" if said == "non-annotated" else "# here"))
    assert broken.error.count("(at ") == 1
    assert "\n" not in broken.error


@pytest.mark.parametrize(
    "option",
    [
        "many: list[str] = []",
        "more: dict[str, int | None] = {}",
        "some: tuple[int, ...] | None = None",
        "word: typing.Literal['a', 'b'] = 'a'",
        "path: typing.Annotated[str, 'where'] = ''",
        "value: pydantic.JsonValue = None",
        "inner: Inner | None = None",
    ],
)
def test_an_option_with_a_type(package: Any, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    inner = "import pydantic, typing\nclass Inner(pydantic.BaseModel):\n    again: 'Inner | None' = None\n"
    monkeypatch.setattr(sys.modules[__name__], "HOOK", inner + HOOK)
    plugins, _, _ = package(option=option)
    assert not plugins.broken


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            'target="{module}_heavy:Mine"',
            "target=Options",
            "of the form 'module:attribute': write 'stranger_",
        ),
        ('target="{module}_heavy:Mine"', "target=3", "target 3 is not of the form 'module:attribute'"),
        ('target="{module}_heavy:Mine"', 'target="{module}_heavy.Mine"', "is not of the form 'module:attrib"),
        ('"mine", ', "3, ", "3 is no plugin name"),
    ],
)
def test_what_a_hook_registers_in_another_form(
    package: Any, monkeypatch: pytest.MonkeyPatch, old: str, new: str, says: str
) -> None:
    assert HOOK.count(old) == 1
    monkeypatch.setattr(sys.modules[__name__], "HOOK", HOOK.replace(old, new))
    plugins, light, _ = package()
    [broken] = plugins.broken
    assert broken.error.startswith("register_noise_schedules: ")
    assert says in broken.error
    assert broken.error.endswith(line_of(light, "# the hook"))


def test_an_error_of_a_hook_names_the_hook_and_the_line(package: Any) -> None:
    plugins, light, _ = package(option="strength: Any = 3")
    [broken] = plugins.broken
    assert broken.error.startswith("register_noise_schedules: options of 'mine' take anything as 'strength'")
    assert broken.error.endswith(line_of(light, "strength: Any"))
