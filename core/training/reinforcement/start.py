"""From a manifest's `train.rl` section to what is learnt: problems read and looked at, the writer built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opendllm.core.checkpoints.text_codec import codec_of
from opendllm.core.data.sources import held_out_documents
from opendllm.core.decoding.decoder import check_options
from opendllm.core.manifest.checks import decoder_options
from opendllm.core.manifest.experiment_manifest import Variant, digest
from opendllm.core.manifest.reward_schema import Problems
from opendllm.core.rewards.problem_sources import benchmark_problems, read_problem_file
from opendllm.core.rewards.tested_problems import prompt_digest, refuse_test_problems
from opendllm.core.rewards.weighing import check_problems
from opendllm.core.training.reinforcement.answers import Writer
from opendllm.core.training.reinforcement.reward_training import RewardTraining
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.benchmarks import Benchmark, BenchmarkContext, CodeExecution
from opendllm.registries.corpora import Document
from opendllm.registries.errors import UserError
from opendllm.registries.options import PluginOptions, PolicyObjectiveOptions, only_asks_likelihoods
from opendllm.registries.policies import PolicyObjective
from opendllm.registries.problems import Problem
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.rewards import RewardContext

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNKNOWN_LENGTH = 1 << 20
"""Of the texts that the manifest's models read, where it has no data to say it."""


def run_problems(variant: Variant) -> tuple[list[Problem], list[Problem]]:
    """(what is learnt from, what is held out), none of which the model is tested with.

    Raises:
        UserError: a file can't be read, a benchmark has none, a reward can't judge answers to one, or one is
            held out, or tested, and trained on all the same.
    """
    manifest, plugins = variant.manifest, variant.plugins.rewards
    assert manifest.train is not None
    rl = manifest.train.rl
    assert rl is not None
    assert plugins is not None
    problems = _read(variant, rl.problems, plugins.problems, "train.rl.problems")
    held_out: list[Problem] = []
    if rl.held_out is not None:
        held_out = _read(variant, rl.held_out.problems, plugins.held_out, "train.rl.held_out.problems")
    check_problems([*problems, *held_out], plugins.rewards)
    _refuse_held_out(problems, held_out)
    evaluated = {
        entry.label or entry.benchmark.name: chosen.benchmark.build().requests(
            _context(variant, entry.problem_seed)
        )
        for entry, chosen in zip(manifest.evaluate, variant.plugins.evaluations, strict=True)
        if not only_asks_likelihoods(chosen.benchmark.options)
    }
    refuse_test_problems(problems, evaluated)
    return problems, held_out


def problems_digest(problems: Sequence[Problem]) -> str:
    """Of what is learnt from, wherever it lies."""
    return digest([repr(problem) for problem in problems])


def reward_training(
    variant: Variant,
    lm: DiffusionLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: tuple[Sequence[Problem], Sequence[Problem]],
) -> RewardTraining:
    """What a variant learns.

    Args:
        variant: with an `rl` section.
        lm: the model, with its starting weights.
        tokenizer: its own.
        problems: those that are learnt from, and those that are held out.

    Raises:
        UserError: an option doesn't go with the checkpoint, or a problem can't be put to it.
    """
    manifest, plugins = variant.manifest, variant.plugins
    assert manifest.train is not None
    rl, rewards, training = manifest.train.rl, plugins.rewards, plugins.training
    assert rl is not None
    assert rewards is not None
    assert training is not None
    options = training.objective.options
    assert isinstance(options, PolicyObjectiveOptions)
    objective = training.objective.build()
    assert isinstance(objective, PolicyObjective)
    decoder, sampler = decoder_options(rl.rollout), rewards.sampler.build()
    check_options(lm, sampler, decoder)
    codec = codec_of(tokenizer, [lm.mask_token_id, *lm.stops], manifest.local_model.add_bos_token)
    writer = Writer(lm, tokenizer, codec, sampler, decoder, rl.rollout.chat, rl.rollout.batch_size)
    writer.refuse_unfit([*problems[0], *problems[1]])
    return RewardTraining(
        settings=rl,
        objective=objective,
        needs_reference=options.needs_reference,
        writer=writer,
        problems=problems[0],
        held_out=problems[1],
        rewards=rewards.rewards,
        context=RewardContext(
            CodeExecution(manifest.isolation) if manifest.allow_code_execution else None,
            writer.longest([*problems[0], *problems[1]]),
            manifest.seed,
        ),
    )


def _read(
    variant: Variant, asked: Problems, benchmark: ChosenPlugin[Benchmark, PluginOptions] | None, key: str
) -> list[Problem]:
    if benchmark is not None:
        found = benchmark_problems(benchmark.build(), _context(variant, 0))
    else:
        assert asked.path is not None
        found = read_problem_file(Path(asked.path))
    chosen = found[asked.skip :][: asked.limit]
    if not chosen:
        raise UserError(f"{key}.skip is {asked.skip}, and there are {len(found)} problems: none is left")
    return chosen


def _context(variant: Variant, seed: int) -> BenchmarkContext:
    manifest = variant.manifest

    def held_out() -> Iterator[Document]:
        if manifest.data is None:
            raise UserError("a benchmark asks about held-out documents: give the manifest a `data` section")
        return held_out_documents(variant.plugins.built_corpora())

    return BenchmarkContext(
        None,
        seed,
        manifest.data.sequence_length if manifest.data else UNKNOWN_LENGTH,
        held_out,
        CodeExecution(manifest.isolation) if manifest.allow_code_execution else None,
    )


def _refuse_held_out(problems: Sequence[Problem], held_out: Sequence[Problem]) -> None:
    def key(problem: Problem) -> bytes:
        turns = [turn.content for turn in problem.messages]
        return prompt_digest("\n".join([problem.gap.prefix, problem.gap.suffix or "", *turns]))

    apart = {key(problem) for problem in held_out}
    both = [problem.task_id for problem in problems if key(problem) in apart]
    if both:
        raise UserError(
            f"train.rl.held_out: {len(both)} of its problems are trained on, too ({both[0]!r} first): take "
            f"others, with `skip` and `limit` say"
        )
