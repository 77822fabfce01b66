"""Scores a samples file, and writes what `platform run` would have written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from opendllm.core.evaluation.evaluation import evaluation_of
from opendllm.core.evaluation.progress import OnScoring
from opendllm.core.evaluation.result_file import write_result
from opendllm.core.evaluation.samples_file import (
    Samples,
    about_file,
    count_missing_as_failed,
    missing_tasks,
    read_samples,
    unscorable,
)
from opendllm.core.foundation.option_errors import checked_options
from opendllm.registries.benchmarks import Benchmark, BenchmarkContext, CodeExecution, Scores
from opendllm.registries.corpora import Document
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import UserError
from opendllm.registries.machine_errors import in_words
from opendllm.registries.options import ProblemFileOptions
from opendllm.registries.registry import Registration
from opendllm.registries.suggestions import did_you_mean

Missing = Literal["named", "failed", "refused"]
"""Tasks without a sample are left out of the means, count as failed, or nothing is scored."""
CONTEXT_LENGTH = 2**20
"""No model reads the requests here."""


@dataclass(frozen=True)
class Scored:
    """The scores of a samples file, what was wrong with it, and where they were written."""

    scores: Scores
    headline: tuple[str, ...]
    samples: Samples
    output: Path


@dataclass(frozen=True)
class ScoringJob:
    """A samples file, and what it is scored as.

    Attributes:
        benchmark: its name.
        samples: the file, or a folder as EvalPlus writes it.
        options: the benchmark's, over those of the run.
        problems: file of the benchmark's problems.
        output: the JSON file to write; by default the run's result, or a file beside the samples.
        missing: what becomes of tasks without a sample; they are named in any case.
    """

    benchmark: str
    samples: Path
    options: Mapping[str, Any]
    problems: Path | None = None
    output: Path | None = None
    missing: Missing = "named"


def score_samples(
    plugins: Plugins,
    job: ScoringJob,
    execution: CodeExecution | None,
    on_scoring: OnScoring = lambda *_: None,
) -> Scored:
    """Score samples that were made here or anywhere.

    Of a run's own samples/BENCHMARK.jsonl the benchmark's options, limit and problem seed are known, and the
    result takes its place in the run.

    Args:
        plugins: what is installed.
        job: what to score.
        execution: the leave to run generated code.
        on_scoring: told how far it is.

    Raises:
        UserError: nothing could be scored, a task is missing that may not be, or the output can't be written.
    """
    name, samples = job.benchmark, job.samples
    registration = plugins.benchmarks.get(name)
    if not samples.exists():
        raise UserError(f"{samples}: no such samples file")
    about = _about(samples, name)
    output = job.output or _default_output(samples, about)
    _check_output(output)
    chosen = _options(registration, job, about)
    benchmark = _build(registration, chosen)
    if benchmark.executes_code and execution is None:
        raise UserError(
            f"benchmark {name} runs the generated code, in a sandbox: allow it with --allow-code-execution"
        )
    on_scoring(0, None, None)
    watched = execution and replace(execution, on_progress=on_scoring)
    # Runs of before problem_seed drew their problems with the manifest's seed.
    seed = about.get("settings", {}).get("problem_seed", about.get("seed", 0))
    context = BenchmarkContext(about.get("limit"), seed, CONTEXT_LENGTH, _no_corpus, watched)
    requests = benchmark.requests(context)
    found = read_samples(samples, benchmark, requests)
    if not found.answers:
        raise unscorable(found, samples)
    if found.missing and job.missing == "refused":
        raise missing_tasks(found, samples, len({request.task_id for request in requests}))
    if job.missing == "failed":
        found = count_missing_as_failed(found, requests)
    evaluation = evaluation_of(benchmark.score(found.answers), found.records)
    assert evaluation.scores is not None
    described = {
        "benchmark": name,
        "settings": {"benchmark": {"name": name, "options": chosen}},
        **about,
        "samples": {
            "file": str(samples),
            "scored": len(found.answers),
            "complaints": found.issues,
            "missing": found.missing,
        },
        "provenance": {**about.get("provenance", {}), "scored_by": str(registration.provenance)},
    }
    write_result(output, benchmark, evaluation, described)
    return Scored(evaluation.scores, benchmark.headline, found, output)


def _options(
    registration: Registration[Benchmark], job: ScoringJob, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The benchmark's options: the run's, where it was one, and over them the job's."""
    chosen = {**about.get("settings", {}).get("benchmark", {}).get("options", {}), **job.options}
    if job.problems is None:
        return chosen
    if not issubclass(registration.options, ProblemFileOptions):
        raise UserError(
            f"--problems has no effect with benchmark {job.benchmark!r}: it reads no file of problems"
        )
    return {**chosen, "problems": str(job.problems)}


def _build(registration: Registration[Benchmark], options: Mapping[str, Any]) -> Benchmark:
    known = list(registration.options.model_fields)
    for key in options:
        if key not in known:
            raise UserError(
                f"benchmark {registration.name!r} has no option {key!r}: {did_you_mean(key, known)}"
            )
    return registration.build(checked_options(registration.options, options))


def _about(samples: Path, name: str) -> dict[str, Any]:
    """What the run says of its own samples; nothing of samples from elsewhere."""
    path = about_file(samples)
    if not path.is_file():
        return {}
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        made_for = about["settings"]["benchmark"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: run the manifest again, or move it away") from error
    if made_for != name:
        raise UserError(f"{samples} was written for benchmark {made_for!r}, not {name!r}")
    return about


def _default_output(samples: Path, about: Mapping[str, Any]) -> Path:
    if about:
        return samples.parent.parent / "results" / f"{samples.stem}.json"
    return samples.with_name(
        samples.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json") + ".scores.json"
    )


def _check_output(output: Path) -> None:
    """Notice before the scoring what would make its result be lost, or a file of somebody's."""
    if output.exists():
        try:
            before = json.loads(output.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if not isinstance(before, dict) or "metrics" not in before:
            raise UserError(f"{output} is there already and holds no scores: choose another --output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        trial = output.with_name(f".{output.name}.trial")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UserError(f"{output} cannot be written: {in_words(error)}") from error


def _no_corpus() -> Iterator[Document]:
    raise UserError("this benchmark reads its manifest's held-out documents: evaluate it with `platform run`")
