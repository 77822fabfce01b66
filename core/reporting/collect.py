"""Reads run folders: which variants there are, in which order, and what each of them left."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from opendllm.core.foundation.contamination_file import CONTAMINATION_FILE
from opendllm.core.foundation.decoding_traces import read_trace
from opendllm.core.reporting.contamination_tables import COMPARE_AGAIN
from opendllm.core.reporting.json_files import as_integer, as_number, as_text, get_object, read_object
from opendllm.core.reporting.records import Published, Run, Study, Variant
from opendllm.core.reporting.variant_files import read_result, read_samples, read_training
from opendllm.registries.errors import UserError

ReadT = TypeVar("ReadT")

MANIFEST = "manifest.resolved.yaml"
REPEATED = re.compile(r"(?P<name>.+)-seed-(?P<seed>\d+)")
MARKS_OF_A_VARIANT = ("variant.json", "train.jsonl", "results", "samples")


def read_study(folders: Sequence[Path]) -> Study:
    """Read run folders; of several, each variant's label starts with its run's.

    Raises:
        UserError: a folder is missing, given twice or without any result. A file in it that is broken is
            named in what is read.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, times in Counter(resolved).items():
        if times > 1:
            raise UserError(f"{folder}: this run was given {times} times")
    return Study(
        tuple(_read_run(folder, label) for folder, label in zip(folders, _labels(resolved), strict=True))
    )


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart; for a single run, none is needed."""
    if len(folders) == 1:
        return [""]
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return ["/".join(folder.parts[-depth:]) for folder in folders]


@dataclass(frozen=True)
class _Manifest:
    text: str
    values: Mapping[str, Any]

    @property
    def variants(self) -> Mapping[str, Any]:
        declared = self.values.get("variants")
        return {str(name): patch for name, patch in declared.items()} if isinstance(declared, dict) else {}

    @property
    def benchmarks(self) -> list[str]:
        """Entries of every `evaluate`, the variants' own too, as their result files are called."""
        return [name for patch in (self.values, *self.variants.values()) for name in _asked(patch)]

    def asked_of(self, variant: str) -> frozenset[str]:
        """The results that a variant should have; none are known of one that isn't declared."""
        patch = self.variants.get(variant)
        own = patch if _get(patch, "evaluate") is not None else self.values
        return frozenset(_asked(own)) if patch is not None else frozenset()


class Damage:
    """Reads a folder's files, and remembers those that can't be read: the others are shown all the same.

    Attributes:
        found: file, relative to the folder, -> why it couldn't be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.found: dict[str, str] = {}

    def spared(self, name: str, read: Callable[[Path], ReadT]) -> ReadT | None:
        """What `read` makes of a file; None where it can't."""
        try:
            return read(self._folder / name)
        except UserError as error:
            self.found[name] = str(error)
            return None

    def all_of(self, pattern: str, read: Callable[[Path], ReadT]) -> dict[str, ReadT]:
        """The same of every file that matches, by its stem."""
        there = sorted(self._folder.glob(pattern))
        read_files = {path.stem: self.spared(str(path.relative_to(self._folder)), read) for path in there}
        return {stem: content for stem, content in read_files.items() if content is not None}


def _asked(patch: object) -> list[str]:
    entries = _get(patch, "evaluate")
    return [
        str(name)
        for entry in (entries if isinstance(entries, list) else ())
        if (name := _get(entry, "label") or _get(_get(entry, "benchmark"), "name"))
    ]


def _get(values: object, key: str) -> Any:
    return values.get(key) if isinstance(values, dict) else None


def _read_run(folder: Path, label: str) -> Run:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    damage = Damage(folder)
    manifest = damage.spared(MANIFEST, _read_manifest) or _Manifest("", {})
    found = {path.name: path for path in folder.iterdir() if _is_variant(path)}
    if (folder / CONTAMINATION_FILE).exists():
        damage.spared(CONTAMINATION_FILE, lambda path: read_object(path, COMPARE_AGAIN))
    variants = {
        name: replace(_read_variant(path), expected=manifest.asked_of(name)) for name, path in found.items()
    }
    benchmarks = {name for variant in variants.values() for name in variant.benchmarks}
    rewarded = any(each.training and each.training.rewards for each in variants.values())
    if not benchmarks and not rewarded:
        broken = [reason for variant in variants.values() for reason in variant.damage.values()]
        raise UserError(
            f"{folder}: no results to report: no variant has a results/BENCHMARK.json"
            + "".join(f"; {reason}" for reason in broken)
        )
    groups = {variant.group for variant in variants.values()}
    for name, patch in manifest.variants.items():
        if name not in variants and name not in groups:
            group = _group(name, as_integer(_get(patch, "seed")))
            variants[name] = Variant(name, group, expected=manifest.asked_of(name))
    sort_keys = _sort_keys(list(manifest.variants), variants.values())
    ordered = sorted(variants.values(), key=lambda variant: sort_keys[variant.label])
    first = [name for name in manifest.benchmarks if name in benchmarks]
    return Run(
        folder=folder,
        label=label,
        name=as_text(manifest.values.get("name")) or folder.resolve().name,
        description=as_text(manifest.values.get("description")),
        seeds=tuple(sorted({variant.seed for variant in ordered if variant.seed is not None})),
        manifest=manifest.text,
        benchmarks=tuple(dict.fromkeys([*first, *sorted(benchmarks)])),
        variants=tuple(_finish(variant, variants, label) for variant in ordered),
        published=tuple(damage.spared(MANIFEST, lambda path: list(_published(path, manifest.values))) or ()),
        settings=manifest.values,
        damage=damage.found,
    )


