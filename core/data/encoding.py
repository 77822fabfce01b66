"""Texts to token ids in parallel processes, in their order. Imports nothing heavy: every process does."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from opendllm.core.checkpoints.text_codec import TextCodec, TokenFacts
from opendllm.core.data import long_texts
from opendllm.core.data.long_texts import TextCutter
from opendllm.core.foundation.cores import usable_cores
from opendllm.registries.errors import UserError

CHARACTERS_AT_ONCE = 1 << 20
DOCUMENTS_AT_ONCE = 4096
BATCHES_BEFORE_PROCESSES = 8
"""What is smaller is done before other processes would have started."""
MAX_PROCESSES = 16


class Pair(NamedTuple):
    """A document's prompt, which may be empty, its text, and its name for errors."""

    prompt: str
    text: str
    name: str


@dataclass(frozen=True)
class Part:
    """A part of a document.

    Attributes:
        prompt: of the document; its first part alone has it.
        text: what is learnt.
        begins: whether the document begins with it.
        ends: whether it ends with it.
        name: the document's.
    """

    prompt: str
    text: str
    begins: bool
    ends: bool
    name: str


@dataclass(frozen=True)
class Encoding:
    """How documents become ids; small, so that other processes can have it.

    Attributes:
        tokenizer_file: tokenizer.json.
        facts: what its texts begin with, and what is no text.
        eos_token_id: what a document ends with.
        templated: whether a chat template wrote prompts and texts.
    """

    tokenizer_file: Path
    facts: TokenFacts
    eos_token_id: int
    templated: bool = False


@dataclass(frozen=True)
class EncodedBatch:
    """Documents as ids.

    Attributes:
        ids: [T] uint32, prompt, text and EOS of each document, one after the other; a long document's
            may go on in the next batch.
        lengths: [D] int64, ids of each document that ends here.
        prompts: [D] int64, how many of them are its prompt.
    """

    ids: NDArray[np.uint32]
    lengths: NDArray[np.int64]
    prompts: NDArray[np.int64]


@dataclass(frozen=True)
class EncodedParts:
    """Parts of documents as ids.

    Attributes:
        ids: [T] uint32.
        lengths: [P] int64, ids of each part.
        prompts: [P] int64, how many of them are a prompt.
        ends: [P] bool, whether a document ends with it.
    """

    ids: NDArray[np.uint32]
    lengths: NDArray[np.int64]
    prompts: NDArray[np.int64]
    ends: NDArray[np.bool_]


