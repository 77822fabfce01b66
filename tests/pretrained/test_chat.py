"""Instruct checkpoints: their chat template, where it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core import load
from opendllm.core.checkpoints.text_codec import codec_of
from opendllm.core.cli.main import main
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.evaluation.answering import Asked, Replica
from opendllm.core.evaluation.answers import AnswerFile
from opendllm.core.evaluation.evaluator import evaluate
from opendllm.core.foundation.sample_records import SampleRecord
from opendllm.core.language_model import LanguageModel
from opendllm.registries.benchmarks import (
    Benchmark,
    BenchmarkContext,
    GenerationRequest,
    LikelihoodRequest,
    Scores,
)
from opendllm.registries.corpora import Message
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap

from .conftest import edit_config

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</{{ message.role }}>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
PROMPT = "def f(a):"
FRAMED = f"<user>{PROMPT}</user><assistant>"
OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "steps": 6}


@pytest.fixture
def folder(autoregressive: Path) -> Path:
    edit_config(autoregressive, mask_token_id=5, open_dllm={"backbone": "causal-lm"})
    return autoregressive


@pytest.fixture
def instruct(folder: Path) -> Path:
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def test_generate_frames_the_prompt(instruct: Path) -> None:
    model = load(instruct, device="cpu")
    framed = model.generate([PROMPT, "a"], chat=True, **OPTIONS)
    assert framed == model.generate([FRAMED, "<user>a</user><assistant>"], **OPTIONS)
    assert framed != model.generate([PROMPT, "a"], **OPTIONS)


def test_a_template_inside_tokenizer_config_counts_too(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE}))
    model = load(folder, device="cpu")
    assert model.generate([PROMPT], chat=True, **OPTIONS) == model.generate([FRAMED], **OPTIONS)


def test_without_a_template_it_says_so(folder: Path) -> None:
    with pytest.raises(UserError, match="no chat template: leave `chat` out, write one"):
        load(folder, device="cpu").generate([PROMPT], chat=True, **OPTIONS)


@pytest.mark.parametrize("template", ["{{ raise_exception('roles must alternate') }}", "{% if %}"])
def test_a_template_that_refuses_is_one_line(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match="chat template") as caught:
        load(folder, device="cpu").generate([PROMPT], chat=True, **OPTIONS)
    assert "\n" not in str(caught.value)


class TwoRequests(Benchmark):
    """A completion and an infilling of the same prompt."""

    headline = ()

    def requests(self, context: BenchmarkContext) -> list[GenerationRequest]:
        return [
            GenerationRequest(task_id="completion", gap=Gap(PROMPT)),
            GenerationRequest(task_id="infilling", gap=Gap(PROMPT, "\n")),
        ]

    def score(self, answers: Any) -> Scores:
        return Scores({}, {})


class Turns(TwoRequests):
    """A prompt and a likelihood after turns of the benchmark's own, where there is chat."""

    def requests(self, context: BenchmarkContext) -> list[Any]:
        turns = [Message("system", "Be brief."), Message("user", PROMPT), Message("assistant", "    ret")]
        chat = context.chat
        given = PROMPT if chat is None else chat(turns[:2])
        begun = PROMPT if chat is None else chat(turns, prefilled=True)
        return [
            GenerationRequest("waits", Gap(given, templated=chat is not None)),
            GenerationRequest("begun", Gap(begun, templated=chat is not None)),
            LikelihoodRequest("likely", " a", context=given, templated=chat is not None),
        ]


class AsItStands(TwoRequests):
    """The likelihood of a text that nobody says in a chat."""

    def requests(self, context: BenchmarkContext) -> list[Any]:
        return [LikelihoodRequest("text", "def f(a):\n    return a\n")]