def _published(path: Path, manifest: Mapping[str, Any]) -> Iterator[Published]:
    """The figures that a resolved manifest quotes; an incomplete one is left out."""
    quoted = manifest.get("published")
    for entry in quoted if isinstance(quoted, list) else ():
        model, benchmark, source = (as_text(_get(entry, key)) for key in ("model", "benchmark", "source"))
        if model and benchmark and source:
            given = get_object(entry, "metrics", path)
            metrics = {name: value for name in given if (value := as_number(given[name])) is not None}
            yield Published(model, benchmark, metrics, source)


def _read_manifest(path: Path) -> _Manifest:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not path.exists():
        return _Manifest("", {})
    try:
        text = path.read_text(encoding="utf-8")
        values = YAML(typ="safe", pure=True).load(text)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable manifest: {reason}") from error
    return _Manifest(text, values if isinstance(values, dict) else {})


def _is_variant(path: Path) -> bool:
    return path.is_dir() and any((path / mark).exists() for mark in MARKS_OF_A_VARIANT)


def _read_variant(folder: Path) -> Variant:
    """One folder; its label and `trained_in` are still plain folder names."""
    damage, path = Damage(folder), folder / "variant.json"
    identity = (damage.spared(path.name, _read_identity) or {}) if path.exists() else {}
    samples = damage.all_of("samples/*.jsonl", read_samples)
    damage.found |= {
        f"samples/{stem}.jsonl": texts.issue for stem, texts in samples.items() if texts.issue is not None
    }
    seed = as_integer(identity.get("seed"))
    trained_in = as_text(identity.get("trained_in"))
    results = damage.all_of("results/*.json", read_result)
    variant = Variant(
        label=folder.name,
        group=_group(folder.name, seed),
        seed=seed,
        training_digest=as_text(identity.get("training_digest")),
        trained_in=None if trained_in == folder.name else trained_in,
        parameters=as_integer(identity.get("parameters")),
        backbone=as_text(identity.get("backbone")),
        endpoint=_endpoint(identity),
        objective=as_text(identity.get("objective")),
        sampler=as_text(identity.get("sampler")),
        plugins=damage.spared(path.name, lambda path: _plugins(identity, path)) or {},
        training=damage.spared("train.jsonl", read_training),
        extended=_extended(identity.get("extended")),
        benchmarks=results,
        samples={stem: texts.records for stem, texts in samples.items()},
        traces=damage.all_of("traces/*.json", read_trace),
        damage=damage.found,
    )
    return replace(variant, absent=frozenset(_absent(folder, variant)))


def _read_identity(path: Path) -> dict[str, Any]:
    return read_object(path, "run the manifest again, which writes it anew")


def _endpoint(identity: Mapping[str, Any]) -> str | None:
    model, url = (as_text(identity.get(key)) for key in ("model", "endpoint"))
    return f"{model} at {url}" if model and url else None


def _absent(folder: Path, variant: Variant) -> Iterator[str]:
    """What a variant of this kind should have left."""
    wanted = ["variant.json"]
    if variant.was_trained and variant.trained_in is None:
        wanted.append("train.jsonl")
    wanted += [
        f"samples/{name}.jsonl"
        for name, result in variant.benchmarks.items()
        if result.speed.texts or result.verdicts
    ]
    yield from (name for name in wanted if not (folder / name).exists())


def _plugins(identity: Mapping[str, Any], path: Path) -> dict[str, str]:
    return {name: str(version) for name, version in get_object(identity, "plugins", path).items()}


def _extended(content: object) -> tuple[tuple[int, int], ...]:
    pairs = [
        (as_integer(_get(entry, "from")), as_integer(_get(entry, "to")))
        for entry in (content if isinstance(content, list) else ())
    ]
    return tuple((start, total) for start, total in pairs if start is not None and total is not None)


def _group(name: str, seed: int | None) -> str:
    """What is left of NAME-seed-N if that is the variant's seed: else the name itself says so."""
    repeated = REPEATED.fullmatch(name)
    return repeated["name"] if repeated and seed in (None, int(repeated["seed"])) else name


def _sort_keys(declared: Sequence[str], variants: Iterable[Variant]) -> dict[str, tuple[int, str, int]]:
    """Sorting keys: the manifest's order, then the alphabet; repetitions together and by their seed."""
    groups = {variant.label: variant.group for variant in variants}
    order = list(dict.fromkeys(groups.get(name, name) for name in declared))
    sort_keys = {}
    for label, group in groups.items():
        position = order.index(group) if group in order else len(order)
        repeated = None if label == group else REPEATED.fullmatch(label)
        sort_keys[label] = (position, group, int(repeated["seed"]) if repeated else -1)
    return sort_keys


def _finish(variant: Variant, variants: Mapping[str, Variant], run_label: str) -> Variant:
    """Give the variant its training, which may be another's, and the labels that the report shows."""
    prefix = f"{run_label}/" if run_label else ""
    shared = variants.get(variant.trained_in) if variant.trained_in else None
    return replace(
        variant,
        label=prefix + variant.label,
        group=prefix + variant.group,
        trained_in=prefix + shared.label if shared and shared.was_trained else None,
        training=variant.training or (shared.training if shared else None),
    )
