"""A sampler of one's own, tried on a checkpoint beside p2.

    python examples/add_a_sampler.py runs/quickstart/open-dcoder

What is tried here needs no package. To name it in manifests, `platform new-plugin my-sampler --kind sampler`
makes one, and the class below goes into its sampler.py.
"""

from __future__ import annotations

import sys
from typing import ClassVar

import torch

from opendllm.core import load
from opendllm.core.toolkit.ranking import best_in_row
from opendllm.registries import SamplerOptions
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.registry import Provenance, Registration
from opendllm.registries.samplers import Sampler, Selection, Step

GAPS = [("def add(a, b):\n    ", "\n    return c\n"), ("for name in names:\n    ", "\n")]


class OutsideInOptions(SamplerOptions):
    """None."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})


class OutsideIn(Sampler):
    """Commits a position a step, from the ends of a gap to its middle: next to what is known already."""

    def __init__(self, options: OutsideInOptions) -> None:
        pass

    def select(self, step: Step) -> Selection:
        """The masked position that is furthest from the middle of what is still masked, in each row."""
        columns = torch.arange(step.masked.shape[1], device=step.masked.device).double()
        count = step.masked.sum(-1, keepdim=True).clamp(min=1)
        middle = (columns * step.masked).sum(-1, keepdim=True) / count
        furthest = best_in_row((columns - middle).abs(), step.masked, torch.ones_like(step.index))
        return Selection(commit=furthest)


def main(checkpoint: str) -> dict[str, list[str]]:
    """Fill two gaps with both samplers; the texts, by sampler."""
    installed_plugins().samplers.add(
        Registration(
            "samplers",
            "outside-in",
            OutsideInOptions,
            f"{__name__}:OutsideIn",
            "from the ends of a gap to its middle",
            Provenance("this-script", "0"),
        )
    )
    lm = load(checkpoint)
    texts: dict[str, list[str]] = {}
    for sampler in ("p2", "outside-in"):
        texts[sampler] = lm.infill(GAPS, 8, sampler=sampler, temperature=0.8, seed=1)
        for (prefix, suffix), middle in zip(GAPS, texts[sampler], strict=True):
            print(f"--- {sampler}\n{prefix}[{middle}]{suffix}")
    return texts


if __name__ == "__main__":
    main(sys.argv[1])
