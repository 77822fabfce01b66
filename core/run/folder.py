"""What a run writes about itself. Imports no torch."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from opendllm.core.checkpoints.files import (
    MODEL_FOLDER,
    PROVENANCE_FILE,
    VARIANT_FILE,
    parameter_count,
    steps,
    steps_wanted,
)
from opendllm.core.foundation.atomic_files import write_json, write_text
from opendllm.core.foundation.ranks import is_first_process
from opendllm.core.manifest.experiment_manifest import Experiment, Variant
from opendllm.core.manifest.trained_from import trained_from
from opendllm.core.run.provenance import plugin_versions
from opendllm.registries.errors import UserError
from opendllm.registries.machine_errors import in_words
from opendllm.registries.sources import changed_sources, source_digests

RESOLVED_FILE = "manifest.resolved.yaml"


def training_folders(experiment: Experiment) -> dict[str, str]:
    """For each variant, the variant in whose folder its training run is: the first that shares it."""
    first: dict[str, str] = {}
    return {
        variant.name: first.setdefault(variant.shared_training, variant.name)
        for variant in experiment.variants
    }


def open_run(experiment: Experiment, extend: bool = False) -> None:
    """Make the run's folder; a resolved manifest that is there stays until `write_manifest`.

    Args:
        experiment: what is to be run.
        extend: whether a run may go on with another number of steps than it was trained for.

    Raises:
        UserError: the folder holds variants that were trained from another manifest, or can't be
            written.
    """
    folder = experiment.output
    shared = training_folders(experiment)
    for variant in experiment.variants:
        known = _read(folder / variant.name / VARIANT_FILE)
        if known is None or not steps(folder / known.get("trained_in", variant.name)):
            continue  # whatever was meant, nothing was trained
        if known.get("training_digest") != variant.training_digest:
            _check_extension(folder, known, variant, extend)
        if known.get("trained_in") != shared[variant.name]:
            raise UserError(
                f"{folder / variant.name} shares the training run of {known.get('trained_in')!r}, which this "
                f"manifest lacks or orders differently: choose another folder with --set output=DIR"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / RESOLVED_FILE).exists():
            write_manifest(experiment)
    except OSError as error:
        raise UserError(f"the run folder {folder} cannot be written: {in_words(error)}") from error


def _check_extension(folder: Path, known: Mapping[str, Any], variant: Variant, extend: bool) -> None:
    """A variant was trained with another digest: more steps of the same may follow, where that is asked for.

    Raises:
        UserError: something else differs, the steps are fewer than were taken, or nobody asked.
    """
    own = folder / variant.name
    trained, checkpoint = steps(folder / known.get("trained_in", variant.name))[-1]
    digest = (_read(checkpoint / PROVENANCE_FILE) or {}).get("training_digest")
    if digest == variant.training_digest:
        return  # an extension was begun, and no step of it was saved
    train, before = variant.manifest.train, steps_wanted(checkpoint)
    if train is None or not before or digest != variant.with_steps(before).training_digest:
        raise UserError(
            f"{own} was trained with another model, data, seed or train section"
            f"{_differences(checkpoint, variant)}: "
            f"keep it and choose another folder with --set output=DIR, or delete it"
        )
    state = f"{own} is trained to step {trained} of {before}, and train.steps is {train.steps} now"
    elsewhere = "or choose another folder with --set output=DIR"
    if train.steps <= trained:
        raise UserError(
            f"{state}: steps that were taken are not taken back; set it above {trained}, {elsewhere}"
        )
    if not extend:
        raise UserError(
            f"{state}: go on from step {trained} with --extend, set it to {before} again, {elsewhere}"
        )


def extend_variants(
    experiment: Experiment, chosen: Collection[Variant], on_message: Callable[[str], None]
) -> None:
    """Let the chosen variants, and those that share their training runs, be those of the new manifest.

    The answers and results of the steps before are kept beside the new ones.
    """
    shared = training_folders(experiment)
    if not is_first_process():
        return
    for variant in experiment.variants:
        if shared[variant.name] not in {shared[other.name] for other in chosen}:
            continue
        folder = experiment.output / variant.name
        known = _read(folder / VARIANT_FILE)
        there = steps(experiment.output / shared[variant.name])
        if known is None or not there or known.get("training_digest") == variant.training_digest:
            continue
        step = there[-1][0]
        kept = _set_aside(folder, step)
        open_variant(experiment, variant)
        wanted = variant.manifest.train.steps if variant.manifest.train else 0
        where = f"; what was measured before is in {kept}" if kept else ""
        on_message(f"{variant.name}: extended from step {step} to {wanted}{where}")


def _set_aside(folder: Path, step: int) -> Path | None:
    """Move a variant's answers and results to a folder of their own; None where there are none."""
    there = [folder / name for name in ("samples", "results", "traces") if (folder / name).is_dir()]
    if not there:
        return None
    target, number = folder / f"before-extension-at-step-{step}", 1
    while target.exists():
        number += 1
        target = folder / f"before-extension-at-step-{step}-{number}"
    target.mkdir()
    for path in there:
        path.rename(target / path.name)
    return target


