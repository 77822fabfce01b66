"""What differs between the manifests of several runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opendllm.core.reporting.records import Study

NOT_THERE, VARIES = "not there", "differs between its variants"
OF_A_RUN = ("name", "description", "output", "variants", "launch", "published")


@dataclass(frozen=True)
class Difference:
    """A key of the manifests, of all variants or of one, and what each run says there."""

    variant: str | None
    key: str
    values: tuple[str, ...]


def manifest_differences(study: Study) -> tuple[Difference, ...]:
    """What the runs do differently; empty of a single run.

    What all variants of a run agree in is compared as one; where they don't, those are compared that have the
    same name.
    """
    if len(study.runs) < 2:
        return ()
    variants = [_variants(run.settings) for run in study.runs]
    agreed = [_agreed(of_run) for of_run in variants]
    keys = list(dict.fromkeys(key for of_run in agreed for key in of_run))
    found = [
        Difference(None, key, values)
        for key in keys
        if len(set(values := tuple(of_run.get(key, NOT_THERE) for of_run in agreed))) > 1
    ]
    names = list(dict.fromkeys(name for of_run in variants for name in of_run))
    shared = [name for name in names if all(name in of_run for of_run in variants)]
    varying = [key for key in keys if any(of_run.get(key) == VARIES for of_run in agreed)]
    found += [
        Difference(name, key, values)
        for name in shared
        for key in varying
        if len(set(values := tuple(of_run[name].get(key, NOT_THERE) for of_run in variants))) > 1
    ]
    return tuple(found)


def variants_only_in(study: Study) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(run, names of the variants that not every run has), of several runs."""
    names = [list(_variants(run.settings)) for run in study.runs]
    shared = set(names[0]).intersection(*names[1:]) if names else set()
    return tuple(
        (run.label, tuple(name for name in of_run if name not in shared))
        for run, of_run in zip(study.runs, names, strict=True)
        if set(of_run) - shared
    )


def _variants(settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Each variant's leaves over those that the manifest says for all."""
    base = dict(leaves({key: value for key, value in settings.items() if key not in OF_A_RUN}))
    declared = settings.get("variants")
    if not isinstance(declared, dict) or not declared:
        return {"default": base}
    return {str(name): {**base, **dict(leaves(patch))} for name, patch in declared.items()}


def _agreed(variants: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    keys = dict.fromkeys(key for leaves in variants.values() for key in leaves)
    values = {key: {leaves.get(key, NOT_THERE) for leaves in variants.values()} for key in keys}
    return {key: next(iter(found)) if len(found) == 1 else VARIES for key, found in values.items()}


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and what they hold; entries of lists by what they are called, else by number."""
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(content, list) and any(isinstance(entry, dict) for entry in content):
        for number, entry in enumerate(content):
            yield from leaves(entry, f"{path}[{_called(entry) or number}]")
    else:
        yield path, content if isinstance(content, str) else json.dumps(content, default=str)


def _called(entry: object) -> str | None:
    """An entry of `evaluate`, or of a mixture."""
    if not isinstance(entry, dict):
        return None
    plugin = entry.get("benchmark") or entry.get("corpus")
    name = entry.get("label") or (plugin.get("name") if isinstance(plugin, dict) else None)
    return name if isinstance(name, str) else None
