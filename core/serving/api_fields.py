"""The fields of a request: those of the API, those that can't be honoured, and the decoder's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from opendllm.core.foundation.option_errors import OptionError, option_errors
from opendllm.core.serving.api_errors import ApiError

_LABELS = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
"""Say who asks, and change nothing."""
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of the API that can't be honoured, with the values beside null that ask for nothing."""
_NOT_THE_DECODERS = _LABELS | _WITHOUT_EFFECT.keys()
MOST_STOPS, LONGEST_STOP, LONGEST_MESSAGE = 16, 1000, 300

FieldsT = TypeVar("FieldsT", bound="RequestFields")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class StreamOptions(_Strict):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class RequestFields(BaseModel):
    """What every request has; what isn't listed is the decoder's or the sampler's."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    sampler: str | None = None

    @property
    def decoder_options(self) -> dict[str, Any]:
        """The decoder's and the sampler's options, flat."""
        found = {
            name: value for name, value in (self.model_extra or {}).items() if name not in _NOT_THE_DECODERS
        }
        # OpenAI's clients may send null for what isn't set, and 1 for a top_p that filters nothing.
        return {
            name: value
            for name, value in found.items()
            if value is not None and not (name == "top_p" and value == 1)
        }

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which an answer ends."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def check(self) -> None:
        """What can't be honoured is refused.

        Raises:
            ApiError: it is asked for.
        """
        for name, harmless in _WITHOUT_EFFECT.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and not any(
                type(value) is type(each) and value == each for each in harmless
            ):
                raise ApiError(400, f"{name} can't be honoured here: leave it out", "unsupported", name)
        if len(self.stops) > MOST_STOPS or any(not 0 < len(stop) <= LONGEST_STOP for stop in self.stops):
            raise ApiError(
                400,
                f"stop is up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters each",
                param="stop",
            )


class StreamedFields(RequestFields):
    """What the requests of the API have."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check(self) -> None:
        """See `RequestFields.check`."""
        super().check()
        if self.stream_options is not None and not self.stream:
            raise ApiError(
                400, "stream_options has no effect without stream: leave it out", param="stream_options"
            )

    @property
    def streams_usage(self) -> bool:
        """Whether a last chunk counts the tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionFields(StreamedFields):
    """Of `/v1/completions`."""

    prompt: str | list[str] = Field(min_length=0)
    suffix: str | None = None
    echo: bool | None = None

    @property
    def prompts(self) -> list[str]:
        """Each of them."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None
    name: None = None
    # What an answer's message has besides, sent back as it came.
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"the {self.role} says nothing: content is null")
        return self

    @property
    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or ())

    @property
    def speaker(self) -> str:
        """As chat templates call it."""
        return "system" if self.role == "developer" else self.role


class ChatFields(StreamedFields):
    """Of `/v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    def check(self) -> None:
        """See `RequestFields.check`."""
        super().check()
        if self.max_completion_tokens is not None and self.max_tokens is not None:
            raise ApiError(
                400, "max_completion_tokens is max_tokens: give it once", param="max_completion_tokens"
            )


class DenoisingFields(RequestFields):
    """Of the page, which shows every canvas."""

    prompt: str
    suffix: str | None = None


def _refusal(error: OptionError) -> ApiError:
    # Where a field takes a text or a list, pydantic names both.
    path = [str(part) for part in error.path if part != "str" and not str(part).startswith("list[")]
    message = error.message if len(path) == len(error.path) else "should be a text, or a list of texts"
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]}..."
    return ApiError(400, f"{'.'.join(path)}: {message}", param=path[0] if path else None)


def fields_of(body: bytes, model: type[FieldsT]) -> FieldsT:
    """The fields that a request's body holds.

    Raises:
        ApiError: it isn't JSON, a field has a wrong value, or can't be honoured.
    """
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ApiError(400, "the body is no JSON object")
    try:
        found = model.model_validate(content)
    except ValidationError as error:
        raise _refusal(next(option_errors(error, model))) from error
    found.check()
    return found
