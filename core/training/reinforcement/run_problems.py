"""The problems of a run: read, and looked at before anything takes time. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from opendllm.core.data.sources import held_out_documents
from opendllm.core.foundation.json_objects import digest
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.manifest.reward_schema import Problems, RewardLearning
from opendllm.core.manifest.variant_plugins import RewardPlugins
from opendllm.core.rewards.problem_sources import benchmark_problems, read_problem_file
from opendllm.core.rewards.tested_problems import prompt_digest, refuse_test_problems
from opendllm.core.rewards.weighing import check_problems
from opendllm.registries.benchmarks import Benchmark, BenchmarkContext, CodeExecution, Request
from opendllm.registries.corpora import Document
from opendllm.registries.errors import UserError
from opendllm.registries.options import PluginOptions, only_asks_likelihoods
from opendllm.registries.problems import Problem
from opendllm.registries.registry import ChosenPlugin

PROBLEMS = "train.rl.problems"
HELD_OUT = "train.rl.held_out.problems"
UNKNOWN_LENGTH = 1 << 20
"""Of the texts that the manifest's models read, where it has no data to say it."""


def check_problem_files(variant: Variant) -> None:
    """Look at those problems that lie in files, if the variant learns from rewards at all.

    Raises:
        UserError: a file can't be read, or what is in it can't be learnt from; what benchmarks have, and ask,
            is not looked at.
    """
    if variant.plugins.rewards is None:
        return
    rl, plugins = _learning(variant)
    problems = _from_file(rl.problems, PROBLEMS) if rl.problems.path is not None else []
    held_out = []
    if rl.held_out is not None and rl.held_out.problems.path is not None:
        held_out = _from_file(rl.held_out.problems, HELD_OUT)
    _look_at(problems, held_out, plugins, {})


def run_problems(variant: Variant) -> tuple[list[Problem], list[Problem]]:
    """(what is learnt from, what is held out), none of which the model is tested with.

    Raises:
        UserError: a file can't be read, a benchmark has none, a reward can't judge answers to one, or one is
            held out, or tested, and trained on all the same.
    """
    (rl, plugins), manifest = _learning(variant), variant.manifest
    problems = _read(variant, rl.problems, plugins.problems, PROBLEMS)
    held_out: list[Problem] = []
    if rl.held_out is not None:
        held_out = _read(variant, rl.held_out.problems, plugins.held_out, HELD_OUT)
    evaluated = {
        entry.label or entry.benchmark.name: chosen.benchmark.build().requests(
            _context(variant, entry.problem_seed)
        )
        for entry, chosen in zip(manifest.evaluate, variant.plugins.evaluations, strict=True)
        if not only_asks_likelihoods(chosen.benchmark.options)
    }
    _look_at(problems, held_out, plugins, evaluated)
    return problems, held_out


def problems_digest(problems: Sequence[Problem]) -> str:
    """Of what is learnt from, wherever it lies."""
    return digest([repr(problem) for problem in problems])


def _learning(variant: Variant) -> tuple[RewardLearning, RewardPlugins]:
    train, plugins = variant.manifest.train, variant.plugins.rewards
    assert train is not None
    assert train.rl is not None
    assert plugins is not None
    return train.rl, plugins


def _look_at(
    problems: Sequence[Problem],
    held_out: Sequence[Problem],
    plugins: RewardPlugins,
    evaluated: Mapping[str, Iterable[Request]],
) -> None:
    check_problems([*problems, *held_out], plugins.rewards)
    _refuse_held_out(problems, held_out)
    refuse_test_problems(problems, evaluated)


def _read(
    variant: Variant, asked: Problems, benchmark: ChosenPlugin[Benchmark, PluginOptions] | None, key: str
) -> list[Problem]:
    if benchmark is None:
        return _from_file(asked, key)
    return _chosen(benchmark_problems(benchmark.build(), _context(variant, 0)), asked, key)


def _from_file(asked: Problems, key: str) -> list[Problem]:
    assert asked.path is not None
    try:
        found = read_problem_file(Path(asked.path))
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    return _chosen(found, asked, key)


def _chosen(found: Sequence[Problem], asked: Problems, key: str) -> list[Problem]:
    chosen = list(found[asked.skip :][: asked.limit])
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
