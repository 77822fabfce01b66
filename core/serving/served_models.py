"""The models of a server, and what a request makes of them: rows to be written."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from opendllm.core.checkpoints.chat_template import apply_template
from opendllm.core.decoding.decoder import check_options
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.text import TooLongError, refuse_unread_suffix, row_to_write
from opendllm.core.language_model import NO_TOKENIZER, LanguageModel, row_seeds
from opendllm.core.serving.api_errors import TOO_LONG, ApiError
from opendllm.core.serving.api_fields import ChatMessage, RequestFields
from opendllm.core.serving.asked_rows import AskedRow, Decoding, Event
from opendllm.core.serving.limits import Limits
from opendllm.core.serving.settled_text import SettledText
from opendllm.registries.corpora import Message
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.options import SamplerOptions
from opendllm.registries.suggestions import did_you_mean

_API_FIELDS = (
    "model",
    "prompt",
    "messages",
    "suffix",
    "max_tokens",
    "n",
    "stop",
    "seed",
    "stream",
    "sampler",
)
SERVERS_OWN = ("compile",)
"""Options of the decoder that say how steps are run, not what is written."""
LARGEST_NUMBER = 2**31 - 1
"""Of options: what counts positions and steps must stay far below 64 bits."""
LARGEST_SEED = 2**53
"""Of those that are drawn here: every JSON reader has such whole numbers."""

Tell = Callable[[int, Event], None]
"""Takes the events of a request's choices, by their index, in the decoding thread."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        rows: one a choice: each prompt's `n` after the other's.
        prompt_tokens: of all prompts.
        seed: of the draws, given or drawn.
    """

    rows: Sequence[AskedRow]
    prompt_tokens: int
    seed: int


@dataclass(frozen=True)
class Delivery:
    """How a request wants its rows told of.

    Attributes:
        tell: takes the events.
        streams: see `AskedRow`.
        shows_canvases: see `AskedRow`.
    """

    tell: Tell
    streams: bool = False
    shows_canvases: bool = False


class ServedModels:
    """Models by name.

    Attributes:
        names: in their order.
    """

    def __init__(
        self, models: Mapping[str, LanguageModel], always: Mapping[str, Any], limits: Limits
    ) -> None:
        """Take them.

        Args:
            models: at least one.
            always: options of the decoder that hold for every request, and that none may give.
            limits: of a request.

        Raises:
            UserError: a model has no tokenizer, or doesn't go with the options.
        """
        self._models, self._limits = dict(models), limits
        self._always = dict(always)
        self.names = list(self._models)
        for name, model in self._models.items():
            if model.tokenizer is None:
                raise UserError(f"{name}: {NO_TOKENIZER}")
            self._decoding(name, None, {})

    def describe(self, name: str) -> dict[str, Any]:
        """What a client may want to know of a model."""
        model = self.model(name)
        sampler, options = model.decoding(None, {})
        assert model.tokenizer is not None
        return {
            "context_length": model.lm.context_length,
            "attention": model.lm.attention.kind,
            "chat": model.tokenizer.chat_template is not None,
            "default_sampler": sampler,
            "default_options": options,
            "decoder": _properties(DecoderOptions, without=SERVERS_OWN),
            "samplers": {
                each.name: _properties(each.options)
                for each in installed_plugins().samplers
                if issubclass(each.options, SamplerOptions)
                and model.lm.noise.destination in each.options.destinations
            },
        }

    def model(self, name: str) -> LanguageModel:
        """The model of that name.

        Raises:
            ApiError: there is none.
        """
        if name not in self._models:
            hint = did_you_mean(name, self.names)
            raise ApiError(404, f"there is no model {name[:200]!r} here: {hint}", "model_not_found", "model")
        return self._models[name]

    def chat_gap(self, name: str, messages: Sequence[ChatMessage]) -> Gap:
        """The answer to some messages.

        Raises:
            ApiError: there is no such model, it has no chat template, or it fails.
        """
        model = self.model(name)
        turns = [Message(each.speaker, each.text) for each in messages]
        assert model.tokenizer is not None
        try:
            text = apply_template(model.tokenizer, model.codec, turns, "answer follows")
        except UserError as error:
            raise ApiError(400, str(error), param="messages") from error
        return Gap(text, templated=True)

    def ask(
        self, fields: RequestFields, gaps: Sequence[Gap], max_tokens: int | None, delivery: Delivery
    ) -> Asked:
        """The rows of a request.

        Raises:
            ApiError: something about it is wrong, or beyond a limit.
        """
        model = self.model(fields.model)
        choices = fields.n or 1
        if not 0 < len(gaps) * choices <= min(self._limits.choices, self._limits.waiting):
            most = min(self._limits.choices, self._limits.waiting)
            raise ApiError(
                400, f"{len(gaps) * choices} choices are asked for: ask for 1 to {most}", param="n"
            )
        try:
            decoding, length = self._checked(fields, max_tokens)
            refuse_unread_suffix(model.lm, gaps)
            given = [replace(gap, length=length) for gap in gaps]
            numbers = [""] if len(given) == 1 else [f" {number}" for number in range(len(given))]
            rows = [
                row_to_write(model.lm, model.codec, gap, decoding.options, number)
                for gap, number in zip(given, numbers, strict=True)
            ]
        except TooLongError as error:
            raise ApiError(400, str(error), TOO_LONG) from error
        except UserError as error:
            raise ApiError(400, str(error)) from error
        seed = secrets.randbelow(LARGEST_SEED) if fields.seed is None else fields.seed
        wanted = [row for row in rows for _ in range(choices)]
        asked = [
            AskedRow(
                row,
                length,
                row_seed,
                decoding,
                SettledText(model.codec, row.ids[: row.given], model.lm.stops, fields.stops),
                lambda event, index=index: delivery.tell(index, event),  # type: ignore[misc]
                streams=delivery.streams,
                has_stops=bool(fields.stops),
                shows_canvases=delivery.shows_canvases,
            )
            for index, (row, row_seed) in enumerate(zip(wanted, row_seeds(seed, len(wanted)), strict=True))
        ]
        prompt_tokens = sum(len(row.ids) - length - row.surplus for row in rows)
        return Asked(asked, prompt_tokens, seed)

    def decoding(self, fields: RequestFields) -> tuple[str, dict[str, Any]]:
        """The sampler and the options, flat, that a request is answered with."""
        return self.model(fields.model).decoding(fields.sampler, fields.decoder_options)

    def _checked(self, fields: RequestFields, max_tokens: int | None) -> tuple[Decoding, int]:
        """How a request's rows are written, and how much."""
        options = fields.decoder_options
        if "max_new_tokens" in options and max_tokens is not None:
            raise UserError("max_new_tokens is max_tokens: give it once")
        for name in SERVERS_OWN:
            if name in options:
                raise UserError(f"{name} is the server's: start it with -o {name}=...")
        for name, value in options.items():
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise UserError(f"{name} is beyond any model: take a smaller one")
        if max_tokens is not None:
            options["max_new_tokens"] = max_tokens
        decoding, length = self._decoding(fields.model, fields.sampler, options)
        if length > self._limits.new_tokens:
            raise UserError(
                f"{length} tokens are asked for, and this server writes up to {self._limits.new_tokens}"
            )
        steps = decoding.options.steps
        if steps is not None and steps > self._limits.steps:
            raise UserError(f"steps is {steps}, and this server takes up to {self._limits.steps}")
        _refuse_endless(decoding, options)
        return decoding, length

    def _decoding(self, name: str, sampler: str | None, asked: Mapping[str, Any]) -> tuple[Decoding, int]:
        """How rows are written, and how many tokens where a gap has no length of its own."""
        model = self._models[name]
        used, flat = model.decoding(sampler, asked)
        _refuse_unknown(used, asked)
        chosen, decoder = model.build_sampler(used, {**flat, **self._always})
        check_options(model.lm, chosen, decoder)
        length = decoder.max_new_tokens
        same = {key: value for key, value in flat.items() if key != "max_new_tokens"}
        decoder = decoder.model_copy(
            update={"max_new_tokens": DecoderOptions.model_fields["max_new_tokens"].default}
        )
        key = (name, used, json.dumps(same, sort_keys=True, default=str))
        return Decoding(model, chosen, decoder, key), length


