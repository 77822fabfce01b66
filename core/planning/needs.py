"""What a variant needs that isn't on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from opendllm.core.foundation.globs import matches_anything
from opendllm.core.foundation.hub import in_hub_cache
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.planning.endpoint_plan import missing_for
from opendllm.core.training.reinforcement.run_problems import check_problem_files
from opendllm.registries.errors import UserError
from opendllm.registries.options import path_fields


def check_here(variants: Sequence[Variant], stages: Collection[str] = ("train", "evaluate")) -> None:
    """Packages and files that a run would miss after hours; nothing large is imported, or downloaded.

    Args:
        variants: those that are to run.
        stages: what is to be done with them.

    Raises:
        UserError: something isn't here: a line each.
    """
    found = []
    for variant in variants:
        if variant.manifest.endpoint is None:
            found += [f"{variant.name} needs {each}" for each in _missing_packages(variant, stages)]
        if "evaluate" in stages:
            found += [f"{variant.name}: {each}" for each in _missing_files(variant)]
    if "train" in stages:
        found += _wrong_problems(variants)
    if found:
        raise UserError("\n".join(dict.fromkeys(found)))


def _missing_packages(variant: Variant, stages: Collection[str] = ("train", "evaluate")) -> list[str]:
    train, backbone = variant.manifest.train, variant.plugins.backbone.options
    packages: list[str] = []
    if train and "train" in stages:
        packages += [*train.trackers, *(["peft"] if train.lora else [])]
    packages += ["torchao", "accelerate"] if getattr(backbone, "load_in_8bit", False) else []
    packages += ["accelerate"] if getattr(backbone, "device_map", None) else []
    absent = [each for each in dict.fromkeys(packages) if importlib.util.find_spec(each) is None]
    return [f"the package {each}: pip install {each}" for each in absent]


def _missing_files(variant: Variant) -> Iterator[str]:
    """Of its benchmarks' options, those that name a file, a folder or a glob where nothing lies."""
    for index, each in enumerate(variant.plugins.evaluations):
        options = each.benchmark.options
        for name, or_hub_id in path_fields(type(options)):
            path = getattr(options, name)
            if path is not None and not or_hub_id and not matches_anything(path):
                where = f"evaluate.{index}.benchmark.options.{name}"
                yield f"{where}: {path} does not exist"


def _wrong_problems(variants: Sequence[Variant]) -> Iterator[str]:
    """Of files of problems that are learnt from, what is wrong with them; variants mostly share theirs."""
    seen = []
    for variant in variants:
        train = variant.manifest.train
        if train is None or train.rl is None or train.rl in seen:
            continue
        seen.append(train.rl)
        wrong = _wrong_problems_of(variant)
        if wrong is not None:
            yield f"{variant.name}: {wrong}"


def _wrong_problems_of(variant: Variant) -> str | None:
    try:
        check_problem_files(variant)
    except UserError as error:
        return str(error)
    return None


def missing(variant: Variant) -> list[str]:
    """What a variant needs that isn't here, each with what to do."""
    if variant.manifest.endpoint is not None:
        return missing_for(variant.manifest.endpoint)
    found = [*_missing_packages(variant), *_missing_files(variant)]
    learns = variant.manifest.train is not None and variant.manifest.train.rl is not None
    wrong = _wrong_problems_of(variant) if learns else None
    if wrong is not None:
        found.append(wrong)
    wanted = to_download(variant)
    if wanted is not None:
        found.append(f"{wanted}: is downloaded from the hub when the run begins")
    return found


def to_download(variant: Variant) -> str | None:
    """The hub id of the checkpoint that a variant begins with, if it isn't on this machine."""
    backbone = variant.plugins.own_backbone
    pretrained = None if backbone is None else backbone.options.pretrained
    if pretrained and not Path(pretrained).expanduser().exists() and not in_hub_cache(pretrained):
        return pretrained
    return None
