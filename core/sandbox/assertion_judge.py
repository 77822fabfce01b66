"""A judge's script: published tests that assert, run against a candidate in another process.

Sent to the sandbox as text. The tests' own namespace is the gold program's: helpers that they use come
from there, and from the candidate only what is under test. Standard library only.
"""

from __future__ import annotations

import ast
import builtins
import time
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opendllm.core.sandbox.remote import Candidate


SLOWER_THAN_GOLD = 4
"""As much slower as a candidate may be, in EvalPlus, too."""


@dataclass(frozen=True)
class Prepared:
    """Compiled once for all candidates of a problem.

    Attributes:
        gold: the published solution.
        tests: what asserts.
        entry_point: the one name that comes from the candidate, whose tests are `check(candidate)`; None
            where every name that the tests use does.
        used: names that the tests use and don't define.
        seconds: that a candidate has; None for what its trial says.
    """

    gold: CodeType
    tests: CodeType
    entry_point: str | None
    used: frozenset[str]
    seconds: float | None


def prepare(data: dict[str, Any]) -> Prepared:
    """Compile `gold` and `tests`, and see that the gold solution runs.

    Where the data give `seconds`, the gold solution is put to its tests, too: a candidate has
    `SLOWER_THAN_GOLD` times what that took, if that is longer. So a machine that is slow or busy doesn't
    fail what is right.
    """
    gold = compile(data["gold"], "<gold>", "exec", dont_inherit=True)
    namespace: dict[str, Any] = {}
    exec(gold, namespace)  # noqa: S102
    used = _used_names(data["tests"])
    defined = {name for name in used if name in namespace or not hasattr(builtins, name)}
    tests = compile(data["tests"], "<tests>", "exec", dont_inherit=True)
    entry_point = data.get("entry_point")
    seconds = data.get("seconds")
    if seconds is not None:
        started = time.monotonic()
        _run_tests(tests, namespace, entry_point)
        seconds = max(seconds, SLOWER_THAN_GOLD * (time.monotonic() - started))
    return Prepared(gold, tests, entry_point, frozenset(defined), seconds)


def judge(candidate: Candidate, prepared: Prepared, part: str) -> None:
    """Run the tests; whatever they raise fails the candidate."""
    if prepared.seconds is not None:
        candidate.limit(prepared.seconds)
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
    _run_tests(prepared.tests, namespace, prepared.entry_point)


def _run_tests(tests: CodeType, namespace: dict[str, Any], entry_point: str | None) -> None:
    exec(tests, namespace)  # noqa: S102
    if entry_point:
        namespace["check"](namespace[entry_point])


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
