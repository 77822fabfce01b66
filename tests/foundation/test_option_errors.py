"""What pydantic finds, said to people."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from opendllm.core.foundation.option_errors import checked_options, option_errors
from opendllm.registries.errors import UserError


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    weight: float = Field(1.0, gt=0)


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: int = Field(ge=1)
    kind: Literal["a", "b"] = "a"
    parts: tuple[Part, ...] = ()
    named: dict[str, int] = Field(default_factory=dict)
    maybe: Part | None = None

    @model_validator(mode="after")
    def _odd(self) -> Options:
        if self.steps == 13:
            raise ValueError("thirteen is not for us")
        return self


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        ({"stepz": 1, "steps": 1}, ("stepz",), "unknown key; did you mean 'steps'?"),
        ({"steps": 1, "maybe": {"wieght": 2}}, ("maybe", "wieght"), "unknown key; did you mean 'weight'?"),
        (
            {"steps": 1, "parts": [{}, {"wieght": 2}]},
            ("parts", 1, "wieght"),
            "unknown key; did you mean 'weight'?",
        ),
        ({}, ("steps",), "is missing"),
        ({"steps": 0}, ("steps",), "Input should be greater than or equal to 1 (given: 0)"),
        ({"steps": 1, "kind": "c"}, ("kind",), "Input should be 'a' or 'b' (given: 'c')"),
        ({"steps": 1, "named": 3}, ("named",), "should be a mapping (given: 3)"),
        ({"steps": 1, "maybe": [1]}, ("maybe",), "should be a mapping (given: [1])"),
        ({"steps": 1, "parts": 3}, ("parts",), "should be a list (given: 3)"),
        ({"steps": 13}, (), "thirteen is not for us"),
    ],
)
def test_each_error_has_its_path_and_the_users_words(
    given: dict[str, Any], path: tuple[str | int, ...], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Options.model_validate(given)
    [found] = option_errors(caught.value, Options)
    assert (found.path, found.message) == (path, message)
    with pytest.raises(UserError) as refused:
        checked_options(Options, given)
    expected = f"option {'.'.join(map(str, path))}: {message}" if path else message
    assert str(refused.value) == expected


def test_all_errors_come_in_order() -> None:
    with pytest.raises(ValidationError) as caught:
        Options.model_validate({"kind": "c", "steps": 0, "nothing": 1})
    assert [found.path for found in option_errors(caught.value, Options)] == [
        ("steps",),
        ("kind",),
        ("nothing",),
    ]


def test_good_options_come_back_as_the_model() -> None:
    assert checked_options(Options, {"steps": "3"}) == Options(steps=3)
