"""What asking a server costs here: requests. Nothing is asked of it for that."""

from __future__ import annotations

import importlib.util
import os

from opendllm.core.manifest.checks import generation_of
from opendllm.core.manifest.endpoint_schema import Endpoint
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.planning.evaluation_plan import EvaluationPlan
from opendllm.core.planning.request_sizes import requests_of
from opendllm.registries.errors import UserError
from opendllm.registries.planned_requests import PlannedTexts


def requests_to(endpoint: Endpoint, variant: Variant, index: int, ask: bool) -> EvaluationPlan:
    """How many requests an entry of `evaluate` makes, and how much they may have written.

    Args:
        endpoint: the variant's.
        variant: whose entry.
        index: its number.
        ask: see `requests_of`.
    """
    entry = variant.manifest.evaluate[index]
    label = entry.label or entry.benchmark.name
    try:
        found = requests_of(variant, index, ask)
    except UserError as error:
        return EvaluationPlan(label, str(error))
    if found is None:
        todo = "" if ask else ": --ask-benchmarks loads it and counts"
        return EvaluationPlan(label, f"what {endpoint.called} takes for requests that nobody counted{todo}")
    usual = generation_of(variant.manifest, index).max_new_tokens
    # Those at the reference's own length aren't asked.
    texts = [each for each in found if isinstance(each, PlannedTexts) and each.reference is None]
    wanted = entry.samples_per_task * sum(each.count for each in texts)
    tokens = entry.samples_per_task * sum(each.count * (each.length or usual) for each in texts)
    return EvaluationPlan(
        label, f"what {endpoint.called} takes for {wanted:,} requests, at most {tokens:,} tokens written"
    )


def missing_for(endpoint: Endpoint) -> list[str]:
    """What asking it needs that isn't here."""
    found = []
    if importlib.util.find_spec("httpx2") is None:
        found.append("the package httpx2: pip install 'open-dllm[serve]'")
    if endpoint.token_env is not None and not os.environ.get(endpoint.token_env, "").strip():
        found.append(f"the environment variable {endpoint.token_env}, with the server's token")
    return found
