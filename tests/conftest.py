"""Shared by all tests."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

# Before torch is imported anywhere: spinning threads starve each other on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-")

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from opendllm.core import load
from opendllm.core.language_model import LanguageModel
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.sequences import AttentionPattern, ModelInputs

Platform = Callable[..., subprocess.CompletedProcess[str]]
REPOSITORY = Path(__file__).parent.parent


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Tiny checkpoints, for any test: what reads the vectors themselves takes `golden_vectors`."""
    return REPOSITORY / "tests" / "goldens"


@pytest.fixture(scope="session")
def platform() -> Platform:
    """Run a command in a process of its own."""

    def run(*arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "opendllm.core", *arguments],
            cwd=cwd,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def golden_model(goldens: Path) -> Callable[[str], LanguageModel]:
    """The golden checkpoint of a family."""
    return functools.cache(lambda family: load(goldens / family, mask_token_id=150, device="cpu"))


class RandomFunctionLM(DiffusionLM):
    """Logits of every position are a fixed random function of the whole row."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        self.module = nn.Linear(1, 1)
        self.mask_token_id = vocab_size
        self.eos_token_id = None
        self.vocab_size = vocab_size
        self.context_length = 64
        self.attention = AttentionPattern()
        self.logit_shift = False
        self._seed = seed

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        rows = []
        for row in inputs.tokens.tolist():
            generator = torch.Generator().manual_seed(hash((self._seed, *row)) % 2**31)
            rows.append(torch.randn(len(row), self.vocab_size, generator=generator) * 1.5)
        return torch.stack(rows)

    def project(self, hidden: Tensor) -> Tensor:
        return hidden

    def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        return cross_entropy(self.hidden_states(inputs)[scored], targets[scored], reduction="none")

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        raise NotImplementedError


@pytest.fixture
def random_lm() -> Callable[..., RandomFunctionLM]:
    """(vocab_size, seed) -> such a model; its mask is the id `vocab_size`."""
    return RandomFunctionLM
