"""`doctor` and `plan`: what a machine has, known before anything is spent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.cli import doctor_command
from opendllm.core.foundation import cores
from opendllm.core.foundation.cores import usable_cores
from opendllm.core.launching.local import threads_each
from opendllm.core.planning.devices import Gpu, gpus_here, memory_here

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


def test_sources_that_are_compiled_at_each_start_are_a_note(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    [found] = [each for each in json.loads(here("doctor", "--json")[1]) if each["what"] == "start"]
    assert found["state"] == "note"
    assert "python -m compileall -q " in found["advice"]


def test_a_part_that_is_broken_is_a_finding(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("libc10.so: cannot open\x1b[2J")

    monkeypatch.setattr("opendllm.core.cli.doctor_command.import_model_libraries", broken)
    code, output, _ = here("doctor")
    assert code == 1
    assert "problem torch       OSError: libc10.so: cannot open\\x1b[2J" in output
    assert "pip install" in output


@pytest.mark.parametrize(
    ("module", "state", "found"),
    [
        ("flash_attn_varlen_func = print", "ok", "flash-attn"),
        (
            "raise ImportError('undefined symbol: _ZN3c10')",
            "note",
            "so torch's own kernels are used: undefined symbol",
        ),
        (
            "raise OSError('libcudart.so.12\\x1b')",
            "problem",
            "fails when it is imported: OSError: libcudart.so.12",
        ),
        ("import os; os.kill(os.getpid(), 11)", "problem", "fails when it is imported: exit code -11"),
    ],
)
def test_flash_attention_is_imported_and_not_only_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, state: str, found: str
) -> None:
    (tmp_path / "flash_attn.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    [finding] = doctor_command._attention()
    assert finding.state == state
    assert found in finding.found
    assert state == "ok" or "build it for this torch: pip install" in finding.advice
    assert "flash_attn" not in sys.modules


def test_versions_are_judged_by_what_the_platform_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    [fine] = doctor_command._packages()
    assert fine.state == "ok"
    wanted = ["torch>=2.11", "nosuchpackage>=3", "pluggy<99", 'flash-attn>=2.7; extra == "gpu"']
    monkeypatch.setattr(doctor_command, "requires", lambda name: wanted)
    monkeypatch.setattr(doctor_command, "version", {"torch": "2.4.1+cu121", "pluggy": "1.6"}.__getitem__)
    monkeypatch.setattr(doctor_command, "PackageNotFoundError", KeyError)
    assert [(each.what, each.state, each.found, each.advice) for each in doctor_command._packages()] == [
        ("torch", "problem", "2.4.1+cu121 is installed, and >=2.11 is needed", "pip install 'torch>=2.11'"),
        ("nosuchpackage", "problem", "is missing, and >=3 is needed", "pip install 'nosuchpackage>=3'"),
    ]
    monkeypatch.setattr(doctor_command, "metadata", lambda name: {"Requires-Python": ">=9.1"})
    [old] = doctor_command._python()
    assert old.state == "problem"
    assert old.advice


def test_a_folder_that_cannot_be_written_comes_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    run, cache = doctor_command._disk()
    assert run.found.endswith(", not writable")
    assert run.advice == "a run can't be written here: --set output=DIR puts a run elsewhere"
    assert cache.advice == "downloads can't be kept: HF_HOME=DIR puts them elsewhere"


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
    ("name", "model"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", None),  # slower
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA L40S", "L40S"),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(name: str, model: str | None) -> None:
    assert Gpu(name, 1 << 30, "1").model == model


def test_a_gpu_that_shares_the_machines_memory_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, monkeypatch, 'echo "NVIDIA GB10, [N/A], 580.95"')
    assert gpus_here() == [Gpu("NVIDIA GB10", memory_here(), "580.95")]


def test_a_small_gpu_beside_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here, pretraining: Path
) -> None:
    driver(tmp_path, monkeypatch, 'echo "NVIDIA T400, 4096, 1"\necho "NVIDIA H200, 143771, 1"')
    content = json.loads(here("plan", pretraining, "--json")[1])
    assert content["device"]["memory"] == 143771 << 20
    assert "1 x NVIDIA H200 (140 GiB) and 1 x NVIDIA T400 (4 GiB)" in json.dumps(content["this_machine"])


def test_a_containers_share_is_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    all_cores, memory = usable_cores(), memory_here()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (usable_cores(), memory_here()) == (all_cores, memory)
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text("1048576\n")
    assert (usable_cores(), memory_here()) == (1, 1048576)
    assert threads_each(1) == 1


def test_where_the_system_does_not_say_all_cores_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr(cores, "CGROUP", Path("/nowhere"))
    assert usable_cores() == 7


@pytest.mark.parametrize(
    "script", ["exit 9", "echo", "echo NVIDIA, many, 1", "echo No devices were found", "kill $$"]
)
def test_a_driver_that_fails_has_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    driver(tmp_path, monkeypatch, script)
    assert gpus_here() == []


def test_windows_is_told_to_take_wsl() -> None:
    """In one line, before what it lacks is imported."""
    script = "import sys; sys.platform = 'win32'; import opendllm.core.cli.main"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: this runs on Linux: on Windows, install it in WSL 2 and run it there\n"
