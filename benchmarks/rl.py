"""Where the time of learning from rewards goes: forward, backward, decoding around them, rewards, optimizer.

    python benchmarks/rl.py [--preset nano] [--answers 32] [--new 32] [--steps 16] [--phases 3]

A model of a size from scratch answers prompts, is rewarded for short answers, and takes coupled-GRPO's
steps. Each part is timed with the device waited for before and after it, which a run doesn't do: what
the host does beside the device counts here as if nothing were done meanwhile, so that the share of forward
and backward passes is a lower bound. The first phase, which loads kernels and captures graphs, isn't counted.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from opendllm.core.checkpoints.text_codec import codec_of
from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.core.decoding.graph_calls import GraphCalls
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.foundation.process_group import join_process_group
from opendllm.core.manifest.train_schema import Train
from opendllm.core.networks.canvas_reader import TransformersReader
from opendllm.core.networks.scoring_module import ScoringModule
from opendllm.core.networks.transformers_lm import TransformersLM
from opendllm.core.rewards.weighing import WeightedReward
from opendllm.core.training.reinforcement import judging, reward_training
from opendllm.core.training.reinforcement.answers import Writer
from opendllm.core.training.reinforcement.reward_training import RewardTraining
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.backbones import DiffusionLM, Vocabulary
from opendllm.registries.corpora import Document
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.gaps import Gap
from opendllm.registries.policies import PolicyObjective
from opendllm.registries.problems import Problem
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.rewards import RewardContext

PASSES = ("answers: forward", "likelihoods: forward", "update: forward", "update: backward")
"""What the model itself does."""
PROMPT = "def function_{number}(value):\n    return "


class Clock:
    """Seconds of named parts, one within another counted once, as the outer one's."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._busy = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self._busy:
            yield
            return
        self._busy, started = True, self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - started
            self._busy = False

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def around(self, owner: Any, name: str, part: Callable[..., str]) -> Any:
        """A patch of a method; `part` gives its name from the call's arguments."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(part(*arguments)):
                return original(*arguments, **options)

        return patch.object(owner, name, timed)


def measured(run: TrainingRun, device: torch.device) -> tuple[dict[str, float], float, list[dict[str, Any]]]:
    """(seconds of each part, of all phases but the first; their seconds; train.jsonl)."""
    from deepspeed import DeepSpeedEngine

    clock = Clock(device)

    def after_step(step: int, *_: float, **__: float) -> None:
        if step == 1:
            clock.seconds.clear()

    def of_module(*_: Any) -> str:
        return "update: forward" if torch.is_grad_enabled() else "likelihoods: forward"

    def of_graph(_calls: GraphCalls, key: tuple[Any, ...], *_: Any) -> str:
        return "answers: forward" if key[0] == "read" else "answers: decisions in graphs"

    patches = [
        clock.around(TransformersReader, "states", lambda *_: "answers: forward"),
        clock.around(TransformersLM, "project", lambda *_: "answers: forward"),
        clock.around(GraphCalls, "__call__", of_graph),
        clock.around(ScoringModule, "forward", of_module),
        clock.around(DeepSpeedEngine, "backward", lambda *_: "update: backward"),
        clock.around(DeepSpeedEngine, "step", lambda *_: "optimizer"),
        clock.around(judging.PendingRewards, "collect", lambda *_: "waiting for rewards"),
        clock.around(reward_training, "rollouts_of", lambda *_: "answers as tensors"),
    ]
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        train(TrainingRun(**{**vars(run), "on_step": after_step}))
    lines = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
    return clock.seconds, sum(line["seconds"] for line in lines[2:]), lines


def built(arguments: argparse.Namespace, folder: Path) -> TrainingRun:
    """A run of so many phases."""
    device = torch.device(arguments.device)
    plugins = installed_plugins()
    tokenizer = train_tokenizer([Document("", PROMPT)], 258)
    vocabulary = Vocabulary(arguments.vocabulary, tokenizer.mask_token_id, tokenizer.eos_token_id)
    torch.manual_seed(0)
    with device:
        lm: DiffusionLM = (
            plugins.backbones.get(arguments.backbone).build({"preset": arguments.preset}).build(vocabulary)
        )
    lm.ids_without_token = tuple(range(len(tokenizer), arguments.vocabulary))
    registration = plugins.rewards.get("length")
    reward: Any = ChosenPlugin(
        registration, registration.options.model_validate({"buffer": arguments.new - 1})
    )
    settings = Train.model_validate(
        {
            "objective": {"name": "coupled-grpo"},
            "steps": arguments.phases,
            "global_batch_size": arguments.answers,
            "micro_batch_size": arguments.micro_batch,
            "precision": arguments.precision,
            "learning_rate": 1e-6,
            "rl": {
                "problems": {"path": "made here"},
                "rewards": [{"reward": {"name": "length"}}],
                "group_size": 8,
            },
        }
    )
    options = DecoderOptions(
        max_new_tokens=arguments.new,
        steps=arguments.steps,
        temperature=1.0,
        compile=arguments.compile or False,
    )
    codec = codec_of(tokenizer, [lm.mask_token_id, *lm.stops])
    sampler = plugins.samplers.get("low-confidence").build()
    problems = [Problem(str(number), Gap(PROMPT.format(number=number))) for number in range(256)]
    objective = plugins.objectives.get("coupled-grpo").build()
    assert isinstance(objective, PolicyObjective)
    assert settings.rl is not None
    method = RewardTraining(
        settings=settings.rl,
        objective=objective,
        needs_reference=True,
        writer=Writer(lm, tokenizer, codec, sampler, options, False, arguments.answers),
        problems=problems,
        held_out=(),
        rewards=[WeightedReward(reward)],
        context=RewardContext(None, arguments.new),
    )
    return TrainingRun(
        settings=settings,
        seed=0,
        lm=lm,
        tokenizer=tokenizer,
        method=method,
        folder=folder,
        provenance={},
        on_step=lambda *_, **__: None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="open-dcoder")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--answers", type=int, default=32)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--phases", type=int, default=3)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--compile", choices=("graphs",))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        join_process_group(device)
        seconds, total, lines = measured(built(arguments, Path(folder)), device)
    for name, spent in sorted(seconds.items(), key=lambda each: -each[1]):
        print(f"{name:30} {spent:8.2f} s {spent / total:6.1%}")
    rest = total - sum(seconds.values())
    print(f"{'everything else':30} {rest:8.2f} s {rest / total:6.1%}")
    passes = sum(seconds[name] for name in PASSES)
    print(f"forward and backward passes: {passes / total:.1%} of {total:.2f} s in {len(lines) - 2} phases")


if __name__ == "__main__":
    main()
