"""What tasks of lm-eval ask is what lm-eval asks, string by string, in chat and out of it."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerFast

from opendllm.core.checkpoints.text_codec import codec_of
from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.core.decoding.chat import chat_template_of
from opendllm.plugins.benchmarks import LmEvalOptions
from opendllm.plugins.benchmarks.lm_eval_task import NO_SYSTEM_NOTE, LmEvalTask
from opendllm.registries.benchmarks import (
    BenchmarkContext,
    GeneratedText,
    GenerationRequest,
    LikelihoodRequest,
    Request,
)
from opendllm.registries.corpora import Document

COMMON = """
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl, train: train.jsonl}}
test_split: test
fewshot_split: train
"""
FEW_SHOT = 'num_fewshot: 2\ndescription: "Answer the sums.\\n\\n"\n'
TASKS = {
    "choice": 'output_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{label}}"\n'
    'doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}, {metric: acc_mutual_info}]\n' + FEW_SHOT,
    "prefilled_choice": 'output_type: multiple_choice\ndoc_to_text: "{{question}}"\n'
    'doc_to_target: "{{label}}"\ndoc_to_choice: "{{choices}}"\ngen_prefix: "The answer is"\n'
    "metric_list: [{metric: acc}]\n" + FEW_SHOT,
    "which_context": 'output_type: multiple_choice\ndoc_to_text: "{{label}}"\ndoc_to_target: " it is."\n'
    'doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}]\ndescription: "Choose."\n',
    "last_word": 'output_type: loglikelihood\ndoc_to_text: "{{question}}"\ndoc_to_target: " {{answer}}"\n'
    "metric_list: [{metric: acc}]\n" + FEW_SHOT,
    "whole": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{question}}"\n'
    "metric_list: [{metric: word_perplexity}]\n",
    "written": 'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
    'generation_kwargs: {until: ["\\n", "", "Q:"]}\nrepeats: 2\n'
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    "filter_list:\n  - {name: first, filter: [{function: take_first}]}\n"
    '  - {name: digits, filter: [{function: regex, regex_pattern: "([0-9]+)"}, {function: take_first}]}\n'
    + FEW_SHOT,
    "prefilled": 'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
    'gen_prefix: "It is {{answer}}, since"\ngeneration_kwargs: {until: []}\n'
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    'num_fewshot: 1\ndescription: "Task {{label}}."\n',
}
GROUP = "group: several\ntask: [choice, last_word, written]\naggregate_metric_list: [{metric: acc}]\n"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
STERN = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE


class RecordingLM(LM):
    """Answers nothing of worth and keeps what it was asked; its chat is HFLM's."""

    tokenizer_name = "own"

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.asked: list[tuple[str, ...]] = []

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        def applied(history: list[dict[str, str]]) -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        try:
            return applied(chat_history)
        except jinja2.exceptions.TemplateError:
            return applied([turn for turn in chat_history if turn["role"] != "system"])

    def chat_template(self, chat_template: bool | str = False) -> str:
        return str(self.tokenizer.chat_template)

    def _keep(self, requests: Sequence[Any]) -> Sequence[Any]:
        self.asked += [
            tuple(argument for argument in request.args if isinstance(argument, str)) for request in requests
        ]
        return requests

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(-1.0, False) for _ in self._keep(requests)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [-1.0 for _ in self._keep(requests)]

    def generate_until(self, requests: list[Any]) -> list[str]:
        return ["4" for _ in self._keep(requests)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for split, first in (("docs", 0), ("train", 40)):
        rows = [
            {
                "question": f"Q: what is {n} and 1?",
                "answer": str(n + 1),
                "label": n % 2,
                "choices": [f"{n}", f"certainly {n + 1}"],
            }
            for n in range(first, first + 7)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{text}{COMMON}")
    (folder / "several.yaml").write_text(GROUP)
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # asks pip, for a second


@functools.cache
def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer([Document("a", "what is 1 and 2? " * 9)], 270)
    tokenizer.chat_template = template
    tokenizer.bos_token = "<|bos|>"
    return tokenizer


def asked_by_lm_eval(task: str, template: str | None, **options: Any) -> list[tuple[str, ...]]:
    lm = RecordingLM(tokenizer_with(template or TEMPLATE))
    manager = TaskManager(include_path=".", include_defaults=False)
    simple_evaluate(
        lm,
        tasks=[task],
        task_manager=manager,
        bootstrap_iters=0,
        apply_chat_template=template is not None,
        **options,
    )
    return sorted(lm.asked)


def asked_here(
    task: str, template: str | None, limit: int | None = None, **options: Any
) -> tuple[LmEvalTask, Sequence[Request]]:
    tokenizer = tokenizer_with(template or TEMPLATE)
    chat = None if template is None else chat_template_of(tokenizer, codec_of(tokenizer))
    benchmark = LmEvalTask(LmEvalOptions(task=task, folder=".", **options))
    return benchmark, benchmark.requests(BenchmarkContext(limit, 0, 64, lambda: iter(()), chat=chat))


def strings(requests: Sequence[Request]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for request in requests:
        if isinstance(request, GenerationRequest):
            found.append((request.gap.prefix,))
        elif request.task_id.startswith("whole/"):
            assert request.context == ""
            found.append((request.text,))
        else:
            assert request.context is not None
            found.append((request.context, request.text))
    return sorted(found)


BRIEF = {"num_fewshot": 3, "system_instruction": "Be brief."}


@pytest.mark.parametrize(
    ("template", "options"),
    [(None, {}), (None, BRIEF), (TEMPLATE, {}), (TEMPLATE, BRIEF), (STERN, BRIEF)],
    ids=["plain", "plain-brief", "chat", "chat-brief", "no-system"],
)
@pytest.mark.parametrize("task", [*TASKS, "several"])
def test_every_string_is_the_one_that_lm_eval_asks(
    task: str, template: str | None, options: dict[str, Any]
) -> None:
    wanted = asked_by_lm_eval(task, template, **options)
    _, requests = asked_here(task, template, **options)
    assert strings(requests) == wanted
    assert len(wanted) >= 7


def test_chat_prompts_have_the_turns_that_the_task_describes() -> None:
    _, requests = asked_here("written", TEMPLATE, limit=1, system_instruction="Be brief.")
    request = requests[0]
    assert isinstance(request, GenerationRequest)
    before, *turns = request.gap.prefix.split("<user>")
    assert before == "<|bos|><system>Be brief.\n\nAnswer the sums.\n\n</system>\n"
    assert [turn.count("<assistant>") for turn in turns] == [1, 1, 1]
    assert turns[-1] == "Q: what is 0 and 1?</user>\n<assistant>"
    assert turns[0].endswith("</assistant>\n")
    assert request.stop == ("\n", "Q:")
    _, prefilled = asked_here("prefilled", TEMPLATE, limit=1)
    assert isinstance(prefilled[0], GenerationRequest)
    assert prefilled[0].gap.prefix.endswith("<user>Q: what is 0 and 1?</user>\n<assistant>It is 1, since")


def test_examples_in_one_turn_are_those_of_lm_eval_too() -> None:
    for task in ("choice", "written", "prefilled"):
        wanted = asked_by_lm_eval(task, TEMPLATE, fewshot_as_multiturn=False)
        _, requests = asked_here(task, TEMPLATE, fewshot_as_multiturn=False)
        assert strings(requests) == wanted
        assert all(string[0].count("<user>") <= 1 for string in wanted)


def test_only_what_went_through_the_template_says_so() -> None:
    for task in TASKS:
        for template in (None, TEMPLATE):
            _, requests = asked_here(task, template)
            in_chat = template is not None and task != "whole"
            told = {getattr(request, "gap", request).templated for request in requests}
            assert told == {in_chat}


def test_a_template_without_a_system_turn_is_noted() -> None:
    for template, noted in ((TEMPLATE, False), (STERN, True)):
        benchmark, requests = asked_here("written", template)
        answers = [
            GeneratedText(request.task_id, request.setting, 0, "4")
            for request in requests
            if not isinstance(request, LikelihoodRequest)
        ]
        assert (NO_SYSTEM_NOTE in benchmark.score(answers).notes) == noted
