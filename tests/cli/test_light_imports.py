"""Commands that need no model answer without loading what models need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "deepspeed", "datasets", "lm_eval", "plotly", "numpy", "tokenizers"}

SCRIPT = """
import sys
from opendllm.core.cli.main import main
sys.argv = ["platform", *sys.argv[1:]]
try:
    main()
except SystemExit as left:
    assert not left.code, left.code
print("LOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["generate", "--help"],
        ["score", "--help"],
        ["validate", "experiments/quickstart.yaml"],
        ["plugins"],
        ["plugins", "--json"],
        ["plugins", "show", "samplers/p2"],
        ["schema"],
    ],
    ids=" ".join,
)
def test_it_loads_nothing_heavy(repository: Path, arguments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=repository, capture_output=True, text=True, check=True
    )
    label, *loaded = result.stdout.splitlines()[-1].split()
    assert label == "LOADED"
    assert "opendllm" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("module", ["opendllm.core", "opendllm.plugins.builtin", "opendllm.core.run.folder"])
def test_the_module_loads_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(loaded.split())
