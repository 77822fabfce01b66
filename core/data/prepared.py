"""Tokenised documents on disk, memory-mapped, made once for each corpus and tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opendllm.core.checkpoints.files import CHECKSUMS_FILE, whole_folder
from opendllm.core.checkpoints.tokenizer_files import read_tokenizer
from opendllm.core.data.packing import Packing, pack
from opendllm.core.data.tokenizers import make_tokenizer
from opendllm.core.manifest.experiment_manifest import digest
from opendllm.core.manifest.schema import Data, TokenizerChoice
from opendllm.registries.corpora import Corpus, Split
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLITS: tuple[Split, ...] = ("train", "held-out")
DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True)
class PreparedData:
    """A run's tokenizer and its packed rows.

    Attributes:
        tokenizer: with an EOS and a mask token.
        tokens: by split, all documents' ids one after the other, each ending in EOS; memory-mapped.
        packing: by split.
        digest: of all of it, whatever it was made from; the same tokens have the same digest.
    """

    tokenizer: PreTrainedTokenizerFast
    tokens: dict[Split, NDArray[np.uint32]]
    packing: dict[Split, Packing]
    digest: str


def prepare(data: Data, tokenizer: TokenizerChoice, corpus: Corpus, folder: Path) -> PreparedData:
    """Tokenise and pack, or read what an earlier run made of the same corpus and settings.

    Args:
        data: the manifest's section.
        tokenizer: where the tokenizer comes from.
        corpus: the plugin it names.
        folder: where prepared data is kept, each in a folder named after its digest.

    Raises:
        UserError: the corpus has no documents, or the tokenizer can't be had.
    """
    key = digest(
        {
            "data": data.model_dump(mode="json"),
            "tokenizer": tokenizer.model_dump(mode="json"),
            "corpus": corpus.fingerprint(),
        }
    )
    target = folder / key
    if not target.is_dir():
        with whole_folder(target) as aside:
            _make(data, tokenizer, corpus, aside)
    tokens = {split: np.load(target / f"{split}-tokens.npy", mmap_mode="r") for split in SPLITS}
    packing = {}
    for split in SPLITS:
        with np.load(target / f"{split}-packing.npz", allow_pickle=False) as arrays:
            packing[split] = Packing(arrays["starts"], arrays["lengths"], arrays["row_ends"])
    content = json.loads((target / CHECKSUMS_FILE).read_text())
    return PreparedData(read_tokenizer(target / "tokenizer"), tokens, packing, digest(content))


def _make(data: Data, choice: TokenizerChoice, corpus: Corpus, folder: Path) -> None:
    tokenizer = make_tokenizer(choice, corpus)
    tokenizer.save_pretrained(folder / "tokenizer")
    for split in SPLITS:
        tokens, ends = _tokenise(corpus, split, tokenizer)
        packing = pack(ends, data.sequence_length)
        np.save(folder / f"{split}-tokens.npy", tokens)
        np.savez(
            folder / f"{split}-packing.npz",
            starts=packing.starts,
            lengths=packing.lengths,
            row_ends=packing.row_ends,
        )
    (folder / "data.json").write_text(json.dumps(data.model_dump(mode="json"), indent=2) + "\n")


def _tokenise(
    corpus: Corpus, split: Split, tokenizer: PreTrainedTokenizerFast
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """All ids of a split, and where each document ends."""
    arrays, ends, total = [], [], 0
    texts: list[str] = []

    def flush() -> None:
        nonlocal total
        if not texts:
            return
        for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
            arrays.append(np.array([*ids, tokenizer.eos_token_id], dtype=np.uint32))
            total += len(ids) + 1
            ends.append(total)
        texts.clear()

    for document in corpus.documents(split):
        texts.append(document.text)
        if len(texts) == DOCUMENTS_AT_ONCE:
            flush()
    flush()
    if not arrays:
        raise UserError(f"the corpus has no {split} documents")
    return np.concatenate(arrays), np.array(ends, dtype=np.int64)
