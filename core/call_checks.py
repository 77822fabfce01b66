"""What a call of the Python API is given, looked at before a model reads it."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from opendllm.registries.errors import UserError
from opendllm.registries.sequences import PADDING_SEGMENT


def check_ids(ids: Any, vocab_size: int, what: str) -> None:
    """Whether these are rows of token ids.

    Args:
        ids: what the caller gave.
        vocab_size: the model's.
        what: the argument's name.

    Raises:
        UserError: it is no int64 tensor [B, L], has no rows, or an id that the model doesn't know.
    """
    if not isinstance(ids, Tensor):
        raise UserError(
            f"{what} is a torch tensor, int64 [B, L], and a {type(ids).__name__} was given: write "
            f"torch.tensor([[1, 2]]) for one row of two tokens"
        )
    whole_numbers = ids.dtype == torch.int64 and ids.ndim == 2 and len(ids) > 0
    if not whole_numbers or bool(((ids < 0) | (ids >= vocab_size)).any()):
        raise UserError(
            f"{what} is int64 [B, L], B at least 1, of token ids below {vocab_size}; this is "
            f"{str(ids.dtype).removeprefix('torch.')} {list(ids.shape)}"
        )


def check_length(tokens: int, context_length: int, what: str) -> None:
    """Whether a model reads so many tokens.

    Raises:
        UserError: it doesn't.
    """
    if tokens > context_length:
        raise UserError(f"{what} has {tokens} tokens, more than the model's context of {context_length}")


def check_attention_mask(mask: Any, ids: Tensor, what: str) -> None:
    """Whether a mask says of each token if it is real: 1 or 0, true or false.

    An additive mask, 0 where a token is real and -inf where not, would be read the other way round.

    Args:
        mask: what the caller gave; None says that all are.
        ids: [B, L].
        what: the ids' name.

    Raises:
        UserError: it doesn't.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise UserError(
            f"attention_mask is a torch tensor [B, L], zero on padding, and a {type(mask).__name__} was given"
        )
    if mask.shape != ids.shape:
        raise UserError(f"attention_mask {list(mask.shape)} isn't of {what}'s shape {list(ids.shape)}")
    if mask.dtype != torch.bool and bool(((mask != 0) & (mask != 1)).any()):
        raise UserError(
            "attention_mask holds other numbers than 0 and 1: give 1 at tokens and 0 at padding, none that "
            "is added to attention's scores"
        )
    empty = (~mask.bool().any(-1)).nonzero()
    if len(empty):
        raise UserError(
            f"row {int(empty[0])} of {what} has no tokens: attention_mask calls all of it padding"
        )


def check_masks_are_real(canvas: Tensor, mask: Tensor | None, mask_token_id: int) -> None:
    """Whether there is anything to write, where there are masks.

    Args:
        canvas: [B, L] int64; a row without masks of its own may be padded with some.
        mask: [B, L], of `check_attention_mask`.
        mask_token_id: the model's.

    Raises:
        UserError: every mask is called padding, and would be left as it is.
    """
    masks = canvas == mask_token_id
    if mask is not None and bool(masks.any()) and not bool((masks & mask.bool()).any()):
        raise UserError(
            "attention_mask calls all masks of the canvas padding, so none would be written: it is 1 at "
            "prompts and at masks"
        )


def several_texts(texts: Any, what: str) -> list[str]:
    """What is given as several texts, and not one.

    Args:
        texts: what the caller gave.
        what: the argument's name.

    Raises:
        UserError: it is something else.
    """
    if isinstance(texts, str | bytes):
        raise UserError(f"{what} is a list of texts, not one text")
    if not isinstance(texts, Iterable):
        raise UserError(f"{what} is a list of texts, not {_shown(texts)}")
    found = list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"{what} holds texts, and number {number} is a {type(text).__name__}: {text!r}")
    return found


def count_of(given: Any, what: str, why: str) -> int:
    """What is given as a whole number, 1 at least.

    Args:
        given: what the caller gave.
        what: the argument's name.
        why: what to do, for the error.

    Raises:
        UserError: it is something else.
    """
    number = 0
    if not isinstance(given, bool):
        with suppress(TypeError):
            number = operator.index(given)
    if number < 1:
        raise UserError(f"{what} is {given!r}: {why}")
    return number


