"""Tokenizers on disk."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from opendllm.core.checkpoints.text_codec import let_add_bos, written_before
from opendllm.core.checkpoints.tokenizer_conversion import CONFIG_FILE as TOKENIZER_CONFIG_FILE
from opendllm.core.checkpoints.tokenizer_conversion import convert_tokenizer, convertible
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError, first_line

TOKENIZER_FILE = "tokenizer.json"


def id_count(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many rows an embedding needs; more than there are tokens where the ids have holes."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def ids_without_token(tokenizer: PreTrainedTokenizerFast | None, lm: DiffusionLM) -> tuple[int, ...]:
    """See `DiffusionLM.ids_without_token`; the ids that config.json gives a meaning are tokens."""
    if tokenizer is None:
        return ()
    meant = {lm.mask_token_id, *lm.stops}
    known = meant | set(tokenizer.get_vocab().values())
    return tuple(token_id for token_id in range(lm.vocab_size) if token_id not in known)


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder brings its tokenizer."""
    return (folder / TOKENIZER_FILE).is_file() or convertible(folder)


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write it, as `read_tokenizer` reads it.

    Raises:
        OSError: the disk is full, say.
    """
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # tokenizers' Rust half knows no other kind
        raise OSError(first_line(error)) from error


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer as tokenizer.json states it, or as the files say that it would be made of.

    Whether texts begin with BOS is what `add_bos_token` in tokenizer_config.json says, where it is there.

    Not through AutoTokenizer: beside a config.json of a known model_type it puts that family's own
    pre-tokenizer in the file's place, and the same text gets other ids.

    Raises:
        UserError: it is missing or damaged, or can't be converted.
    """
    if not (folder / TOKENIZER_FILE).is_file() and convertible(folder):
        return convert_tokenizer(folder)
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True
        )
    except Exception as error:  # a damaged tokenizer.json fails in as many ways as it has parts
        raise UserError(f"the tokenizer in {folder} cannot be loaded: {first_line(error)}") from error
    config = read_json_object(folder / TOKENIZER_CONFIG_FILE, optional=True)
    said = config.get("add_bos_token")  # transformers 5 drops it where there is a tokenizer.json
    has_bos = tokenizer.bos_token_id is not None
    if isinstance(said, bool) and has_bos and bool(written_before(tokenizer)) != said:
        let_add_bos(tokenizer, said)
    return tokenizer
