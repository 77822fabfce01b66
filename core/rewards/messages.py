"""Problems, answers and rewards as JSON, for the process that judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from opendllm.core.foundation.cores import usable_cores
from opendllm.core.foundation.ranks import local_world_size
from opendllm.core.rewards.weighing import WeightedReward
from opendllm.registries.benchmarks import CodeExecution
from opendllm.registries.corpora import Message
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import RewardContext


def written_setting(rewards: Sequence[WeightedReward], context: RewardContext) -> dict[str, Any]:
    """What the process has to know before the first answers.

    Where nobody says how many programs run at once, the run's processes on this machine share its cores: more
    would take each other's time, and a right program's tests might run out of theirs.
    """
    execution = context.code_execution
    return {
        "rewards": [
            {
                "label": each.label,
                "plugin": each.plugin.registration.qualified_name,
                "options": each.plugin.options.model_dump(mode="json", exclude_unset=True),
            }
            for each in rewards
        ],
        "code_execution": execution
        and {
            "level": execution.level,
            "workers": execution.workers or max(1, usable_cores() // local_world_size()),
        },
        "max_new_tokens": context.max_new_tokens,
        "seed": context.seed,
    }


def read_context(setting: Mapping[str, Any]) -> RewardContext:
    """The context of a setting."""
    execution = setting["code_execution"]
    return RewardContext(execution and CodeExecution(**execution), setting["max_new_tokens"], setting["seed"])


def written_completions(completions: Sequence[Completion]) -> dict[str, Any]:
    """Answers, each problem once."""
    problems: list[Problem] = []
    numbers: dict[int, int] = {}
    answers = []
    for each in completions:
        if id(each.problem) not in numbers:
            numbers[id(each.problem)] = len(problems)
            problems.append(each.problem)
        answers.append([numbers[id(each.problem)], each.sample, each.text, list(each.tokens), each.ended])
    return {"problems": [asdict(problem) for problem in problems], "answers": answers}


def read_completions(written: Mapping[str, Any]) -> list[Completion]:
    """The same back."""
    problems = [
        Problem(
            task_id=each["task_id"],
            gap=Gap(**each["gap"]),
            messages=tuple(
                Message(turn["role"], turn["content"], tuple(turn["tool_calls"])) for turn in each["messages"]
            ),
            answer=each["answer"],
            tests=tuple(each["tests"]),
            setup=each["setup"],
        )
        for each in written["problems"]
    ]
    return [
        Completion(problems[number], sample, text, tuple(tokens), ended)
        for number, sample, text, tokens, ended in written["answers"]
    ]
