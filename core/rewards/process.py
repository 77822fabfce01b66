"""What `RewardWorker` starts: python -m opendllm.core.rewards.process.

Reads a line of JSON with the rewards and their context, then one for each batch of answers; writes lines that
say which reward is at work, and at last the values or what went wrong. Ends when its input does, even in
the middle of a reward.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from queue import SimpleQueue
from typing import IO, Any

from opendllm.core.rewards.messages import read_completions, read_context
from opendllm.core.rewards.weighing import values_of
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.rewards import Reward


def main() -> None:
    """Judge until there is nothing more."""
    questions, answers = _own_streams()
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(questions, lines), daemon=True).start()
    setting = json.loads(lines.get())
    context = read_context(setting)
    rewards: dict[str, Reward] = {}
    while True:
        question = json.loads(lines.get())
        try:
            completions = read_completions(question)
            values = {}
            for label in question["rewards"]:
                if label not in rewards:
                    _say(answers, {"building": label})
                    rewards[label] = _built(setting, label)
                _say(answers, {"judging": label})
                values[label] = values_of(rewards[label], completions, context)
            _say(answers, {"values": values})
        except UserError as error:
            _say(answers, {"error": str(error), "exit_code": error.exit_code})


def _built(setting: Mapping[str, Any], label: str) -> Reward:
    [chosen] = [each for each in setting["rewards"] if each["label"] == label]
    return installed_plugins().rewards.get(chosen["plugin"]).build(chosen["options"])


def _own_streams() -> tuple[IO[str], IO[str]]:
    """Standard input and output, which rewards don't get: what they print goes to standard error."""
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return questions, answers


def _read(questions: IO[str], lines: SimpleQueue[str]) -> None:
    for line in questions:
        lines.put(line)
    os._exit(0)


def _say(answers: IO[str], content: Mapping[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
