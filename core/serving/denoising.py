"""A text as it comes to be: what the page shows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any

from opendllm.core.decoding.tracing import spellings
from opendllm.core.serving.api_answers import server_sent
from opendllm.core.serving.api_errors import ApiError
from opendllm.core.serving.asked_rows import Canvas, Finished
from opendllm.core.serving.events import Events
from opendllm.core.serving.served_models import Asked
from opendllm.registries.gaps import Gap


async def denoising_events(
    gap: Gap, asked: Asked, events: Events, sampler: str, options: Mapping[str, Any]
) -> AsyncGenerator[bytes, None]:
    """A trace in pieces, see `DecodingTrace`: what is known before the first step, each step, the end.

    Args:
        gap: what is written.
        asked: its only row.
        events: of that row.
        sampler: that writes it.
        options: of the decoder and the sampler.
    """
    [row] = asked.rows
    model = row.decoding.model
    assert model.tokenizer is not None
    spelt = _Spelling(model.tokenizer.decode)
    while True:
        _, event = await events.next()
        if isinstance(event, ApiError):
            yield server_sent(event.content())
            return
        if isinstance(event, Finished):
            ending = {"text": event.ending.text, "tokens": event.ending.tokens}
            yield server_sent({"end": {**ending, "forward_passes": event.forward_passes}})
            return
        if isinstance(event, Canvas) and event.canvas is not None:
            about = {"prompt": gap.prefix, "suffix": gap.suffix, "sampler": sampler, "options": dict(options)}
            first = {
                **about,
                "seed": asked.seed,
                "mask_token_id": model.lm.mask_token_id,
                "start": event.canvas.tokens,
                "editable": list(range(row.row.given, row.row.given + row.length + row.row.surplus)),
            }
            yield server_sent({"start": first, "vocabulary": spelt.new(event.canvas.tokens)})
        elif isinstance(event, Canvas) and event.step is not None:
            step = event.step
            tokens = [token for _, token, _ in (*step.commit, *step.edit, *step.insert)]
            changed = {name: list(found) for name, found in vars(step).items() if found}
            yield server_sent({"step": changed, "vocabulary": spelt.new(tokens)})


class _Spelling:
    """How tokens are spelt, each said once."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._known: set[int] = set()

    def new(self, tokens: Iterable[int]) -> dict[int, str]:
        unknown = set(tokens) - self._known
        self._known |= unknown
        return spellings(self._decode, unknown)
