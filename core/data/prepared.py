"""Tokenised documents on disk, memory-mapped, made once for each corpus, tokenizer and settings."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opendllm.core.checkpoints.tokenizer_files import TOKENIZER_FILE, read_tokenizer, write_tokenizer
from opendllm.core.data.encoding import Pair, encode_in_order
from opendllm.core.data.packing import Packing
from opendllm.core.data.progress import OnBatch
from opendllm.core.data.rendering import render
from opendllm.core.data.token_files import SplitFacts, SplitWriter, read_split
from opendllm.core.data.tokenizers import make_tokenizer
from opendllm.core.foundation.atomic_files import CHECKSUMS_FILE, whole_folder, write_json
from opendllm.core.manifest.experiment_manifest import digest
from opendllm.core.manifest.schema import Data, TokenizerChoice
from opendllm.registries.corpora import Corpus, Document, Split
from opendllm.registries.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLITS: tuple[Split, ...] = ("train", "held-out")
FACTS_FILE = "data.json"
TOKENIZER_FOLDER = "tokenizer"
_FORMAT = 2
"""Part of every key: what an older version wrote is not taken for this one's."""


@dataclass(frozen=True)
class PreparedData:
    """A run's tokenizer and the packed rows of one corpus.

    Attributes:
        tokenizer: with an EOS and a mask token.
        tokens: by split, all documents' ids one after the other, each ending in EOS; memory-mapped.
        packing: by split; memory-mapped.
        prompted: whether every document has a prompt.
        digest: of all of it, whatever it was made from; the same tokens have the same digest.
        folder: that holds it.
    """

    tokenizer: PreTrainedTokenizerFast
    tokens: dict[Split, NDArray[np.uint32]]
    packing: dict[Split, Packing]
    prompted: bool
    digest: str
    folder: Path


def prepare(data: Data, tokenizer: TokenizerChoice, corpus: Corpus, folder: Path) -> PreparedData:
    """`prepare_all` of one corpus."""
    return prepare_all(data, tokenizer, [corpus], folder)[0]


