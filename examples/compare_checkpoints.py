"""Checkpoints side by side in one report: perplexity, and hidden lines of Python's own library.

    python examples/compare_checkpoints.py runs/quickstart/llada runs/quickstart/dream

Writes a manifest, so that the comparison can be changed and run again, and runs it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from opendllm.core.checkpoints.families import backbone_of
from opendllm.core.checkpoints.pretrained import fetch
from opendllm.core.experiment import run_experiment
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

MANIFEST = Path("compare-checkpoints.yaml")


def variant(checkpoint: str) -> dict[str, Any]:
    """Evaluates a checkpoint as it is, decoded as its family's authors do: no sampler is named."""
    family = backbone_of(installed_plugins(), fetch(checkpoint), None)
    return {"model": {"backbone": {"name": family.name, "options": {"pretrained": checkpoint}}}}


def main(*checkpoints: str, limit: int = 8) -> Path:
    """Compare them on so many problems of each benchmark, few at first; the folder with report.html."""
    variants = {Path(checkpoint).name: variant(checkpoint) for checkpoint in checkpoints}
    [first, *_] = variants.values()
    manifest = {
        "name": "compare-checkpoints",
        "model": first["model"],
        "data": {"corpus": {"name": "python-stdlib"}, "sequence_length": 64},
        "generate": {"steps": 8, "max_new_tokens": 8},
        "evaluate": [
            {"benchmark": {"name": "perplexity"}, "likelihood_draws": 8},
            {"benchmark": {"name": "stdlib-infilling", "options": {"fixed_lengths": [8]}}},
        ],
        "variants": variants,
    }
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n")  # JSON is YAML
    return run_experiment(read_experiment(MANIFEST, [], installed_plugins()), limit=limit)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("usage: python examples/compare_checkpoints.py CHECKPOINT...")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
