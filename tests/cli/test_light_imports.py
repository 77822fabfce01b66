"""Commands that need no model answer without loading what models need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Platform

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
        ["evaluate", "--help"],
        ["serve", "--help"],
        ["doctor", "--help"],
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


REFUSALS = {
    "generate --checkpoint {model} --prompt x --sampler lowconfidence": "did you mean 'low-confidence'",
    "generate --checkpoint {model} --prompt x --sampler gidd": "undoes mixture noise",
    "generate --checkpoint {model} --prompt x -o stepz=3": "did you mean 'steps'",
    "generate --checkpoint {model} --prompt x -o steps=0": "steps: ",
    "generate --checkpoint {model}x --prompt x": "does not exist",
    "generate --checkpoint some/model --prompt x --sampler remdm -o eta=x": "eta: ",
    "evaluate {model} --benchmark perplexty": "did you mean 'perplexity'",
    "evaluate {model} --benchmark perplexity -o docs=3": "did you mean 'documents'",
    "status {model}": "it is no run",
    "score --benchmark humanevl --samples x.jsonl": "did you mean 'humaneval'",
}
"""Mistakes, and what is said of them."""


@pytest.mark.parametrize("command", REFUSALS)
def test_a_mistake_is_named_before_anything_heavy_is_loaded(goldens: Path, command: str) -> None:
    arguments = command.format(model=goldens / "llada").split()
    script = SCRIPT.replace("assert not left.code, left.code", "assert left.code == 2, left.code")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert REFUSALS[command] in done.stderr
    assert not HEAVY & set(done.stdout.splitlines()[-1].split())


WHAT_IS_IMPORTED = """
import gc, sys
from opendllm.core.foundation.heavy_imports import import_model_libraries
import_model_libraries()
assert gc.isenabled()
assert "transformers.modeling_utils" in sys.modules
assert not {"scipy", "torchao"} & set(sys.modules)
from transformers.loss.loss_for_object_detection import linear_sum_assignment
assert linear_sum_assignment([[4, 1], [2, 3]])[1].tolist() == [1, 0]
from scipy.optimize import minimize
import scipy.optimize._linesearch
from transformers.quantizers.quantizer_torchao import flatten_tensor_state_dict
assert flatten_tensor_state_dict({}) == ({}, {"tensor_names": "[]"})
"""


def test_what_other_models_need_is_imported_once_they_call_it() -> None:
    """SciPy's optimizers and torchao, of which transformers has functions of ours until then."""
    done = subprocess.run(
        [sys.executable, "-c", WHAT_IS_IMPORTED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_generate_says_nothing_but_how_far_it_is(platform: Platform, model: Path) -> None:
    """No library's warning; and what it wrote stands alone on standard output."""
    asked = ("generate", "--checkpoint", model, "--prompt", "x", "-o", "steps=2")
    done = platform(*asked, cwd=model)
    assert done.returncode == 0
    said = [line.split("] ", 1)[1] for line in done.stderr.splitlines()]
    said = [line for line in said if not line.startswith("still ")]  # as on a machine that is busy
    assert said == ["importing libraries", "loading the model", "generating", "generating: 1 of 1 prompts"]
    quiet = platform(*asked, "--progress", "none", cwd=model)
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")


@pytest.mark.parametrize("module", ["opendllm.core", "opendllm.plugins.builtin", "opendllm.core.run.folder"])
def test_the_module_loads_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(loaded.split())
