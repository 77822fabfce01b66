"""How long commands take to answer, in seconds of processor time, and which imports take it.

    python benchmarks/starting.py CHECKPOINT [--imports 15]

CHECKPOINT is what `platform generate --checkpoint` takes, a run of the quickstart say.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import time

PLATFORM = (sys.executable, "-m", "opendllm.core")
IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+(?:\.\w+)?)")


def cost(arguments: list[str]) -> tuple[float, float]:
    """(processor seconds, seconds) of one command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*PLATFORM, *arguments], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, time.perf_counter() - started


def import_seconds(arguments: list[str]) -> dict[str, float]:
    """Seconds by package or second-level module, of its own modules alone, the largest first."""
    command = [sys.executable, "-X", "importtime", *PLATFORM[1:], *arguments]
    profile = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    total: dict[str, float] = {}
    for match in IMPORT.finditer(profile):
        total[match[2]] = total.get(match[2], 0.0) + int(match[1]) / 1e6
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--imports", type=int, default=15)
    given = parser.parse_args()
    writes = ["generate", "--checkpoint", given.checkpoint, "--prompt", "def add(a, b):"]
    commands = {
        "--version": ["--version"],
        "a misspelt sampler": [*writes, "--sampler", "lowconfidence"],
        "generate": writes,
    }
    for name, arguments in commands.items():
        cost(arguments)  # files come into memory
        used, passed = cost(arguments)
        print(f"{name:20} {used:6.2f} s of processor time, {passed:6.2f} s")
    for module, seconds in list(import_seconds(writes).items())[: given.imports]:
        print(f"  {seconds:6.2f} s  {module}")


if __name__ == "__main__":
    main()