def _differences(checkpoint: Path, variant: Variant) -> str:
    """What differs between a variant and the manifest that its newest checkpoint was trained from."""
    about = _read(checkpoint / PROVENANCE_FILE) or {}
    there = dict(_leaves(trained_from(about.get("manifest", {}))))
    here = dict(_leaves(trained_from(variant.manifest.model_dump(mode="json"))))
    keys = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
    if not keys:
        return (
            " (the checkpoint or tokenizer that it starts from holds something else now, or it was trained "
            "by an older version, which knew them by where they lie)"
        )
    shown = [f"{key} was {there.get(key)!r} and is {here.get(key)!r}" for key in keys[:3]]
    return f" ({'; '.join(shown)}{'; ...' if len(keys) > 3 else ''})"


def _leaves(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, content


def write_manifest(experiment: Experiment) -> None:
    """Write the resolved manifest: what the run's results were made from."""
    if not is_first_process():
        return
    text = io.StringIO()
    YAML().dump(experiment.resolved(), text)
    write_text(experiment.output / RESOLVED_FILE, text.getvalue())


def open_variant(experiment: Experiment, variant: Variant) -> Path:
    """Make a variant's folder and say in it what it is; what is said of a trained one stays."""
    folder = experiment.output / variant.name
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"the variant's folder {folder} cannot be made: {in_words(error)}") from error
    known = _read(folder / VARIANT_FILE) or {}
    meant = (variant.training_digest, training_folders(experiment)[variant.name])
    if (known.get("training_digest"), known.get("trained_in")) != meant:
        write_variant(experiment, variant)
    return folder


def retrained_sources(folder: Path, variant: Variant) -> list[str]:
    """The plugins of a variant's training that its newest checkpoint was trained with other source of.

    Args:
        folder: of the training run.
        variant: that goes on with it.
    """
    there = steps(folder)
    before = (_read(there[-1][1] / PROVENANCE_FILE) or {}).get("sources") if there else None
    training = variant.plugins.training
    learnt = () if training is None else (training.objective, training.noise_schedule)
    return changed_sources(
        before, source_digests([variant.plugins.backbone, *variant.plugins.corpora, *learnt])
    )


def has_results(variant_folder: Path) -> bool:
    """Whether a variant has been evaluated."""
    return any((variant_folder / "results").glob("*.json"))


def write_variant(experiment: Experiment, variant: Variant) -> None:
    """Say in a variant's folder what it is: what its results were made with."""
    if not is_first_process():
        return
    manifest, endpoint = variant.manifest, variant.manifest.endpoint
    trained_in = training_folders(experiment)[variant.name]
    write_json(
        experiment.output / variant.name / VARIANT_FILE,
        {
            "variant": variant.name,
            "seed": manifest.seed,
            "training_digest": variant.training_digest,
            "trained_in": trained_in,
            "backbone": None if endpoint else manifest.local_model.backbone.name,
            **({"endpoint": endpoint.base_url, "model": endpoint.model} if endpoint else {}),
            "objective": manifest.train.objective.name if manifest.train else None,
            "sampler": None if endpoint else variant.plugins.sampler.written_name,
            "parameters": _parameters(experiment.output / trained_in),
            "extended": _extended(experiment.output / trained_in),
            "plugins": plugin_versions(variant),
            "sources": source_digests(variant.plugins),
        },
    )


def _parameters(variant_folder: Path) -> int | None:
    """Of the variant's last checkpoint; None before there is one."""
    found = steps(variant_folder)
    return parameter_count(found[-1][1] / MODEL_FOLDER) if found else None


def _extended(variant_folder: Path) -> list[dict[str, int]]:
    """How its last checkpoint came to be trained further than was first meant."""
    found = steps(variant_folder)
    about = _read(found[-1][1] / PROVENANCE_FILE) if found else None
    extended: list[dict[str, int]] = (about or {}).get("extended", [])
    return extended


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content
