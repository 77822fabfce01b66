"""`doctor`: what this machine has for a run, and what to do about what it lacks."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Annotated, Literal

import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from opendllm.core.foundation.cores import usable_cores
from opendllm.core.foundation.heavy_imports import import_model_libraries
from opendllm.core.foundation.hub import hub_cache, why_unreachable
from opendllm.core.foundation.visible_text import visible_line
from opendllm.core.planning.devices import gpus_here
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError, first_line

IMPORT_SECONDS = 120
"""For flash-attn to be imported, with torch."""
_IS_NOT_USED = 3
_IMPORT_FLASH_ATTENTION = f"""
import sys
try:
    from flash_attn import flash_attn_varlen_func
except ImportError as error:
    print(error)
    sys.exit({_IS_NOT_USED})
"""
LITTLE_DISK = 10 << 30
"""Bytes; a checkpoint of a small model with its optimizer has some."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: it is.
        state: "ok"; "note" where everything works, if not as well as it could; "problem" where runs fail.
        found: what there is.
        advice: what to do; empty where nothing is.
    """

    what: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Look at Python, torch, GPUs, kernels, DeepSpeed, other packages, the sandbox, the hub and the disk.

    Exit code 1 where something keeps runs from working.
    """
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("Python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("GPU", _gpu),
        ("attention", _attention),
        ("DeepSpeed", _deepspeed),
        ("compiler", _compiler),
        ("sandbox", _sandbox),
        ("hub", _hub),
        ("disk", _disk),
        ("plugins", _plugins),
    )
    findings = []
    for what, check in checks:
        for finding in _looked_at(what, check):
            findings.append(finding)
            if not as_json:
                _print(finding)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def _looked_at(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that fails itself is a finding too: broken installations raise anything."""
    try:
        yield from check()
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        yield Finding(what, "problem", why, "install it again: pip install -c constraints.txt open-dllm")


def _print(finding: Finding) -> None:
    advice = f"\n{'':14}{finding.advice}" if finding.advice else ""
    typer.echo(f"{finding.state:8}{finding.what:11} {visible_line(finding.found)}{advice}")


def _python() -> Iterator[Finding]:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    wanted = metadata("open-dllm")["Requires-Python"] or ""
    if SpecifierSet(wanted).contains(sys.version.split()[0].rstrip("+"), prereleases=True):
        yield Finding("Python", "ok", found)
    else:
        yield Finding(
            "Python",
            "problem",
            f"{found}, and {wanted} is needed",
            "install it into one of these",
        )


def _packages() -> Iterator[Finding]:
    """What the platform requires, as its own metadata have it; extras are looked at by those who use them."""
    unfit = 0
    for requirement in map(Requirement, requires("open-dllm") or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = None
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            unfit += 1
            is_there = "is missing" if found is None else f"{found} is installed"
            yield Finding(
                requirement.name, "problem", f"{is_there}, and {requirement.specifier} is needed",
                f"pip install '{requirement.name}{requirement.specifier}'",
            )  # fmt: skip
    if not unfit:
        yield Finding("packages", "ok", "all that are required, in versions that are")


def _torch() -> Iterator[Finding]:
    import_model_libraries()
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Finding("torch", "ok", f"{torch.__version__}, {build}; transformers {version('transformers')}")
    if not Path(importlib.util.cache_from_source(torch.__file__)).is_file():
        yield Finding(
            "start", "note", "torch has no bytecode, and Python keeps none: each start compiles its sources",
            f"unset PYTHONDONTWRITEBYTECODE, or python -m compileall -q {Path(torch.__file__).parent}",
        )  # fmt: skip


def _gpu() -> Iterator[Finding]:
    import torch

    gpus = gpus_here()
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(seen):
        about = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        used = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        yield Finding("GPU", "ok", f"{number}: {about.name}, {used}, compute {about.major}.{about.minor}")
    if not seen and gpus:
        why = "torch is a CPU build" if not torch.version.cuda else f"the driver is {gpus[0].driver}"
        yield Finding(
            "GPU", "problem", f"{len(gpus)} in this machine, and torch sees none: {why}",
            "install the CUDA build of torch that the driver supports, and look at CUDA_VISIBLE_DEVICES",
        )  # fmt: skip
    if not seen and not gpus:
        cores = usable_cores()
        yield Finding(
            "GPU", "note", f"none; {cores} CPU cores", "enough for nano models; larger ones want a GPU"
        )


def _attention() -> Iterator[Finding]:
    import torch

    if importlib.util.find_spec("flash_attn") is not None:
        yield _flash_attention()
    elif torch.cuda.is_available():
        yield Finding(
            "attention", "note", "torch's own variable-length kernels",
            "flash-attn is used where it can be imported: pip install --no-build-isolation 'open-dllm[gpu]'",
        )  # fmt: skip
    else:
        yield Finding("attention", "ok", "torch's own, document by document")


def _flash_attention() -> Finding:
    """It is imported in a process of its own: a build for another torch may end the one that tries."""
    try:
        named = f"flash-attn {version('flash-attn')}"
    except PackageNotFoundError:
        named = "flash-attn"
    tried = [sys.executable, "-P", "-c", _IMPORT_FLASH_ATTENTION]
    try:
        done = subprocess.run(tried, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(tried, 1, "", f"it took over {IMPORT_SECONDS} seconds")
    if done.returncode == 0:
        return Finding("attention", "ok", named)
    said = (done.stdout + done.stderr).strip().splitlines()
    why = said[-1] if said else f"exit code {done.returncode}"
    again = "pip install --force-reinstall --no-deps --no-build-isolation flash-attn"
    advice = f"build it for this torch: {again}; or pip uninstall flash-attn"
    if done.returncode == _IS_NOT_USED:
        torchs = "so torch's own kernels are used"
        return Finding("attention", "note", f"{named} cannot be imported, {torchs}: {why}", advice)
    return Finding("attention", "problem", f"{named} fails when it is imported: {why}", advice)


def _deepspeed() -> Iterator[Finding]:
    from opendllm.core.training.deepspeed_environment import deepspeed_environment

    with deepspeed_environment():
        import deepspeed
    yield Finding("DeepSpeed", "ok", str(deepspeed.__version__))


def _compiler() -> Iterator[Finding]:
    compiler = next(filter(None, (shutil.which(name) for name in ("c++", "g++", "clang++"))), None)
    if compiler:
        yield Finding("compiler", "ok", compiler)
    else:
        yield Finding(
            "compiler", "note", "no C++ compiler", "needed for `compile: true` only: apt install g++"
        )


def _sandbox() -> Iterator[Finding]:
    from opendllm.core.sandbox.sandbox import Sandbox

    try:
        with Sandbox("rlimits", 1) as sandbox:
            level, described = sandbox.level, sandbox.described
    except UserError as error:
        yield Finding(
            "sandbox", "note", str(error), "benchmarks that run generated code cannot be scored here"
        )
        return
    if level == "rlimits":
        yield Finding(
            "sandbox", "note", described,
            "programs see files as you do: install bubblewrap, or let users make namespaces "
            "(sysctl kernel.unprivileged_userns_clone=1)",
        )  # fmt: skip
    else:
        yield Finding("sandbox", "ok", described)


def _hub() -> Iterator[Finding]:
    why = why_unreachable()
    if why is None:
        yield Finding("hub", "ok", "the Hugging Face hub answers")
    else:
        yield Finding(
            "hub", "note", f"it can't be reached ({why})",
            "fetch checkpoints and data sets elsewhere, and give their folders and files",
        )  # fmt: skip


def _disk() -> Iterator[Finding]:
    for name, folder in (("working folder", Path.cwd()), ("hub's cache", hub_cache())):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        found = f"{free / 2**30:.0f} GiB free for the {name} {folder}"
        here = name == "working folder"
        elsewhere = "--set output=DIR puts a run elsewhere" if here else "HF_HOME=DIR puts them elsewhere"
        if not os.access(there, os.W_OK):
            what = "a run can't be written here" if here else "downloads can't be kept"
            yield Finding("disk", "note", f"{found}, not writable", f"{what}: {elsewhere}")
        elif free < LITTLE_DISK:
            what = "checkpoints" if here else "downloads"
            yield Finding("disk", "note", found, f"{what} may not fit: {elsewhere}")
        else:
            yield Finding("disk", "ok", found)


def _plugins() -> Iterator[Finding]:
    for broken in installed_plugins().broken:
        yield Finding(
            "plugins", "problem", f"{broken.provenance} ({broken.entry_point}): {broken.error}",
            "platform plugins --check says more",
        )  # fmt: skip
    extras = {"peft": "lora", "torchao": "large", "evalplus": "evalplus", "wandb": "trackers"}
    for package, extra in extras.items():
        try:
            version(package)
        except PackageNotFoundError:
            yield Finding("extras", "note", f"no {package}", f"pip install 'open-dllm[{extra}]' brings it")
