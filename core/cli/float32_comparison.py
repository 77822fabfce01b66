"""`generate --compare-float32`: how many tokens stay the same where nothing is rounded to 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from opendllm.core.cli.trace_files import Decoding
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    import torch

    from opendllm.core.decoding.text import Written
    from opendllm.core.language_model import LanguageModel

Write = Callable[["LanguageModel", Decoding], Sequence["Written"]]
"""All prompts, by one sampler."""


def check_narrow(model: LanguageModel) -> None:
    """Whether there is anything to compare.

    Raises:
        UserError: the weights are in float32 already.
    """
    dtype = _dtype(model)
    if dtype.itemsize >= 4:
        name = str(dtype).removeprefix("torch.")
        raise UserError(f"--compare-float32: the checkpoint's weights are in {name} already: leave it out")


def compared_lines(
    model: LanguageModel, wide: LanguageModel, done: Sequence[Decoding], write: Write
) -> list[str]:
    """A line a sampler: the share of tokens, and of texts, that the float32 model writes as well.

    Of each text the tokens that it is made of count, position by position, up to where the longer of both
    ends.

    Args:
        model: what wrote.
        wide: the same weights in float32.
        done: what it wrote.
        write: lets a model write the same once more.
    """
    name = str(_dtype(model)).removeprefix("torch.")
    lines = []
    for decoding in done:
        pairs = list(zip(decoding.written, write(wide, decoding), strict=True))
        counts = [_equal_tokens(ours, theirs) for ours, theirs in pairs]
        equal, total = sum(same for same, _ in counts), sum(of for _, of in counts)
        texts = sum(ours.text == theirs.text for ours, theirs in pairs)
        share = f"{equal / total:.1%}" if total else "there are none"
        by = "" if decoding.sampler is None else f", {decoding.sampler}"
        lines.append(
            f"{name} beside float32{by}: {equal:,} of {total:,} tokens are the same ({share}), and {texts:,} "
            f"of {len(pairs):,} texts"
        )
    return lines


def _equal_tokens(ours: Written, theirs: Written) -> tuple[int, int]:
    """(how many are the same, of how many)."""
    first, second = (each.tokens[: each.kept_tokens] for each in (ours, theirs))
    return sum(map(int.__eq__, first, second)), max(len(first), len(second))


def _dtype(model: LanguageModel) -> torch.dtype:
    """The widest that weights are in."""
    dtypes = {parameter.dtype for parameter in model.lm.module.parameters()}
    return max(dtypes, key=lambda dtype: dtype.itemsize)
