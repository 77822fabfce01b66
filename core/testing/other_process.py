"""A second process that hashes strings otherwise: what hangs on that is seen in no single one."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from opendllm.registries.corpora import Corpus
from opendllm.registries.options import PluginOptions
from opendllm.registries.registry import Registration

FIRST = 50
"""How many documents are read there."""


def asked_elsewhere(
    registration: Registration[Any], options: PluginOptions, says: str = f"{__name__}:said_by"
) -> dict[str, Any]:
    """What a plugin says in the other process; compare what it says here.

    Args:
        registration: the plugin's.
        options: to build it with.
        says: "module:function" that makes an answer in JSON of the plugin; by default that of a corpus.

    Raises:
        AssertionError: it says nothing there.
    """
    model = type(options)
    target, attribute = registration.target.split(":")
    question = {
        "folder": str(Path.cwd()),
        "implementation": [target, _root_of(target), attribute],
        "options_model": [model.__module__, _root_of(model.__module__), model.__qualname__],
        "options": options.model_dump(mode="json", exclude_unset=True),
        "says": says,
    }
    process = _process()
    assert process.stdin is not None, "the other process was started with a pipe"
    assert process.stdout is not None, "the other process was started with a pipe"
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(process.stdout.readline() or '{"error": "it ended"}')
    assert "error" not in answer, (
        f"another process can't use it: {answer['error']}: hold nothing that only this process has"
    )
    return answer


def said_by(corpus: Corpus) -> dict[str, Any]:
    """The names and a digest of its first documents, and its fingerprint."""
    documents = list(islice(corpus.documents("train"), FIRST))
    digest = hashlib.sha256("\0".join(map(repr, documents)).encode(errors="surrogatepass"))
    return {
        "names": [document.name for document in documents],
        "digest": digest.hexdigest(),
        "fingerprint": corpus.fingerprint(),
    }


@functools.cache
def _process() -> subprocess.Popen[str]:
    """One for all questions; it ends with this one."""
    ours = os.environ.get("PYTHONHASHSEED", "")
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "12" if ours == "11" else "11",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-P", "-m", __name__]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    atexit.register(process.communicate)  # end of its input, and of itself
    return process


def _root_of(module: str) -> str:
    """The folder that a module of this name is found from."""
    file = Path(getattr(sys.modules.get(module), "__file__", None) or ".").resolve()
    return str(file.parents[min(module.count("."), len(file.parents) - 1)])


def _imported(name: str, root: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:  # of a test suite, say: no path leads there, or to somebody else's
        parts = name.split(".")
        for count in range(1, len(parts)):
            package = types.ModuleType(".".join(parts[:count]))
            package.__path__ = [str(Path(root, *parts[:count]))]
            sys.modules[package.__name__] = package
        sys.path.append(root)
        return importlib.import_module(name)


def _answer(question: Mapping[str, Any]) -> dict[str, Any]:
    os.chdir(question["folder"])
    module, root, attribute = question["implementation"]
    make = getattr(_imported(module, root), attribute)
    module, root, attribute = question["options_model"]
    model = getattr(_imported(module, root), attribute)
    module, _, function = question["says"].partition(":")
    say: Callable[[Any], dict[str, Any]] = getattr(importlib.import_module(module), function)
    return say(make(model.model_validate(question["options"])))


def main() -> None:
    """Answer questions, a line each, until there are no more."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            try:
                answer = _answer(json.loads(line))
            except Exception as error:  # whatever a plugin raises is told where it is looked for
                answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
