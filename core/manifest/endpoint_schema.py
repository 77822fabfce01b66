"""The `model` section that names a server: any that speaks OpenAI's completions API."""

from __future__ import annotations

import json
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from opendllm.core.manifest.section import Section

SET_BY_OTHERS = {
    "model": "model",
    "max_tokens": "generate.max_new_tokens",
    "max_completion_tokens": "generate.max_new_tokens",
    "temperature": "generate.temperature",
    "top_p": "generate.top_p",
    "seed": "seed",
    "n": "evaluate.samples_per_task",
    "prompt": "the benchmark",
    "suffix": "the benchmark",
    "messages": "the benchmark",
    "stop": "the benchmark",
    "stream": "the evaluation",
    "stream_options": "the evaluation",
    "echo": "the evaluation",
    "best_of": "the evaluation",
}
"""Fields of a request that `extra_body` can't have, and what says them."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")

FAULTS = ("connection", "timeout", "malformed")
"""Tries without an answer: the server can't be reached or drops the connection; it takes too long; what it
says is none."""


class Retries(Section):
    """Which failed requests are sent again, and when."""

    attempts: int = Field(8, ge=1, description="Tries of one request in all.")
    after: tuple[str | int, ...] = Field(
        ("connection", "timeout", "malformed", 408, 409, 425, 429, 500, 502, 503, 504, 529),
        description="HTTP statuses, and `connection` (refused or dropped), `timeout` and `malformed` (an "
        "answer that is none); after anything else the run ends at once.",
    )
    first_delay: float = Field(
        1.0,
        ge=0,
        description="Seconds before the second try; doubled for each further one, and shortened at random.",
    )
    longest_delay: float = Field(
        60.0,
        ge=0,
        description="Most seconds between two tries; a server's Retry-After that is longer ends the run.",
    )

    @field_validator("after")
    @classmethod
    def _failures(cls, value: tuple[str | int, ...]) -> tuple[str | int, ...]:
        for each in value:
            if not (400 <= each <= 599 if isinstance(each, int) else each in FAULTS):
                raise ValueError(f"{each!r} is none of {', '.join(FAULTS)}, nor a status from 400 to 599")
        return value


class Endpoint(Section):
    """A model that a server runs, in place of a backbone: its texts are known, and nothing of its weights."""

    endpoint: str = Field(
        description="URL of the API, as in `http://localhost:8000/v1`; where it has no path, /v1 is added."
    )
    model: str = Field(min_length=1, description="The model's name there.")
    api: Literal["completions", "chat"] = Field(
        "completions",
        description="What prompts go to: `completions` as they are (and, with `generate: {chat: true}`, chat "
        "completions), or `chat` for a server that knows nothing else.",
    )
    length_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens",
        description="What chat completions call the number of tokens to write; some servers take only "
        "`max_completion_tokens`.",
    )
    token_env: str | None = Field(
        None,
        description="The environment variable that holds the server's token; the token is written nowhere.",
    )
    timeout: float = Field(
        600.0, gt=0, description="Seconds that a request may take, to its answer's last byte."
    )
    concurrency: int = Field(8, ge=1, le=1024, description="Requests at once; changes no result.")
    retries: Retries = Retries()
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Further fields of each request, as the server knows them: `{top_k: 20, steps: 64}`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_backbone(cls, data: Any) -> Any:
        local = next(
            (key for key in ("backbone", "add_bos_token") if isinstance(data, dict) and key in data), None
        )
        if local is not None:
            raise ValueError(
                f"has no `{local}` beside an `endpoint`: in a variant, `{local}: null` removes it"
            )
        return data

    # Of the whole section: what a single key's validator refuses is shown, and these may hold a secret.
    @model_validator(mode="after")
    def _nothing_secret(self) -> Endpoint:
        why = _why_no_url(self.endpoint)
        if why is not None:
            raise ValueError(f"endpoint: {why}")
        if self.token_env is not None and not _VARIABLE.fullmatch(self.token_env):
            raise ValueError(
                "token_env: name an environment variable in capitals, such as OPENAI_API_KEY; the token "
                "itself has no place in a manifest"
            )
        for key in self.extra_body:
            if key in SET_BY_OTHERS:
                raise ValueError(f"extra_body: {key} is said by {SET_BY_OTHERS[key]}")
        try:
            json.dumps(self.extra_body, allow_nan=False)
        except ValueError:
            raise ValueError("extra_body: holds a number that JSON doesn't know") from None
        return self

    @property
    def base_url(self) -> str:
        """Of the API, without a slash at its end."""
        bare = urlsplit(self.endpoint).geturl().rstrip("/")
        return bare if urlsplit(bare).path else f"{bare}/v1"

    @property
    def called(self) -> str:
        """Model and server, for people."""
        return f"{self.model} at {self.base_url}"


def _why_no_url(url: str) -> str | None:
    """Why an endpoint's URL can't be one; it isn't repeated, since it may hold a password."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises where it is no number)
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "should begin with http:// or https:// and a host"
    if parts.username is not None or parts.password is not None:
        return "has a name or password in it, which would stand in every result: use token_env"
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return (
            "has a `?` or `#`, which would stand in every result: leave it out, and use token_env for a token"
        )
    if any(character.isspace() or not character.isprintable() for character in url):
        return "has a space or an unprintable character in it"
    return None