class Encoder:
    """A tokenizer file at work."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._codec = TextCodec(Tokenizer.from_file(str(encoding.tokenizer_file)), encoding.facts)

    def encode(self, batch: list[Part]) -> EncodedParts:
        """Prompt and text apart, as they are when the model answers; BOS is given as a prompt is.

        Raises:
            UserError: a document spells a token that can't be told apart; it is named.
        """
        prompts, texts = self._split(batch)
        closing = [[self._encoding.eos_token_id] if part.ends else [] for part in batch]
        whole = list(zip(prompts, texts, closing, strict=True))
        lengths = [sum(map(len, part)) for part in whole]
        ids = itertools.chain.from_iterable(itertools.chain(*part) for part in whole)
        return EncodedParts(
            np.fromiter(ids, np.uint32, sum(lengths)),
            np.array(lengths, dtype=np.int64),
            np.array([len(prompt) for prompt in prompts], dtype=np.int64),
            np.array([part.ends for part in batch], dtype=np.bool_),
        )

    def _split(self, batch: list[Part]) -> tuple[list[list[int]], list[list[int]]]:
        encode = self._templated if self._encoding.templated else self._plain
        try:
            return encode(batch)
        except UserError:
            for part in batch:
                try:
                    encode([part])
                except UserError as error:
                    raise UserError(f"{part.name}: {error}") from error
            raise

    def _plain(self, batch: list[Part]) -> tuple[list[list[int]], list[list[int]]]:
        strings = [string for part in batch for string in (part.prompt, part.text)]
        begin = [first for part in batch for first in (part.begins, part.begins and not part.prompt)]
        found = self._codec.encode_batch(strings, begin)
        bos = self._codec.bos
        prompts = [[*(bos if p.begins else ()), *ids] for p, ids in zip(batch, found[::2], strict=True)]
        return prompts, found[1::2]

    def _templated(self, batch: list[Part]) -> tuple[list[list[int]], list[list[int]]]:
        prompts = [self._codec.encode_rendered(part.prompt) for part in batch]
        return prompts, [self._codec.encode_rendered(part.text, begins=False) for part in batch]


def encode_in_order(pairs: Iterator[Pair], encoding: Encoding) -> Iterator[EncodedBatch]:
    """Encode a stream of any length, long documents in parts; at most two batches a process are held.

    What comes out does not depend on the number of processes. A short stream is encoded here, by the
    tokenizer's own threads.

    Raises:
        UserError: a process was killed.
    """
    return _documents(_encoded(_batches(pairs, encoding), encoding))


def _encoded(batches: Iterator[list[Part]], encoding: Encoding) -> Iterator[EncodedParts]:
    encoder = Encoder(encoding)
    for batch in itertools.islice(batches, BATCHES_BEFORE_PROCESSES):
        yield encoder.encode(batch)
    del encoder
    first = next(batches, None)
    if first is not None:
        yield from _in_processes(itertools.chain([first], batches), encoding)


def _documents(batches: Iterator[EncodedParts]) -> Iterator[EncodedBatch]:
    """Parts put together: lengths are those of whole documents, told when they end."""
    begun = prompt = 0  # ids of the document that has not ended yet
    for batch in batches:
        (ends,) = batch.ends.nonzero()
        bounds = batch.lengths.cumsum()[ends]
        lengths = np.diff(bounds, prepend=0)
        prompts = batch.prompts[np.concatenate([[0], ends + 1])[:-1]]
        ended = 0
        if len(ends):
            lengths[0] += begun
            prompts[0] += prompt
            begun = prompt = 0
            ended = int(ends[-1]) + 1
        begun += int(batch.lengths[ended:].sum())
        prompt += int(batch.prompts[ended:].sum())
        yield EncodedBatch(batch.ids, lengths, prompts)


def _in_processes(batches: Iterator[list[Part]], encoding: Encoding) -> Iterator[EncodedParts]:
    processes = min(usable_cores(), MAX_PROCESSES)
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),  # a fork would copy torch's threads' locks
        initializer=_start,
        initargs=(encoding,),
    )
    pending: deque[Future[EncodedParts]] = deque()
    try:
        for batch in batches:
            pending.append(pool.submit(_encode, batch))
            if len(pending) == 2 * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that tokenises was killed, perhaps for lack of memory: nothing of this corpus was "
            "kept; run again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(pairs: Iterator[Pair], encoding: Encoding) -> Iterator[list[Part]]:
    batch: list[Part] = []
    characters = 0
    for part in _parts(pairs, encoding):
        batch.append(part)
        characters += len(part.prompt) + len(part.text)
        if characters >= CHARACTERS_AT_ONCE or len(batch) == DOCUMENTS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _parts(pairs: Iterator[Pair], encoding: Encoding) -> Iterator[Part]:
    cutter: TextCutter | None = None
    for prompt, text, name in pairs:
        if len(text) <= long_texts.MAX_CHARACTERS:
            yield Part(prompt, text, True, True, name)
            continue
        if cutter is None:
            cutter = TextCutter(Tokenizer.from_file(str(encoding.tokenizer_file)), encoding.templated)
        before, begins = "", True
        for part in cutter.parts(text):
            if before:
                yield Part(prompt, before, begins, False, name)
                prompt, begins = "", False
            before = part
        yield Part(prompt, before, begins, True, name)


_encoder: Encoder | None = None


def _start(encoding: Encoding) -> None:
    """Begin a worker process; it ends when the one that started it does, however that ends."""
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encoder = Encoder(encoding)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _encode(batch: list[Part]) -> EncodedParts:
    assert _encoder is not None
    return _encoder.encode(batch)
