"""Tokenised documents on disk, memory-mapped, made once for each corpus, tokenizer and settings."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opendllm.core.checkpoints.text_codec import codec_of, let_add_bos, token_facts
from opendllm.core.checkpoints.tokenizer_files import TOKENIZER_FILE, read_tokenizer, write_tokenizer
from opendllm.core.data.encoding import Encoding, Pair, encode_in_order
from opendllm.core.data.held_out_texts import HeldOutTexts
from opendllm.core.data.left_out import report_left_out
from opendllm.core.data.packing import Packing
from opendllm.core.data.rendering import render
from opendllm.core.data.token_files import SplitFacts, SplitWriter, read_split
from opendllm.core.data.tokenizers import make_tokenizer
from opendllm.core.foundation.atomic_files import CHECKSUMS_FILE, whole_folder, write_json
from opendllm.core.foundation.json_objects import digest
from opendllm.core.manifest.schema import Data, TokenizerChoice
from opendllm.registries.corpora import Corpus, Split
from opendllm.registries.errors import UserError, first_line
from opendllm.registries.machine_errors import in_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLITS: tuple[Split, ...] = ("train", "held-out")
FACTS_FILE = "data.json"
TOKENIZER_FOLDER = "tokenizer"
_FORMAT = 5
"""Part of every key: what an older version wrote is not taken for this one's."""


OnBatch = Callable[[str, int, int], None]
"""Told (split, documents, tokens) after every batch, counted from the split's beginning."""


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
    add_bos_token: bool | None = None,
) -> list[PreparedData]:
    """Tokenise and pack, or read what an earlier run made of the same corpora and settings.

    What any of the corpora holds out none of them trains on, nor does the tokenizer. How many documents that
    leaves out is printed, and kept in the folder's `data.json`.

    Another process that prepares the same is waited for. What is killed, or fails, leaves nothing
    that a later run would take. Memory does not grow with the corpora.

    Args:
        data: the manifest's section.
        choice: where the tokenizer comes from.
        corpora: the plugins that `data` names.
        folder: where prepared data is kept, each in a folder named after its digest.
        on_batch: told how far it is.
        add_bos_token: whether documents begin with BOS; None as the tokenizer says. The tokenizer that is
            kept, and saved with checkpoints, says the same.

    Raises:
        UserError: a corpus has no documents or is damaged, the tokenizer can't be had, or the disk
            is full.
    """
    held_out = HeldOutTexts(corpora)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fingerprints = [corpus.fingerprint() for corpus in corpora]
        tokenizer = _tokenizer(choice, corpora, held_out, fingerprints, folder)
        if add_bos_token is not None:
            let_add_bos(tokenizer, add_bos_token)
        preparation = _Preparation(data, tokenizer, held_out, fingerprints, on_batch)
        return [
            preparation.prepared(number, section.name, corpus, folder)
            for number, (section, corpus) in enumerate(zip(data.corpora(), corpora, strict=True))
        ]
    except OSError as error:
        raise UserError(f"data cannot be prepared in {folder}: {_os_error(error)}") from error


def _tokenizer(
    choice: TokenizerChoice,
    corpora: Sequence[Corpus],
    held_out: HeldOutTexts,
    fingerprints: Sequence[str],
    folder: Path,
) -> PreTrainedTokenizerFast:
    """A trained one is kept like the tokens."""
    if choice.train is None:
        return make_tokenizer(choice, ())
    key = digest({"format": _FORMAT, "tokenizer": choice.model_dump(mode="json"), "corpora": fingerprints})
    target = folder / f"tokenizer-{key}"
    with _made_once(target) as staging:
        if staging is not None:
            texts = [held_out.training_documents(corpus) for corpus in corpora]
            write_tokenizer(make_tokenizer(choice, texts), staging)
    return read_tokenizer(target)


@dataclass(frozen=True)
class _Preparation:
    """How all corpora of a run are tokenised and packed.

    Attributes:
        data: the manifest's section.
        tokenizer: of all of them.
        held_out: what none of them trains on.
        fingerprints: one a corpus.
        on_batch: told how far it is.
    """

    data: Data
    tokenizer: PreTrainedTokenizerFast
    held_out: HeldOutTexts
    fingerprints: Sequence[str]
    on_batch: OnBatch

    def prepared(self, number: int, name: str, corpus: Corpus, folder: Path) -> PreparedData:
        """One corpus, made or read: what is part of its key decides what it holds."""
        key = digest(
            {
                "format": _FORMAT,
                "corpus": name,
                "fingerprint": self.fingerprints[number],
                "held out by": sorted(self.fingerprints),
                "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
                "eos": self.tokenizer.eos_token,
                "mask": self.tokenizer.mask_token,
                "chat": self.tokenizer.chat_template if self.data.chat else None,
                "settings": self.data.model_dump(mode="json", include={"sequence_length", "packed", "chat"}),
            }
        )
        target = folder / f"tokens-{key}"
        with _made_once(target) as staging:
            if staging is not None:
                self._make(name, corpus, staging)
        return read_prepared(target)

    def _make(self, name: str, corpus: Corpus, folder: Path) -> None:
        write_tokenizer(self.tokenizer, folder / TOKENIZER_FOLDER)
        encoding = Encoding(
            folder / TOKENIZER_FOLDER / TOKENIZER_FILE,
            token_facts(self.tokenizer),
            self.tokenizer.eos_token_id,
            self.data.chat,
        )
        facts = {}
        for split in SPLITS:
            with SplitWriter(folder, split, self.data.sequence_length, self.data.packed) as writer:
                pairs = self._pairs(name, corpus, split, writer.facts)
                for batch in encode_in_order(pairs, encoding):
                    writer.add(batch)
                    self.on_batch(split, writer.facts.documents, writer.facts.tokens)
            skipped = corpus.skipped(split)
            writer.facts.skipped = skipped.count
            report_left_out(name, split, writer.facts, skipped.first, self.data.sequence_length)
            facts[split] = writer.facts.as_json()
        write_json(folder / FACTS_FILE, facts)

    def _pairs(self, name: str, corpus: Corpus, split: Split, facts: SplitFacts) -> Iterator[Pair]:
        codec = codec_of(self.tokenizer)
        for document in corpus.documents(split):
            if split == "train" and document in self.held_out:
                facts.held_out += 1
                continue
            facts.prompted += document.prompt is not None
            where = f"corpus {name}: {document.name}"
            yield Pair(*render(document, self.tokenizer, codec, self.data.chat), where)


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
    return f"{error.filename}: {in_words(error)}" if error.filename else in_words(error)


@contextmanager
def _made_once(target: Path) -> Iterator[Path | None]:
    """Yields the folder to fill, or None where `target` is there. Of several processes one makes it."""
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when the process ends, however that is
        if target.is_dir():
            yield None
            return
        with whole_folder(target) as staging:
            yield staging
