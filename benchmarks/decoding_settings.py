"""The ways of decoding that `decoding.py` measures, and the models that it builds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import Destination
from opendllm.registries.options import SamplerOptions

PRESETS: dict[str, tuple[str, str, int | None]] = {
    "nano": ("open-dcoder", "nano", 512),
    "small": ("open-dcoder", "small", 32000),
    "0.5b": ("open-dcoder", "0.5b", None),
    "8b": ("llada", "8b", None),
}
"""Name -> backbone, its preset, and entries of the vocabulary; None for the published one's."""
DRAWN = {"temperature": 1.0}
HOT = {"temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True)
class Setting:
    """One way of decoding, and the plain loop that it is compared with.

    Attributes:
        name: for the table.
        sampler: the plugin.
        options: the decoder's and the sampler's, flat.
        plain: which of `plain_loops`; none where empty.
        goal: the ratio to reach, if there is one.
        rows: of the batch.
        noise: what the model counts as trained on.
    """

    name: str
    sampler: str
    options: dict[str, Any]
    plain: str
    goal: float | None = None
    rows: int = 8
    noise: Destination = "mask"


DUAL = {"cache": "dual", "block_length": 32}
GOALS = [
    Setting("low-confidence", "low-confidence", {}, "low-confidence", 1.8),
    Setting("entropy", "entropy", {}, "entropy", 1.8),
    Setting("p2", "p2", {}, "p2", 1.5),
    Setting("low-confidence, dual", "low-confidence", DUAL, "low-confidence", 7),
    Setting("low-confidence, hot", "low-confidence", HOT, "low-confidence", 8),
    Setting("entropy, hot", "entropy", HOT, "entropy", 8),
    Setting("entropy, hot, all filtered", "entropy", HOT, "entropy-everywhere", 8),
    Setting("p2, hot", "p2", HOT, "p2", 8),
    Setting("low-confidence, dual, hot", "low-confidence", {**DUAL, **HOT}, "low-confidence", 40),
    # A pass of these costs no more than one of p2, whose plain loop they stand beside.
    Setting("p2, drawn", "p2", DRAWN, "p2"),
    Setting("uniform-ancestral", "uniform-ancestral", DRAWN, "p2", noise="uniform"),
    Setting("predictor-corrector", "predictor-corrector", DRAWN, "p2", noise="uniform"),
    Setting("gidd", "gidd", DRAWN, "p2", noise="mixture"),
]
ONE_ROW = {"block_length": 32}
ONE_ROW_DUAL = {**ONE_ROW, "cache": "dual"}
MULTI_BLOCK = {"block_add_threshold": 0.1, "decoded_token_threshold": 0.95}
PUBLISHED = [
    Setting("low-confidence", "low-confidence", ONE_ROW, "", rows=1),
    Setting("low-confidence, prefix", "low-confidence", {**ONE_ROW, "cache": "prefix"}, "", rows=1),
    *(
        Setting("low-confidence, dual", "low-confidence", ONE_ROW_DUAL, "", rows=rows)
        for rows in (1, 8, 32, 128)
    ),
    Setting("threshold, dual", "confidence-threshold", ONE_ROW_DUAL, "", rows=1),
    Setting(
        "multi-block, delayed", "multi-block", {**ONE_ROW, **MULTI_BLOCK, "cache": "delayed"}, "", rows=1
    ),
]
"""At published sizes: beside the floor, since a plain loop would take minutes."""
TRAINED = [
    Setting("low-confidence", "low-confidence", {}, "low-confidence"),
    Setting("low-confidence, dual", "low-confidence", DUAL, "low-confidence"),
    Setting("threshold 0.9", "confidence-threshold", {"threshold": 0.9}, "low-confidence"),
    Setting("threshold 0.9, dual", "confidence-threshold", {"threshold": 0.9, **DUAL}, "low-confidence", 15),
    Setting("factor 1, dual", "confidence-factor", {"factor": 1.0, **DUAL}, "low-confidence"),
    Setting("entropy-bounded 0.35, dual", "entropy-bounded", {"gamma": 0.35, **DUAL}, "low-confidence"),
]


def everything() -> list[Setting]:
    """Every sampler x cache x batch size."""
    found = []
    for name in installed_plugins().samplers.names():
        plain = "p2" if name in ("p2", "remdm") else "entropy" if "entropy" in name else "low-confidence"
        sampler = installed_plugins().samplers.get(name).options
        assert issubclass(sampler, SamplerOptions)
        unread = sampler.without_effect
        noise: Destination = "mask" if "mask" in sampler.destinations else sorted(sampler.destinations)[0]
        for cache in ("none", "prefix", "dual") if "cache" not in unread else ("none",):
            for rows in (1, 8):
                options: dict[str, Any] = {} if cache == "none" else {"cache": cache, "block_length": 32}
                if name == "dreamon":
                    options |= {"expand_token_id": 1}
                found.append(Setting(f"{name}, {cache}", name, options, plain, rows=rows, noise=noise))
    return found
