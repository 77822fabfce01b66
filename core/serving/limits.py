"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is refused beyond it, so that one request can't be in everybody's way.

    Attributes:
        rows: written side by side.
        waiting: rows that wait for a place.
        new_tokens: that a request asks for, a choice.
        choices: of a request: prompts times `n`.
        body_bytes: of a request.
        body_seconds: in which a request has to arrive.
        grace_seconds: that running requests have to end in once the server is stopped.
    """

    rows: int = 16
    waiting: int = 256
    new_tokens: int = 4096
    choices: int = 64
    body_bytes: int = 2 << 20
    body_seconds: float = 30.0
    grace_seconds: float = 30.0

    @property
    def steps(self) -> int:
        """Denoising steps that a request asks for."""
        return 4 * self.new_tokens
