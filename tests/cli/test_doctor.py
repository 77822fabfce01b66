"""`doctor` and `plan`: what a machine has, known before anything is spent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.planning.devices import gpus_here

Here = Callable[..., tuple[Any, str, str]]
SMI = 'echo "NVIDIA H200, 143771, 570.86.15"\necho "NVIDIA H200, 143771, 570.86.15"'


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A tool of the driver's that does this."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, SMI)


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "exit 9")


@pytest.fixture
def pretraining(repository: Path) -> Path:
    return repository / "experiments" / "open-dcoder-0.5b-pretraining.yaml"


@pytest.mark.usefixtures("no_gpu")
def test_doctor_looks_at_everything_and_says_what_to_do(here: Here) -> None:
    code, output, errors = here("doctor", "--json")
    assert (code, errors) == (0, "")
    found = json.loads(output)
    assert {each["what"] for each in found} >= {
        "Python", "torch", "GPU", "attention", "DeepSpeed", "compiler", "sandbox", "hub", "disk"
    }  # fmt: skip
    for each in found:
        assert each["found"]
        assert each["state"] == "ok" or each["advice"], each


def test_a_part_that_is_broken_is_a_finding(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("libc10.so: cannot open\x1b[2J")

    monkeypatch.setattr("opendllm.core.cli.doctor_command.import_model_libraries", broken)
    code, output, _ = here("doctor")
    assert code == 1
    assert "problem torch       OSError: libc10.so: cannot open\\x1b[2J" in output
    assert "pip install" in output


@pytest.mark.usefixtures("two_gpus")
def test_gpus_that_torch_does_not_see_are_a_problem(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, output, _ = here("doctor")
    assert code == 1
    assert "2 in this machine, and torch sees none" in output


@pytest.mark.usefixtures("two_gpus")
def test_a_plan_is_of_this_machines_gpu(here: Here, pretraining: Path) -> None:
    _, output, _ = here("plan", pretraining)
    assert output.startswith("device: H200, as in this machine; this machine: 2 x NVIDIA H200 (140 GiB), ")
    _, output, _ = here("plan", pretraining, "--set", "train.micro_batch_size=512")
    assert "more than the 140.4 GiB of one H200" in output


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_names_the_device_that_it_assumes_and_what_is_missing(here: Here, pretraining: Path) -> None:
    _, output, _ = here("plan", pretraining)
    assumed = "device: H100, assumed: --peak-tflops says what another one reaches; this machine: "
    assert output.startswith(assumed)
    assert output.splitlines()[0].endswith(" GiB, no GPU")
    content = json.loads(here("plan", pretraining, "--json", "--peak-tflops", "100")[1])
    assert content["device"]["why"] == "H100 with 100 TFLOP/s, as --peak-tflops says"
    [found] = content["variants"].values()
    assert any("is downloaded from the hub" in what for what in found["missing"])


@pytest.mark.parametrize(
    "script", ["exit 9", "echo", "echo NVIDIA, many, 1", "echo No devices were found", "kill $$"]
)
def test_a_driver_that_fails_has_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    driver(tmp_path, monkeypatch, script)
    assert gpus_here() == []