def _refuse_unknown(sampler: str, asked: Mapping[str, Any]) -> None:
    own = installed_plugins().samplers.get(sampler).options.model_fields
    for name in asked:
        if name not in DecoderOptions.model_fields and name not in own:
            hint = did_you_mean(name, sorted({*_API_FIELDS, *DecoderOptions.model_fields, *own}))
            raise UserError(
                f"neither the API, the decoder nor sampler {sampler!r} has a field {name[:200]!r}: {hint}"
            )


def _refuse_endless(decoding: Decoding, asked: Mapping[str, Any]) -> None:
    """No count of positions, passes or tokens has a use beyond the model's own, and memory may not do.

    Raises:
        UserError: an option of the request is larger.
    """
    sampler = decoding.key[1]
    fields = {
        **DecoderOptions.model_fields,
        **installed_plugins().samplers.get(sampler).options.model_fields,
    }
    lm = decoding.model.lm
    most = max(lm.context_length, lm.vocab_size)
    for name, value in asked.items():
        annotation = fields[name].annotation
        if isinstance(value, int) and abs(value) > most and float not in (annotation, *get_args(annotation)):
            raise UserError(f"{name} is {value}, and this server takes up to {most} with this model")


def _properties(model: type[Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON schema of each option."""
    found: dict[str, Any] = model.model_json_schema()["properties"]
    return {name: schema for name, schema in found.items() if name not in without}