def prepare_all(
    data: Data,
    choice: TokenizerChoice,
    corpora: Sequence[Corpus],
    folder: Path,
    on_batch: OnBatch = lambda *_: None,
) -> list[PreparedData]:
    """Tokenise and pack, or read what an earlier run made of the same corpora and settings.

    Another process that prepares the same is waited for. What is killed, or fails, leaves nothing
    that a later run would take. Memory does not grow with the corpora.

    Args:
        data: the manifest's section.
        choice: where the tokenizer comes from.
        corpora: the plugins that `data` names.
        folder: where prepared data is kept, each in a folder named after its digest.
        on_batch: told how far it is.

    Raises:
        UserError: a corpus has no documents or is damaged, the tokenizer can't be had, or the disk
            is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = _tokenizer(choice, corpora, folder)
        return [
            _prepared(data, section.model_dump(mode="json"), corpus, tokenizer, folder, on_batch)
            for section, corpus in zip(data.corpora(), corpora, strict=True)
        ]
    except OSError as error:
        raise UserError(f"data cannot be prepared in {folder}: {_os_error(error)}") from error


def _tokenizer(choice: TokenizerChoice, corpora: Sequence[Corpus], folder: Path) -> PreTrainedTokenizerFast:
    """A trained one is kept like the tokens."""
    if choice.train is None:
        return make_tokenizer(choice, corpora)
    fingerprints = [corpus.fingerprint() for corpus in corpora]
    key = digest({"format": _FORMAT, "tokenizer": choice.model_dump(mode="json"), "corpora": fingerprints})
    target = folder / f"tokenizer-{key}"
    with _made_once(target) as staging:
        if staging is not None:
            write_tokenizer(make_tokenizer(choice, corpora), staging)
    return read_tokenizer(target)


def _prepared(
    data: Data,
    choice: dict[str, object],
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    on_batch: OnBatch,
) -> PreparedData:
    key = digest(
        {
            "format": _FORMAT,
            "corpus": choice,
            "fingerprint": corpus.fingerprint(),
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "eos": tokenizer.eos_token,
            "mask": tokenizer.mask_token,
            "chat": tokenizer.chat_template if data.chat else None,
            "settings": data.model_dump(mode="json", include={"sequence_length", "packed", "chat"}),
        }
    )
    target = folder / f"tokens-{key}"
    with _made_once(target) as staging:
        if staging is not None:
            _make(data, corpus, tokenizer, staging, on_batch)
    return read_prepared(target)


def read_prepared(folder: Path) -> PreparedData:
    """One corpus's, from the folder that `prepare_all` made for it.

    Raises:
        UserError: it is damaged.
    """
    try:
        facts = json.loads((folder / FACTS_FILE).read_text())
        checksums = json.loads((folder / CHECKSUMS_FILE).read_text())
        read = {split: _read(folder, split, facts[split]) for split in SPLITS}
    except (OSError, ValueError) as error:  # of numpy's for an empty file, or half a number
        raise UserError(
            f"{folder} is damaged ({first_line(error)}): delete it, and it is made again"
        ) from error
    content = {
        name: checksum
        for name, checksum in checksums.items()
        if name.endswith(".bin") or name == f"{TOKENIZER_FOLDER}/{TOKENIZER_FILE}"
    }
    return PreparedData(
        read_tokenizer(folder / TOKENIZER_FOLDER),
        {split: tokens for split, (tokens, _) in read.items()},
        {split: packing for split, (_, packing) in read.items()},
        all(facts[split]["prompted"] == facts[split]["documents"] for split in SPLITS),
        digest(content),
        folder,
    )


def _read(folder: Path, split: Split, facts: dict[str, int]) -> tuple[NDArray[np.uint32], Packing]:
    """What is there, if it is as long as it should be: checksums would take too long each time."""
    tokens, packing = read_split(folder, split)
    pieces = {len(packing.starts), len(packing.lengths), len(packing.prompts)}
    there = (len(tokens), len(packing.row_ends))
    if there != (facts["tokens"], facts["rows"]) or pieces != {int(packing.row_ends[-1])}:
        raise ValueError(f"{split} was cut short")
    return tokens, packing


def _os_error(error: OSError) -> str:
    """What went wrong with which file."""
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


@contextmanager
def _made_once(target: Path) -> Iterator[Path | None]:
    """Yields the folder to fill, or None where `target` is there. Of several processes one makes it."""
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when the process ends, however that is
        if target.is_dir():
            yield None
            return
        with whole_folder(target) as staging:
            try:
                yield staging
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise


def _make(
    data: Data, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, folder: Path, on_batch: OnBatch
) -> None:
    write_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)
    facts = {}
    for split in SPLITS:
        file = folder / TOKENIZER_FOLDER / TOKENIZER_FILE
        with SplitWriter(folder, split, data.sequence_length, data.packed) as writer:
            pairs = _pairs(corpus.documents(split), tokenizer, data.chat, writer.facts)
            for batch in encode_in_order(pairs, file, tokenizer.eos_token_id):
                writer.add(batch)
                on_batch(split, writer.facts.documents, writer.facts.tokens)
        _check(split, writer.facts, data.sequence_length)
        _report_cut_documents(split, writer.facts, data.sequence_length)
        facts[split] = writer.facts.as_json()
    write_json(folder / FACTS_FILE, facts)


def _pairs(
    documents: Iterator[Document], tokenizer: PreTrainedTokenizerFast, chat: bool, facts: SplitFacts
) -> Iterator[Pair]:
    for document in documents:
        facts.prompted += document.prompt is not None
        yield render(document, tokenizer, chat)


def _check(split: Split, facts: SplitFacts, sequence_length: int) -> None:
    if facts.documents == 0:
        raise UserError(f"the corpus has no {split} documents")
    if facts.rows == 0:
        raise UserError(
            f"no {split} prompt leaves room for an answer: raise data.sequence_length ({sequence_length})"
        )


def _report_cut_documents(split: Split, facts: SplitFacts, sequence_length: int) -> None:
    if facts.shortened or facts.dropped:
        print(
            f"of {facts.documents} {split} documents with a prompt {facts.shortened} lost their end, and "
            f"{facts.dropped} are left out for prompts that fill a row: data.sequence_length is "
            f"{sequence_length}",
            file=sys.stderr,
        )
