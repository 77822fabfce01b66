"""What one process alone, which joined no group, gets from the calls that all ranks make."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import torch

from opendllm.core import foundation
from opendllm.core.foundation.process_group import from_first, summed, text_from_first, wait_for_all


def test_one_process_is_its_own_first_and_waits_for_nobody() -> None:
    wait_for_all()
    assert from_first([3, 4]) == [3, 4]
    assert text_from_first("naïve\n\u2028") == "naïve\n\u2028"
    assert text_from_first("") == ""
    assert torch.equal(summed(torch.tensor([2.0])), torch.tensor([2.0]))


def test_foundation_imports_no_torch() -> None:
    modules = pkgutil.iter_modules(foundation.__path__)
    imports = "; ".join(f"import opendllm.core.foundation.{module.name}" for module in modules)
    assert "ranks" in imports
    code = (
        f"import sys; {imports}; print(sorted({{'torch', 'datasets', 'huggingface_hub'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
