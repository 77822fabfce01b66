"""Parameters that are not trained."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torch import nn

from opendllm.registries.errors import UserError


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Switch off the gradient of every parameter whose name holds a match.

    Args:
        module: changed in place.
        patterns: regular expressions.

    Raises:
        UserError: one matches nothing, or together they match everything.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        matched = [name for name in parameters if re.search(pattern, name)]
        if not matched:
            raise UserError(
                f"train.freeze: {pattern!r} matches no parameter; {_nearest(pattern, list(parameters))}"
            )
        for name in matched:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"train.freeze: {', '.join(map(repr, patterns))} leave no parameter to train")


def _nearest(pattern: str, names: list[str]) -> str:
    """A hint: the names whose words look like the pattern's, else the first ones."""
    words = sorted({word for name in names for word in name.split(".")})
    wanted = [word for word in re.split(r"[^A-Za-z0-9_]+", pattern) if word]
    near = {match for word in wanted for match in difflib.get_close_matches(word, words, n=1)}
    likely = [name for name in names if near & set(name.split("."))] or names
    return f"there are {', '.join(likely[:4])}{', ...' if len(likely) > 4 else ''}"
