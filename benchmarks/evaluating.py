"""A whole evaluation, `platform evaluate` itself, in several ways side by side: each in a fresh process.

    python benchmarks/evaluating.py [--device cuda] [--preset 0.5b] [--limit 9] [--ways NAME ...]

164 prompts of 50 to 350 tokens, the beginnings of the standard library's functions, are completed by a model
of random weights: by p2 in as many steps as there are new tokens, and by low-confidence in blocks of 32 with
the dual cache. Each way uncompiled, with `compile: graphs`, and with `compile: true` twice: the second run
finds the first one's kernels on disk.

Each way's process may keep the bytecode of what it imports, whatever PYTHONDONTWRITEBYTECODE says: without
it each start compiles torch's sources, which takes four seconds.

`start` is what passes until the first text is to be written: imports, loading, reading problems; its parts
follow in a line of their own, and after them what the first step takes. `decode` is
the writing, compiling and capturing included. `busy` is the share of it in which the GPU runs kernels, from
those of 24 steps in its midst (whose time, slowed down by the looking, counts nowhere). `rest` is what
remains of the wall time: results, one trace for the report, the report.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from decoding_models import random_model
from decoding_settings import PRESETS

from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.registries.corpora import Document

HERE = Path(__file__).parent
FEWEST, MOST = 50, 350
"""Tokens of a prompt."""
PROMPTS = 164
ENTRIES = 4096
"""Of the tokenizer's vocabulary, at most: prompts of code are about as long as in a published one."""
BLOCK = 32
MODES: dict[str, list[str]] = {
    "": [],
    ", graphs": ["-o", "compile=graphs"],
    ", compiled": ["-o", "compile=true"],
    ", compiled again": ["-o", "compile=true"],
}


def ways(new: int) -> dict[str, list[str]]:
    """Name -> what the command is told."""
    length = ["-o", f"max_new_tokens={new}", "-o", f"steps={new}"]
    samplers = {
        "p2": ["--sampler", "p2", *length],
        "dual": [
            *("--sampler", "low-confidence", *length),
            *("-o", f"block_length={min(BLOCK, new)}", "-o", "cache=dual"),
        ],
    }
    return {
        name + mode: [*options, *own] for name, options in samplers.items() for mode, own in MODES.items()
    }


