"""Where the time of learning from rewards goes: forward, backward, decoding around them, rewards, optimizer.

    python benchmarks/rl.py [--preset nano] [--answers 32] [--new 32] [--steps 16] [--iterations 1]

A model of a size from scratch answers prompts, is rewarded for short answers, and takes coupled-GRPO's
steps. First some phases run as they are. In as many others each part is timed by itself, with the device
waited for before and after it: what the host does beside the device counts there as if nothing were done
meanwhile, so that the share of forward and backward passes is a lower bound; of a phase as it is it may be
as large as the second one printed. The first phase of both, which loads kernels and captures graphs, isn't
counted.
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
from opendllm.core.decoding import proposer
from opendllm.core.decoding.graph_calls import GraphCalls
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.foundation.process_group import join_process_group
from opendllm.core.manifest.train_schema import Train
from opendllm.core.networks.scoring_module import ScoringModule
from opendllm.core.rewards.weighing import WeightedReward
from opendllm.core.training.reinforcement import new_phase
from opendllm.core.training.reinforcement.answers import Writer
from opendllm.core.training.reinforcement.judging import Judge, PendingRewards
from opendllm.core.training.reinforcement.new_phase import PhaseMaker
from opendllm.core.training.reinforcement.readings import PhaseReader
from opendllm.core.training.reinforcement.reference import FrozenCopy
from opendllm.core.training.reinforcement.reward_training import RewardTraining, _RewardSteps
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.backbones import CanvasReader, DiffusionLM, Vocabulary
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
    """Seconds of named parts; those of a part within another count as its own, not as the outer one's."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def timed(self, call: Callable[..., Any], part: Callable[..., str]) -> Callable[..., Any]:
        """The same call; `part` gives its name from the arguments."""

        @functools.wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(part(*arguments)):
                return call(*arguments, **options)

        return timed

    def around(self, owner: Any, name: str, part: Callable[..., str]) -> Any:
        """A patch of a function or method; see `timed`."""
        return patch.object(owner, name, self.timed(getattr(owner, name), part))


def counted_seconds(run: TrainingRun, **changed: Any) -> tuple[float, list[dict[str, Any]]]:
    """(seconds of all phases but the first, their lines of train.jsonl)."""
    train(TrainingRun(**{**vars(run), **changed}))
    lines = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
    first = next(line["step"] for line in lines if line.get("phase") == 2)
    lines = [line for line in lines if line["step"] >= first]
    return sum(line["seconds"] for line in lines), lines


def measured(run: TrainingRun, device: torch.device) -> tuple[dict[str, float], float]:
    """(seconds of each part, of all phases but the first; their seconds)."""
    from deepspeed import DeepSpeedEngine

    clock = Clock(device)
    assert run.settings.rl is not None
    first = run.settings.rl.iterations

    def after_step(step: int, *_: float, **__: float) -> None:
        if step == first:
            clock.seconds.clear()

    def of_module(*_: Any) -> str:
        return "update: forward" if torch.is_grad_enabled() else "likelihoods: forward"

    def of_graph(_calls: GraphCalls, key: tuple[Any, ...], *_: Any) -> str:
        return "answers: forward" if key[0] == "read" else "answers: decisions in graphs"

    reader = type(run.lm).reader

    def timed_reader(*arguments: Any, **options: Any) -> CanvasReader:
        found = reader(*arguments, **options)
        timed = clock.timed(found.states, lambda *_: "answers: forward")
        object.__setattr__(found, "states", timed)
        return found

    patches = [
        clock.around(Judge, "pending", lambda *_: "answers: the rest of decoding, texts"),
        patch.object(_RewardSteps, "spot_check", lambda *_: None),  # of the last checkpoint, not of a phase
        patch.object(type(run.lm), "reader", timed_reader),
        clock.around(type(run.lm), "project", lambda *_: "answers: forward"),
        clock.around(proposer, "propose", lambda *_: "answers: tokens drawn"),
        clock.around(GraphCalls, "__call__", of_graph),
        clock.around(PhaseMaker, "_with_likelihoods", lambda *_: "likelihoods: the rest"),
        clock.around(PhaseReader, "micro_batches", lambda *_: "masks"),
        clock.around(FrozenCopy, "_exchange", lambda *_: "reference: changes places"),
        clock.around(ScoringModule, "forward", of_module),
        clock.around(DeepSpeedEngine, "backward", lambda *_: "update: backward"),
        clock.around(DeepSpeedEngine, "step", lambda *_: "optimizer"),
        clock.around(PendingRewards, "collect", lambda *_: "waiting for rewards"),
        clock.around(new_phase, "rollouts_of", lambda *_: "answers as tensors"),
    ]
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        total, _ = counted_seconds(run, on_step=after_step)
    return clock.seconds, total


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
    padding = arguments.vocabulary // 512  # rows without a token, as published vocabularies have
    lm.ids_without_token = tuple(range(arguments.vocabulary - padding, arguments.vocabulary))
    registration = plugins.rewards.get("length")
    reward: Any = ChosenPlugin(
        registration, registration.options.model_validate({"buffer": arguments.new - 1})
    )
    settings = Train.model_validate(
        {
            "objective": {"name": "coupled-grpo"},
            "steps": arguments.phases * arguments.iterations,
            "global_batch_size": arguments.answers,
            "micro_batch_size": arguments.micro_batch,
            "precision": arguments.precision,
            "learning_rate": 1e-6,
            "rl": {
                "problems": {"path": "made here"},
                "rewards": [{"reward": {"name": "length"}}],
                "group_size": 8,
                "iterations": arguments.iterations,
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
        rewards=[WeightedReward(reward, "length")],
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
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--compile", choices=("graphs",))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    join_process_group(device)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        run = built(arguments, Path(folder))
        as_it_is, lines = counted_seconds(run)
        keys = ("rollout_seconds", "likelihood_seconds", "reward_seconds", "update_seconds")
        stages = {key: sum(line.get(key, 0.0) for line in lines) for key in keys}
        seconds, total = measured(TrainingRun(**{**vars(run), "folder": Path(other)}), device)
    for key, spent in stages.items():
        print(f"as it is: {key:42} {spent:8.2f} s {spent / as_it_is:6.1%}")
    for name, spent in sorted(seconds.items(), key=lambda each: -each[1]):
        print(f"{name:52} {spent:8.2f} s {spent / total:6.1%}")
    rest = total - sum(seconds.values())
    print(f"{'everything else':52} {rest:8.2f} s {rest / total:6.1%}")
    passes = sum(seconds[name] for name in PASSES)
    print(
        f"forward and backward passes: {passes / total:.1%} of {total:.2f} s in {arguments.phases - 1} "
        f"phases, each part waited for; the same seconds are {passes / as_it_is:.1%} of the "
        f"{as_it_is:.2f} s that as many take as they are"
    )


if __name__ == "__main__":
    main()
