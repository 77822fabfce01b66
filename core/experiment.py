"""The pipeline: manifest -> plugins -> tokens -> trainer -> checkpoint -> decoder -> scores -> report."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opendllm.core.checkpoints.files import steps
from opendllm.core.contamination import check_contamination
from opendllm.core.foundation.heavy_imports import import_model_libraries, imported
from opendllm.core.foundation.ranks import is_first_process
from opendllm.core.manifest.experiment_manifest import DATA_FOLDER, Experiment, Variant
from opendllm.core.planning.needs import check_here
from opendllm.core.progress.progress import Progress
from opendllm.core.run.folder import (
    extend_variants,
    has_results,
    open_run,
    open_variant,
    retrained_sources,
    training_folders,
    write_manifest,
    write_variant,
)
from opendllm.core.run.lock import locked_run
from opendllm.core.run.provenance import provenance
from opendllm.registries.errors import UserError
from opendllm.registries.suggestions import did_you_mean

Stage = Literal["train", "evaluate", "report"]
STAGES: tuple[Stage, ...] = ("train", "evaluate", "report")


@dataclass(frozen=True)
class _Told:
    """Who hears of a run: of what is being done, and one line at each milestone."""

    progress: Progress
    on_message: Callable[[str], None]


def run_experiment(
    experiment: Experiment,
    stages: Collection[Stage] = STAGES,
    only_variants: Sequence[str] = (),
    limit: int | None = None,
    on_message: Callable[[str], None] = print,
    extend: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train, evaluate and report; whatever an earlier run has finished is not done again.

    Args:
        experiment: the resolved manifest.
        stages: which of the three to do.
        only_variants: names of the variants to train and evaluate; all, where empty.
        limit: at most so many problems of each benchmark.
        on_message: told one line at each milestone.
        extend: whether runs go on with more steps than they were trained for.
        progress: told what is being done; nobody is by default.

    Returns:
        The run's folder.

    Raises:
        UserError: see each stage. What the stages before have written stays.
    """
    chosen = _chosen(experiment, only_variants)
    check_here(chosen, stages)
    with locked_run(experiment.output):
        open_run(experiment, extend)
        if extend:
            extend_variants(experiment, chosen, on_message)
        return _run(experiment, stages, chosen, limit, _Told(progress or Progress(), on_message))


def _run(
    experiment: Experiment,
    stages: Collection[Stage],
    chosen: Sequence[Variant],
    limit: int | None,
    told: _Told,
) -> Path:
    if "train" in stages:
        check_contamination(experiment, chosen, told.progress, told.on_message)
    for number, variant in enumerate(chosen if "train" in stages else (), start=1):
        if variant.manifest.endpoint is None:
            told.progress.variant(variant.name, number, len(chosen))
            _train(experiment, variant, told)
    for number, variant in enumerate(chosen if "evaluate" in stages else (), start=1):
        if variant.manifest.evaluate:
            told.progress.variant(variant.name, number, len(chosen))
            _evaluate(experiment, variant, limit, told)
    if not is_first_process():
        return experiment.output
    worked = "train" in stages or "evaluate" in stages
    if worked:
        write_manifest(experiment)
    if "report" in stages:
        told.progress.variant("", 0, 0)
        with told.progress.activity("writing the report"):
            _report(experiment, worked, told.on_message)
    return experiment.output


def _train(experiment: Experiment, variant: Variant, told: _Told) -> None:
    """Train in the folder of the first variant with the same training digest."""
    with told.progress.activity("importing libraries") if not imported() else nullcontext():
        import_model_libraries()
    from opendllm.core.training.train_variant import train_variant

    open_variant(experiment, variant)
    folder = experiment.output / training_folders(experiment)[variant.name]
    folder.mkdir(exist_ok=True)
    if is_first_process():
        for change in retrained_sources(folder, variant):
            told.on_message(f"{variant.name}: its checkpoint was trained with another {change}")
    train_variant(variant, folder, experiment.output / DATA_FOLDER, provenance(variant), told.progress)
    gc.collect()  # the trained model hangs in cycles; the next one needs its memory
    if not has_results(experiment.output / variant.name):
        write_variant(experiment, variant)
    trained = steps(folder)
    if is_first_process() and trained and not variant.manifest.evaluate:
        told.on_message(f"{variant.name}: trained to step {trained[-1][0]}: {trained[-1][1]}")


def _evaluate(
    experiment: Experiment,
    variant: Variant,
    limit: int | None,
    told: _Told,
) -> None:
    """Evaluate the variant's last checkpoint, or ask its server."""
    if variant.manifest.endpoint is None:
        with told.progress.activity("importing libraries") if not imported() else nullcontext():
            import_model_libraries(variant.manifest.device)
    from opendllm.core.evaluation.evaluate_variant import evaluate_variant

    folder = open_variant(experiment, variant)
    same_model = [
        (other, experiment.output / other.name)
        for other in experiment.variants
        if other.shared_training == variant.shared_training and other is not variant
    ]
    evaluate_variant(variant, folder, provenance(variant), limit, told.progress, told.on_message, same_model)
    write_variant(experiment, variant)


def _report(experiment: Experiment, worked: bool, on_message: Callable[[str], None]) -> None:
    """Write the report; there is none where a run has trained or evaluated and nothing is scored yet."""
    from opendllm.core.reporting.write import write_report

    folders = [experiment.output / variant.name for variant in experiment.variants]
    trains = [variant.manifest.train for variant in experiment.variants]
    rewarded = any(train is not None and train.rl is not None for train in trains)  # has curves to show
    if worked and not rewarded and not any(map(has_results, folders)):
        unscored = any((folder / "samples").is_dir() for folder in folders)
        asked = any(variant.manifest.evaluate for variant in experiment.variants)
        why = "has been scored" if unscored else "has been evaluated" if asked else "is to be evaluated"
        on_message(f"report: none{' yet' if asked else ''}, since nothing {why}")
        return
    write_report(experiment.output)
    on_message(f"report: {experiment.output / 'report.html'}")


def _chosen(experiment: Experiment, names: Sequence[str]) -> list[Variant]:
    known = [variant.name for variant in experiment.variants]
    for name in names:
        if name not in known:
            raise UserError(f"the manifest has no variant {name!r}: {did_you_mean(name, known)}")
    return [variant for variant in experiment.variants if not names or variant.name in names]