def functions() -> Iterator[str]:
    """The standard library's, from their first line on."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                yield "\n".join(lines[node.lineno - 1 : node.end_lineno])


def prepare(folder: Path, preset: str, device: str) -> tuple[Path, Path]:
    """(a checkpoint of random weights, with a tokenizer; problems in HumanEval's form)."""
    texts = list(functions())
    entries = min(PRESETS[preset][2] or ENTRIES, ENTRIES)
    tokenizer = train_tokenizer([Document(str(at), text) for at, text in enumerate(texts)], entries)
    model = folder / "model"
    model.mkdir()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    lm = random_model(device, preset, dtype, mask_token_id=tokenizer.mask_token_id).lm
    lm.save(model, lm.module.state_dict())
    tokenizer.save_pretrained(model)
    problems = folder / "problems.jsonl"
    found: list[dict[str, str]] = []
    for text in texts:
        wanted = FEWEST + (len(found) * 97) % (MOST - FEWEST + 1)
        ids = tokenizer.encode(text, add_special_tokens=False)[:wanted]
        if len(ids) == wanted and len(found) < PROMPTS:
            row = {"prompt": tokenizer.decode(ids), "entry_point": "f", "canonical_solution": "", "test": ""}
            found.append({"task_id": f"ours/{len(found)}", **row})
    problems.write_text("".join(json.dumps(row) + "\n" for row in found))
    return model, problems


def evaluation(folder: Path, command: list[str], cache: Path) -> dict[str, Any]:
    """One way's figures.

    Raises:
        SystemExit: the command failed; with what it said.
    """
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    started = time.time()
    done = subprocess.run(
        [sys.executable, str(HERE / "watched_evaluation.py"), str(report), str(started), *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": ""},
    )
    wall = time.time() - started
    if done.returncode or not report.is_file():
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(report.read_text())
    spent = found["start_up_seconds"] + found["decoding_seconds"] + found["profiled_seconds"]
    return {"seconds": wall - found["profiled_seconds"], "rest_seconds": wall - spent, **found}


COLUMNS = (
    ("wall", "seconds", ".1f"),
    ("start", "start_up_seconds", ".1f"),
    ("decode", "decoding_seconds", ".1f"),
    ("rest", "rest_seconds", ".1f"),
    ("tok/s", "tokens_per_second", ".0f"),
    ("rows", "rows", "d"),
    ("passes", "steps", "d"),
    ("busy", "busy_share", ".0%"),
    ("graphs", "captured", "d"),
    ("shapes", "shapes", "d"),
    ("capture", "capture_seconds", ".1f"),
)
"""Title, key of a line, and how it is written."""


def line_of(name: str, figures: dict[str, Any], tokens: int) -> dict[str, Any]:
    """A line of the table."""
    graphs = figures.pop("graphs")
    return {
        "name": name,
        **figures,
        "tokens_per_second": tokens / figures["decoding_seconds"],
        "captured": sum(each["graphs"] for each in graphs),
        "shapes": sum(each["shapes"] for each in graphs),
        "capture_seconds": sum(each["capture_seconds"] for each in graphs),
    }


def table_line(line: dict[str, Any]) -> str:
    """A line of the table."""
    values = ("" if line[key] is None else format(line[key], how) for _, key, how in COLUMNS)
    return f"{line['name']:22}" + "".join(f"{value:>9}" for value in values)


def start_line(line: dict[str, Any]) -> str:
    """What the start-up consists of, in seconds."""
    parts = {**line["start_up_parts"], "(first step)": line["first_step_seconds"] or 0.0}
    return "  start: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--preset", default="0.5b", choices=tuple(PRESETS))
    parser.add_argument("--limit", type=int, default=PROMPTS, help="prompts")
    parser.add_argument("--new", type=int, default=128, help="tokens")
    parser.add_argument("--batch", default="auto", help="rows side by side")
    parser.add_argument("--ways", nargs="*", default=[], help="lines of the table; by default all")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    all_ways = ways(given.new)
    if given.device == "cpu":
        all_ways = {name: options for name, options in all_ways.items() if ", graphs" not in name}
    unknown = [name for name in given.ways if name not in all_ways]
    if unknown:
        raise SystemExit(f"no way {unknown[0]!r} on {given.device}: {', '.join(map(repr, all_ways))}")
    folder = Path(tempfile.mkdtemp(prefix="evaluating-"))
    lines = []
    try:
        model, problems = prepare(folder, given.preset, given.device)
        count = min(given.limit, len(problems.read_text().splitlines()))
        about = {
            "device": given.device,
            "preset": given.preset,
            "torch": torch.__version__,
            "prompts": count,
            "new": given.new,
        }
        print(f"{count} prompts, {given.new} new tokens each, {given.preset} on {given.device}")
        print(f"{'':22}" + "".join(f"{title:>9}" for title, _, _ in COLUMNS), flush=True)
        for name in given.ways or all_ways:
            command = ["evaluate", str(model), "--benchmark", "humaneval", "-o", f"problems={problems}"]
            command += ["--limit", str(count), "--device", given.device, "-o", f"batch_size={given.batch}"]
            command += [*all_ways[name], "--output", str(folder / "runs" / name.replace(", ", "-"))]
            cache = folder / f"kernels-{name.split(',')[0]}"
            if not name.endswith("again"):
                shutil.rmtree(cache, ignore_errors=True)
            lines.append(line_of(name, evaluation(folder, command, cache), count * given.new))
            print(table_line(lines[-1]))
            print(start_line(lines[-1]), flush=True)
            if given.json:
                given.json.write_text(json.dumps({**about, "lines": lines}, indent=2) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