def answers(
    model: LanguageModel, path: Path, chat: bool, benchmark: Benchmark | None = None
) -> dict[str, SampleRecord]:
    assert model.tokenizer is not None
    sampler = installed_plugins().samplers.get("entropy").build()
    asked = Asked(
        replicas=[
            Replica(model.lm, model.tokenizer, codec_of(model.tokenizer, [model.lm.mask_token_id]), sampler)
        ],
        options=DecoderOptions(**OPTIONS),
        chat=chat,
        samples_per_task=1,
        batch_size=2,
        likelihood_estimator="llada",
        likelihood_draws=1,
        seed=0,
    )
    kept = AnswerFile(path, "digest")
    context = BenchmarkContext(None, 0, 64, lambda: iter(()))
    evaluate(asked, benchmark or TwoRequests(), context, kept, lambda *_: None)
    return {key[0]: record for key, record in kept.records.items()}


def test_benchmarks_frame_completions_and_never_infilling(instruct: Path, tmp_path: Path) -> None:
    model = load(instruct, device="cpu")
    plain = answers(model, tmp_path / "plain.jsonl", chat=False)
    framed = answers(model, tmp_path / "framed.jsonl", chat=True)
    assert framed["completion"].text == model.generate([PROMPT], chat=True, **OPTIONS)[0]
    assert plain["completion"].text == model.generate([PROMPT], **OPTIONS)[0]
    assert framed["completion"].text != plain["completion"].text
    assert framed["infilling"].text == plain["infilling"].text
    assert framed["completion"].prefix == PROMPT  # what is scored is the benchmark's own prompt


def test_a_benchmarks_own_turns_are_put_once_into_the_template(instruct: Path, tmp_path: Path) -> None:
    model = load(instruct, device="cpu")
    framed = answers(model, tmp_path / "framed.jsonl", True, Turns())
    waits = f"<system>Be brief.</system><user>{PROMPT}</user><assistant>"
    assert framed["waits"].answer.text == model.generate([waits], **OPTIONS)[0]
    assert framed["begun"].answer.text == model.generate([f"{waits}    ret"], **OPTIONS)[0]
    plain = answers(model, tmp_path / "plain.jsonl", False, Turns())
    assert plain["waits"].answer.text == model.generate([PROMPT], **OPTIONS)[0]
    assert framed["likely"].answer.log_likelihood != plain["likely"].answer.log_likelihood


def test_chat_is_refused_where_a_likelihood_knows_none(instruct: Path, tmp_path: Path) -> None:
    model = load(instruct, device="cpu")
    with pytest.raises(
        UserError, match=r"chat has no effect on the likelihood of a text .*\(text\)"
    ) as caught:
        answers(model, tmp_path / "s.jsonl", True, AsItStands())
    assert "\n" not in str(caught.value)
    assert answers(model, tmp_path / "t.jsonl", False, AsItStands())["text"].answer.tokens > 1


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        options = ("--device", "cpu", "-o", "max_new_tokens=6", "-o", "steps=6")
        monkeypatch.setattr("sys.argv", ["platform", "generate", *map(str, arguments), *options])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def test_the_command_line_frames_it(instruct: Path, generate: Callable[..., Any]) -> None:
    code, output, _ = generate("--checkpoint", instruct, "--prompt", PROMPT, "--chat", "--json")
    assert code == 0
    expected = load(instruct, device="cpu").generate([PROMPT], chat=True, **OPTIONS)[0]
    line = json.loads(output)
    assert {key: line[key] for key in ("prompt", "suffix", "text")} == {
        "prompt": PROMPT,
        "suffix": None,
        "text": expected,
    }


def test_chat_and_suffix_exclude_each_other(instruct: Path, generate: Callable[..., Any]) -> None:
    code, output, errors = generate("--checkpoint", instruct, "--prompt", "a", "--suffix", "b", "--chat")
    assert (code, output) == (2, "")
    assert errors == "error: --chat has no effect with a suffix: infilling has no chat template\n"


def test_the_command_line_without_a_template(folder: Path, generate: Callable[..., Any]) -> None:
    code, _, errors = generate("--checkpoint", folder, "--prompt", "a", "--chat")
    assert code == 2
    assert "no chat template" in errors
