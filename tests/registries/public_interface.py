"""What `INTERFACE_VERSION` stands for, as text: hooks, contracts and options bases, with all their defaults.

    python tests/registries/public_interface.py     writes interface.txt anew

It reads the source, and so says the same on every Python, whatever is installed.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

REGISTRIES = Path(__file__).parents[2] / "registries"
SNAPSHOT = Path(__file__).parent / "interface.txt"
PUBLIC = (
    "__init__",
    "hookspecs",
    "frozen_options",
    "options",
    "errors",
    "noise_schedules",
    "objectives",
    "policies",
    "samplers",
    "backbones",
    "corpora",
    "benchmarks",
    "rewards",
    "problems",
    "sequences",
    "gaps",
    "planned_requests",
    "trained_noise",
    "architecture",
)
"""The modules that a plugin's author imports."""
INTERNAL = (
    "attribute_checks",
    "deprecations",
    "discovery",
    "extension_points",
    "machine_errors",
    "model_checks",
    "objective_checks",
    "plugin_calls",
    "policy_checks",
    "registry",
    "result_checks",
    "source_lines",
    "sources",
    "suggestions",
    "tensor_checks",
    "typed_options",
    "version",
)
"""What the platform does with plugins."""
VERSION = re.compile(r"^plugin interface (\S+)\n")


def version() -> str:
    """`INTERFACE_VERSION`."""
    [found] = re.findall(
        r'^INTERFACE_VERSION = "(.+)"', (REGISTRIES / "version.py").read_text(), re.MULTILINE
    )
    return str(found)


def interface() -> str:
    """The text, without the version that heads it."""
    lines = []
    for name in PUBLIC:
        lines += [f"# {name}", *_module(ast.parse((REGISTRIES / f"{name}.py").read_text())), ""]
    return "\n".join(lines)


def _module(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            if not node.name.startswith("_"):
                yield from _class(node)
        else:
            yield from _member(node, "")


def _class(node: ast.ClassDef) -> Iterator[str]:
    given = ", ".join(map(ast.unparse, [*node.bases, *node.keywords]))
    yield from (f"@{ast.unparse(each)}" for each in node.decorator_list)
    yield f"class {node.name}({given})" if given else f"class {node.name}"
    for each in node.body:
        yield from _member(each, "    ")


def _member(node: ast.stmt, indent: str) -> Iterator[str]:
    """A name with its type and default, or a function with its signature; of its body nothing."""
    if isinstance(node, ast.FunctionDef):
        if not node.name.startswith("_") or node.name == "__call__":
            yield from (f"{indent}@{ast.unparse(each)}" for each in node.decorator_list)
            returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
            yield f"{indent}def {node.name}({ast.unparse(node.args)}){returns}{_answer(node)}"
        return
    target: ast.expr | None = None
    if isinstance(node, ast.AnnAssign):
        target = node.target
    elif isinstance(node, ast.Assign):
        [target] = node.targets
    if isinstance(target, ast.Name) and (target.id == "__all__" or not target.id.startswith("_")):
        yield f"{indent}{_without_descriptions(node)}"


def _answer(node: ast.FunctionDef) -> str:
    """What a method says by default, where it does nothing else."""
    body = [
        each
        for each in node.body
        if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
    ]
    if len(body) == 1 and isinstance(body[0], ast.Return) and body[0].value is not None:
        return f": {ast.unparse(body[0].value)}"
    return ""


def _without_descriptions(node: ast.stmt) -> str:
    """How an option is described is no part of the interface."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            call.keywords = [each for each in call.keywords if each.arg != "description"]
    return ast.unparse(node)


def main() -> None:
    """Write the snapshot, unless it would say something else of the same version."""
    written = SNAPSHOT.read_text() if SNAPSHOT.exists() else ""
    head = f"plugin interface {version()}\n"
    if written.startswith(head) and written != f"{head}\n{interface()}":
        sys.exit(
            f"the interface isn't what {version()} was: raise INTERFACE_VERSION in registries/version.py "
            f"first (the first number where plugins have to be changed, the second where there is more)"
        )
    SNAPSHOT.write_text(f"{head}\n{interface()}")


if __name__ == "__main__":
    main()
