"""Where a checkpoint's texts end: all the ids that any of its files names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opendllm.core.checkpoints.text_codec import END_OF_TURN
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.core.networks.transformers_lm import GENERATION_FILE
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MOST_IDS = 1 << 31
"""Tokenizers count in 32 bits."""


def end_of_turn_id(tokenizer: PreTrainedTokenizerFast | None) -> int | None:
    """The id that ends an answer of a chat model; None where the tokenizer knows none."""
    vocabulary = {} if tokenizer is None else tokenizer.get_added_vocab()
    return next((vocabulary[token] for token in END_OF_TURN if token in vocabulary), None)


def stop_token_ids(
    folder: Path,
    config: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerFast | None,
    files_tokenizer: PreTrainedTokenizerFast | None = None,
) -> tuple[int, ...]:
    """The union of what config.json, generation_config.json and the tokenizer name, config.json's first.

    Args:
        folder: the model's.
        config: its config.json; `eos_token_id` is an integer or a list.
        tokenizer: its EOS counts, and its end-of-turn tokens.
        files_tokenizer: the one beside the files, where the model is trained on with another: what they name
            counts as far as it is the same token there.

    Raises:
        UserError: a file names something that is no id.
    """
    named = [
        *_ids(config.get("eos_token_id"), folder / "config.json"),
        *_ids(
            read_json_object(folder / GENERATION_FILE, optional=True).get("eos_token_id"),
            folder / GENERATION_FILE,
        ),
    ]
    if tokenizer is not None and files_tokenizer is not None:
        spelled, read = files_tokenizer.convert_ids_to_tokens(named), tokenizer.convert_ids_to_tokens(named)
        named = [i for i, ours, theirs in zip(named, read, spelled, strict=True) if ours == theirs]
    if tokenizer is not None:
        vocabulary = tokenizer.get_added_vocab()
        if tokenizer.eos_token_id is not None:
            named.append(int(tokenizer.eos_token_id))
        named += [vocabulary[token] for token in END_OF_TURN if token in vocabulary]
    return tuple(dict.fromkeys(named))


def _ids(value: Any, path: Path) -> list[int]:
    given = value if isinstance(value, list) else [] if value is None else [value]
    for each in given:
        if not isinstance(each, int) or isinstance(each, bool) or not 0 <= each < _MOST_IDS:
            raise UserError(f"{path}: eos_token_id holds {each!r}, which is no token id")
    return given
