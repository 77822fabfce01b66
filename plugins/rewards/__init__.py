"""Rewards: names, options and where each is implemented."""

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from opendllm.registries import Register, RewardOptions

HERE = "opendllm.plugins.rewards"

AnswerForm = Literal[
    "code-block",
    "think-answer",
    "think-answer-tags",
    "reasoning-answer",
    "reasoning-answer-one-line",
    "reasoning-answer-loose",
    "reasoning-answer-loose-one-line",
    "reasoning-answer-tags",
    "integer-answer",
    "boxed-answer",
]
"""The published forms of an answer; docs/extension-points/rewards.md says what each one is."""


class CodeOptions(RewardOptions):
    """Options of the reward for programs that pass tests."""

    executes_code: ClassVar[bool] = True
    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"program": "continuation"}]})

    program: Literal["block", "text", "continuation"] = Field(
        "block",
        description="What is run of an answer: its one Python block, and 0 unless it has the form that "
        "`format` asks for; its whole text; or the prompt, its text and what stands after the gap.",
    )
    seconds: float = Field(3.0, gt=0, description="That each test may take, the program's own run included.")
    memory_gib: float = Field(
        4.0, gt=0, description="Address space of a program, in GiB; one that needs more fails."
    )

    @property
    def chat_issue(self) -> str | None:
        """See `RewardOptions.chat_issue`."""
        if self.program != "continuation":
            return None
        return "a chat's answers continue no program: choose `program: block`"


class FormatOptions(RewardOptions):
    """Options of the reward for an answer's form."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{}, {"language": "javascript"}, {"form": "think-answer"}, {"form": "boxed-answer"}]
        }
    )

    form: AnswerForm = Field("code-block", description="The form that an answer should have.")
    language: str = Field(
        "python",
        pattern=r"^[^\s`]+$",
        description="Of a code block, as its fence says it; half of the reward where Python doesn't parse.",
    )

    @model_validator(mode="after")
    def _language_has_an_effect(self) -> "FormatOptions":
        if self.form != "code-block" and self.language != "python":
            raise ValueError(f"language has no effect with form {self.form}: leave one of them out")
        return self


class ExactMatchOptions(RewardOptions):
    """Options of the reward for an answer's text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"tag": "answer"}]})

    tag: str | None = Field(
        None,
        pattern=r"^[A-Za-z][\w-]*$",
        description="Only what stands in the last `<TAG>` is compared, where there is one: `answer`, say.",
    )


class MathOptions(RewardOptions):
    """Options of the reward for mathematical answers."""

    equal_numbers: bool = Field(
        False,
        description="Whether 0.50, .5 and \\frac12 are the same; as published, few such pairs are.",
    )


class LengthOptions(RewardOptions):
    """Options of the penalty on long answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"max_tokens": 64, "buffer": 16}]})

    max_tokens: int | None = Field(
        None, ge=1, description="Longer answers lose 1; by default as long as an answer may be at all."
    )
    buffer: int = Field(ge=1, description="The penalty rises from 0 to 1 within so many tokens before that.")


def register_all(register: Register) -> None:
    """Register every built-in reward."""
    register(
        "code",
        options=CodeOptions,
        target=f"{HERE}.code:CodeReward",
        summary="share of a problem's tests that the answer's program passes, each run in the sandbox",
    )
    register(
        "format",
        options=FormatOptions,
        target=f"{HERE}.format:FormatReward",
        summary="whether an answer is one block of code, has its tags, or boxes its result",
    )
    register(
        "exact-match",
        options=ExactMatchOptions,
        target=f"{HERE}.exact_match:ExactMatchReward",
        summary="whether an answer is the problem's own, but for white space around it",
    )
    register(
        "math",
        options=MathOptions,
        target=f"{HERE}.math:MathReward",
        summary="whether the boxed result is the problem's own, as the benchmark MATH compares them",
    )
    register(
        "length",
        options=LengthOptions,
        target=f"{HERE}.length:LengthReward",
        summary="soft penalty on answers that come near the longest length (DAPO)",
    )
