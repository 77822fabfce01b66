"""Which documents are held out, where a corpus doesn't say it itself."""

from __future__ import annotations

import hashlib
import json

from opendllm.registries.corpora import Document, Message

HELD_OUT_SHARE = 20
"""One in so many is held out."""


def is_held_out(name: str) -> bool:
    """Whether something of this name, or text, is held out: by its hash, whatever stands beside it."""
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0


def text_key(document: Document) -> bytes:
    """16 bytes that documents of the same prompt and text share.

    A prompt is what a user's turn of a chat is, and an empty one is none, as they are learnt. Line ends count
    as one kind, and white space at either end of a text for nothing; else every character counts.
    """
    prompt = document.prompt or ()
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    parts = [part for turn in turns for part in (turn.role, turn.content, _calls(turn))] + [document.text]
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.replace("\r\n", "\n").replace("\r", "\n").strip().encode(errors="surrogatepass")
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.digest()


def _calls(turn: Message) -> str:
    return json.dumps(turn.tool_calls, sort_keys=True, default=str) if turn.tool_calls else ""
