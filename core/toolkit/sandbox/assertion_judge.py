"""A judge's script: published tests that assert, run against a candidate in another process.

Sent to the sandbox as text. The tests' own namespace is the gold program's: helpers that they use come
from there, and from the candidate only what is under test. Standard library only.
"""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opendllm.core.toolkit.sandbox.remote import Candidate


@dataclass(frozen=True)
class Prepared:
    """Compiled once for all candidates of a problem.

    Attributes:
        gold: the published solution.
        tests: what asserts.
        entry_point: the one name that comes from the candidate, whose tests are `check(candidate)`; None
            where every name that the tests use does.
        used: names that the tests use and don't define.
    """

    gold: CodeType
    tests: CodeType
    entry_point: str | None
    used: frozenset[str]


def prepare(data: dict[str, Any]) -> Prepared:
    """Compile `gold` and `tests`, and see that the gold solution runs."""
    gold = compile(data["gold"], "<gold>", "exec", dont_inherit=True)
    namespace: dict[str, Any] = {}
    exec(gold, namespace)  # noqa: S102
    used = _used_names(data["tests"])
    defined = {name for name in used if name in namespace or not hasattr(builtins, name)}
    tests = compile(data["tests"], "<tests>", "exec", dont_inherit=True)
    return Prepared(gold, tests, data.get("entry_point"), frozenset(defined))


def judge(candidate: Candidate, prepared: Prepared, part: str) -> None:
    """Run the tests; whatever they raise fails the candidate."""
    candidate.load()
    namespace: dict[str, Any] = {}
    exec(prepared.gold, namespace)  # noqa: S102
    names = [prepared.entry_point] if prepared.entry_point else sorted(prepared.used)
    found = candidate.names(names)
    for name in names:
        # A module is the tests' own, so that its functions can't be the candidate's; but a test that uses
        # one which the candidate doesn't import fails, as where both share a namespace.
        if name in found and isinstance(namespace.get(name), ModuleType):
            continue
        namespace.pop(name, None)
        if name in found:
            namespace[name] = found[name]
    exec(prepared.tests, namespace)  # noqa: S102
    if prepared.entry_point:
        namespace["check"](namespace[prepared.entry_point])


def _used_names(source: str) -> set[str]:
    loaded: set[str] = set()
    stored: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name):
                (loaded if isinstance(node.ctx, ast.Load) else stored).add(name)
            case ast.arg(arg=name) | ast.FunctionDef(name=name):
                stored.add(name)
            case ast.alias():
                stored.add((node.asname or node.name).split(".")[0])
    return loaded - stored