def check_loss_noise(tokens: Tensor, masked: Any, mask_probability: Any) -> None:
    """Whether noise is said in the form that `LanguageModel.loss` reads.

    A mask of integers would be read as noisy tokens, and chances of [B] or [L] broadcast to other rows.

    Args:
        tokens: [B, L] int64.
        masked: what the caller gave.
        mask_probability: what the caller gave.

    Raises:
        UserError: it isn't.
    """
    shape = tokens.shape
    if (
        not isinstance(masked, Tensor)
        or masked.shape != shape
        or masked.dtype not in (torch.bool, torch.int64)
    ):
        raise UserError(
            f"masked is bool {list(shape)}, true where a token is hidden, or int64, the noisy tokens "
            f"themselves; this is {_shown(masked)}"
        )
    chances = mask_probability
    fits = isinstance(chances, Tensor) and chances.is_floating_point()
    if not fits or chances.shape not in (shape, (shape[0], 1), (1, shape[1]), (1, 1), ()):
        raise UserError(
            f"mask_probability is float {list(shape)}, or [{shape[0]}, 1] for one chance a row; this is "
            f"{_shown(chances)}"
        )
    gone = masked if masked.dtype == torch.bool else masked != tokens
    chances = chances.expand(shape)
    if not bool(((chances >= 0) & (chances <= 1) & ((chances > 0) | ~gone)).all()):
        raise UserError(
            "mask_probability is a chance: above 0 where a token is hidden, and nowhere below 0 or above 1"
        )


def check_mask_noise(tokens: Tensor, masked: Tensor, segments: Tensor | None, mask_token_id: int) -> None:
    """Whether noise that leaves nothing but masks is such noise.

    Args:
        tokens: [B, L] int64, clean.
        masked: [B, L] bool, or int64: the noisy tokens.
        segments: [B, L]: where there is padding, which may be masks; None where there is none.
        mask_token_id: the model's.

    Raises:
        UserError: another token than the mask stands in a token's place, or clean tokens hold masks.
    """
    real = torch.ones_like(tokens, dtype=torch.bool) if segments is None else segments != PADDING_SEGMENT
    if bool(((tokens == mask_token_id) & real).any()):
        raise UserError(
            f"tokens holds the mask token ({mask_token_id}): give the clean tokens, and which of them are "
            f"hidden as `masked`"
        )
    if masked.dtype == torch.bool:
        return
    other = (masked != tokens) & (masked != mask_token_id)
    if bool(other.any()):
        raise UserError(
            f"masked holds token {int(masked[other][0])} in another's place, and this noise schedule leaves "
            f"the mask ({mask_token_id}): give a bool mask, or the noisy tokens"
        )


def check_segments(segments: Any, masked: Tensor) -> None:
    """Whether each position has a document's number, and no padding is hidden.

    Args:
        segments: what the caller gave.
        masked: [B, L] bool.

    Raises:
        UserError: it hasn't, or one is.
    """
    if segments is None:
        return
    fits = isinstance(segments, Tensor) and segments.dtype in (torch.int64, torch.int32)
    if not fits or segments.shape != masked.shape:
        raise UserError(
            f"segments is int64 {list(masked.shape)}, document numbers; this is {_shown(segments)}"
        )
    if bool((masked & (segments == PADDING_SEGMENT)).any()):
        raise UserError(f"masked hides padding, which segments says by {PADDING_SEGMENT}: hide tokens only")


def whole_seeds(seed: Any) -> int | list[int]:
    """One seed, or one a row, as whole numbers.

    Raises:
        UserError: one is none, or doesn't fit 64 bits.
    """
    if hasattr(seed, "tolist"):  # of torch and of NumPy; a number where it has no dimension
        seed = seed.tolist()
    several = isinstance(seed, Iterable) and not isinstance(seed, str | bytes)
    given = list(seed) if several else [seed]
    found = []
    for each in given:
        try:
            number = operator.index(each)
        except TypeError as error:
            raise UserError(f"seed {each!r} is no whole number") from error
        if not -(2**63) <= number < 2**63:
            raise UserError(f"seed {each} is no signed integer of 64 bits")
        found.append(number)
    return found if several else found[0]


def _shown(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
    return f"a {type(given).__name__}"
