"""`platform` with a watch: run by `evaluating.py`, in a fresh process a way.

    python benchmarks/watched_evaluation.py FILE.json STARTED evaluate CHECKPOINT ...

STARTED is when the process was started, as `time.time()` says it.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opendllm.core.decoding.decoding_run import DecodingRun

PROFILED = (96, 24)
"""After so many steps, the kernels of so many are listed."""


@dataclass
class Watch:
    """What happened when, in seconds since the process was started.

    Attributes:
        started: on the clock.
        begun: when the first text was to be written: all is loaded.
        ended: when the last one was.
        steps: taken in between.
        profiled: seconds that `busy` kernels were looked at for, which are no part of the decoding.
        busy: seconds of kernels in the steps that were looked at; None where none were.
        rows: side by side at most.
        graphs: what CUDA graphs cost.
        parts: what happened until then -> seconds.
        first_step: seconds of it, compiling and capturing included.
    """

    started: float
    begun: float | None = None
    ended: float | None = None
    steps: int = 0
    profiled: float = 0.0
    busy: float | None = None
    rows: int = 0
    graphs: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    first_step: float | None = None
    _profile: Any = None

    def part(self, name: str) -> None:
        """What took the time since the last part is called so."""
        self.parts[name] = self.now() - sum(self.parts.values())

    def now(self) -> float:
        """When the device has done its work, if there is any yet."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.time() - self.started

    def step(self, run: DecodingRun) -> None:
        """Another one is to be taken."""
        import torch
        from decoding_floor import covered

        self.rows = max(self.rows, len(run.state.tokens))
        self.steps += 1
        first, count = PROFILED
        if torch.cuda.is_available() and self.steps == first:
            self.profiled -= self.now()
            self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self._profile.start()
        elif self._profile is not None and self.steps == first + count:
            torch.cuda.synchronize()
            self._profile.stop()
            events = self._profile.profiler.kineto_results.events()
            self.busy = covered([(int(each.start_ns()), int(each.duration_ns())) for each in events]) / 1e9
            self._profile = None
            self.profiled += self.now()

    def report(self) -> dict[str, Any]:
        """For `evaluating.py`."""
        assert self.begun is not None
        assert self.ended is not None
        decoding = self.ended - self.begun - self.profiled
        count = PROFILED[1]
        share = None
        if self.busy is not None:
            share = min(1.0, self.busy / count * (self.steps - count) / decoding)
        return {
            "start_up_seconds": self.begun,
            "decoding_seconds": decoding + (self.profiled if self.busy is None else 0.0),
            "steps": self.steps,
            "busy_share": share,
            "rows": self.rows,
            "graphs": self.graphs,
            "profiled_seconds": self.profiled,
            "start_up_parts": self.parts,
            "first_step_seconds": self.first_step,
        }


def watched_start(watch: Watch) -> None:
    """Look at what happens until a model is loaded, from now on."""
    experiment: Any = importlib.import_module("opendllm.core.experiment")
    import_libraries: Callable[[str], None] = experiment.import_model_libraries

    def watched_import(device: str) -> None:
        watch.part("manifest")
        import_libraries(device)
        watch.part("libraries")
        watched(watch)

    experiment.import_model_libraries = watched_import


def watched(watch: Watch) -> None:
    """Look at what the evaluator does, from now on: all libraries are there."""
    from opendllm.core.decoding.decoding_run import DecodingRun

    answering: Any = importlib.import_module("opendllm.core.evaluation.answering")
    variants: Any = importlib.import_module("opendllm.core.evaluation.evaluate_variant")
    watch.part("evaluator")
    open_model = variants.open_model

    def watched_open(*arguments: Any) -> Any:
        watch.part("folder")
        found = open_model(*arguments)
        watch.part("weights")
        return found

    variants.open_model = watched_open

    write, release, take_step = answering.write, answering.release_steps, DecodingRun.take_step

    def watched_write(*arguments: Any, **more: Any) -> Iterator[Any]:
        if watch.begun is None:
            watch.part("problems")
            watch.begun = sum(watch.parts.values())
        yield from write(*arguments, **more)
        watch.ended = watch.now()

    def watched_release(lm: Any) -> Any:
        found = release(lm)
        watch.graphs.append(asdict(found))
        return found

    def watched_step(run: DecodingRun) -> None:
        if watch.ended is None:  # what comes later is a trace
            watch.step(run)
        take_step(run)
        if watch.first_step is None and watch.begun is not None:
            watch.first_step = watch.now() - watch.begun

    answering.write, answering.release_steps = watched_write, watched_release
    DecodingRun.take_step = watched_step  # type: ignore[assignment,method-assign]


def main() -> None:
    file, started, *arguments = sys.argv[1:]
    watch = Watch(float(started))
    watch.part("interpreter")
    from opendllm.core.cli.main import main as platform

    watch.part("command")
    watched_start(watch)
    sys.argv = ["platform", *arguments]
    try:
        platform()
    finally:
        if watch.ended is not None:
            Path(file).write_text(json.dumps(watch.report()))


if __name__ == "__main__":
    main()
