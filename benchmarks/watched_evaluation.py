"""`platform` with a watch: run by `evaluating.py`, in a fresh process a way.

    python benchmarks/watched_evaluation.py FILE.json STARTED evaluate CHECKPOINT ...

STARTED is when the process was started, as `time.time()` says it.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opendllm.core.cli.main import main as platform
from opendllm.core.foundation.heavy_imports import import_model_libraries

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
    """

    started: float
    begun: float | None = None
    ended: float | None = None
    steps: int = 0
    profiled: float = 0.0
    busy: float | None = None
    rows: int = 0
    graphs: list[dict[str, Any]] = field(default_factory=list)
    _profile: Any = None

    def now(self) -> float:
        """When the device has done its work."""
        import torch

        if torch.cuda.is_available():
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
        }


def watched(watch: Watch) -> None:
    """Look at what the evaluator does, from now on."""
    import_model_libraries()  # as the command does it, which would come later
    from opendllm.core.decoding.decoding_run import DecodingRun

    answering: Any = importlib.import_module("opendllm.core.evaluation.answering")

    write, release, take_step = answering.write, answering.release_steps, DecodingRun.take_step

    def watched_write(*arguments: Any, **more: Any) -> Iterator[Any]:
        if watch.begun is None:
            watch.begun = watch.now()
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

    answering.write, answering.release_steps = watched_write, watched_release
    DecodingRun.take_step = watched_step  # type: ignore[assignment,method-assign]


def main() -> None:
    file, started, *arguments = sys.argv[1:]
    watch = Watch(float(started))
    watched(watch)
    sys.argv = ["platform", *arguments]
    try:
        platform()
    finally:
        if watch.ended is not None:
            Path(file).write_text(json.dumps(watch.report()))


if __name__ == "__main__":
    main()
