"""One row's error is nobody else's, and who waits hears of the end."""

from __future__ import annotations

import queue
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.decoding.decoding_run import DecodingRun
from opendllm.core.language_model import LanguageModel
from opendllm.core.serving.api_errors import ApiError
from opendllm.core.serving.api_fields import CompletionFields
from opendllm.core.serving.asked_rows import AskedRow, Event, Finished, Piece
from opendllm.core.serving.decoding_thread import DecodingThread
from opendllm.core.serving.limits import Limits
from opendllm.core.serving.served_models import Delivery, ServedModels
from opendllm.registries.gaps import Gap

PROMPTS = ["ab", "cd", "e~", "fg", "hi"]
OPTIONS: dict[str, Any] = {"temperature": 0.9, "steps": 8}


@pytest.fixture(scope="module")
def model(served_run: Path) -> LanguageModel:
    return load(served_run / "llada", device="cpu")


@pytest.fixture(scope="module")
def expected(model: LanguageModel) -> list[str]:
    return model.generate(PROMPTS, max_new_tokens=8, seed=4, **OPTIONS)


@contextmanager
def broken(model: LanguageModel, change: Callable[[torch.Tensor, torch.Tensor], None]) -> Iterator[None]:
    """Within it `change` gets the tokens and the hidden states of each pass."""
    network: Any = model.lm.network

    def hook(module: Any, positional: Any, given: dict[str, Any], output: Any) -> None:
        change(given["input_ids"], output.last_hidden_state)

    handle = network.get_decoder().register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def asked(model: LanguageModel, events: queue.Queue[tuple[int, Event]], **always: Any) -> list[AskedRow]:
    served = ServedModels({"m": model}, always, Limits())
    fields = CompletionFields.model_validate({"model": "m", "prompt": PROMPTS, "seed": 4, **OPTIONS})
    delivery = Delivery(lambda index, event: events.put((index, event)), streams=True)
    return list(served.ask(fields, [Gap(prompt) for prompt in PROMPTS], 8, delivery).rows)


def answers(events: queue.Queue[tuple[int, Event]], rows: int) -> dict[int, str | ApiError]:
    """By row: its text, which its pieces add up to, or its error."""
    pieces: dict[int, str] = {}
    found: dict[int, str | ApiError] = {}
    while len(found) < rows:
        index, event = events.get()
        if isinstance(event, Piece):
            pieces[index] = pieces.get(index, "") + event.text
        elif isinstance(event, ApiError):
            found[index] = event
        elif isinstance(event, Finished):
            assert pieces.get(index, "") == event.ending.text
            found[index] = event.ending.text
    return found


def written(model: LanguageModel, most_rows: int = 8, **always: Any) -> dict[int, str | ApiError]:
    events: queue.Queue[tuple[int, Event]] = queue.Queue()
    rows = asked(model, events, **always)
    thread = DecodingThread(most_rows, 100)
    thread.start()
    thread.submit(rows[:2])
    thread.submit(rows[2:])
    found = answers(events, len(rows))
    thread.stop()
    thread.join()
    return found


@pytest.mark.parametrize("most_rows", [1, 3, 8])
def test_answers_are_the_same_however_many_are_written_side_by_side(
    model: LanguageModel, expected: list[str], most_rows: int
) -> None:
    assert written(model, most_rows) == dict(enumerate(expected))


def test_in_fixed_shapes_answers_are_the_same(
    model: LanguageModel, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty places are there for others; the shapes serve two calls."""
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    monkeypatch.setattr(shutil, "which", lambda _name: "a compiler")
    for most_rows in (3, 3):
        assert written(model, most_rows, compile=True) == dict(enumerate(expected))


def poison(model: LanguageModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """(tokens) -> the rows with a `~` in them."""
    [token] = model.codec.encode("~")
    return lambda tokens: (tokens == token).any(-1)


def test_a_batch_that_an_error_ends_gives_back_what_it_took(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And knows of the error, so that nothing half-done is kept for others."""
    is_poisoned, open_runs, errors = poison(model), [], []
    enter, leave = DecodingRun.__enter__, DecodingRun.__exit__

    def entered(run: DecodingRun) -> DecodingRun:
        open_runs.append(run)
        return enter(run)

    def left(run: DecodingRun, kind: Any, error: Any, trace: Any) -> None:
        open_runs.remove(run)
        errors.append(kind)
        leave(run, kind, error, trace)

    def change(tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        if is_poisoned(tokens).any():
            raise RuntimeError("a kernel failed")

    monkeypatch.setattr(DecodingRun, "__enter__", entered)
    monkeypatch.setattr(DecodingRun, "__exit__", left)
    with broken(model, change):
        found = written(model)
    assert sum(isinstance(answer, ApiError) for answer in found.values()) == 1
    assert open_runs == []
    assert any(errors)


def test_a_row_whose_logits_are_not_finite_fails_alone(model: LanguageModel, expected: list[str]) -> None:
    is_poisoned = poison(model)

    def change(tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        hidden[is_poisoned(tokens)] = torch.nan

    with broken(model, change):
        found = written(model)
    error = found.pop(2)
    assert isinstance(error, ApiError)
    assert (error.status, "not finite" in error.message) == (500, True)
    assert found == {index: expected[index] for index in (0, 1, 3, 4)}


def test_a_row_that_a_plugin_stumbles_over_fails_alone(model: LanguageModel, expected: list[str]) -> None:
    is_poisoned = poison(model)

    def change(tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        if bool(is_poisoned(tokens).any()):
            raise KeyError("stumbled")

    with broken(model, change):
        found = written(model)
    error = found.pop(2)
    assert isinstance(error, ApiError)
    assert "KeyError: 'stumbled'" in error.message
    assert found == {index: expected[index] for index in (0, 1, 3, 4)}


def test_where_memory_is_short_fewer_are_written_at_a_time(
    model: LanguageModel, expected: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    passes = 0

    def change(tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        nonlocal passes
        passes += 1
        if len(tokens) > 2 and passes > 3:  # in the middle
            raise torch.OutOfMemoryError

    with broken(model, change):
        found = written(model)
    assert found == dict(enumerate(expected))
    assert "don't fit the memory: from now on 2 are written" in capfd.readouterr().err


def test_one_that_never_fits_is_told_so(model: LanguageModel) -> None:
    def change(tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        raise torch.OutOfMemoryError

    with broken(model, change):
        found = written(model)
    assert {error.status for error in found.values() if isinstance(error, ApiError)} == {503}
    assert len(found) == len(PROMPTS)


def test_who_waits_is_told_when_it_ends_and_nobody_may_come_after(model: LanguageModel) -> None:
    events: queue.Queue[tuple[int, Event]] = queue.Queue()
    rows = asked(model, events)
    thread = DecodingThread(2, 100)
    thread.start()

    def change(tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        thread.stop()

    with broken(model, change):
        thread.submit(rows)
        found = answers(events, len(rows))
        thread.join()
    assert [error.status for error in found.values() if isinstance(error, ApiError)] == [503] * len(rows)
    with pytest.raises(ApiError, match="has been stopped"):
        thread.submit(rows)


def test_rows_that_nobody_waits_for_make_place(model: LanguageModel, expected: list[str]) -> None:
    """In the batch and in the queue, where they don't count."""
    events: queue.Queue[tuple[int, Event]] = queue.Queue()
    given_up = asked(model, events)
    rows = asked(model, events)
    thread = DecodingThread(2, len(PROMPTS))
    thread.start()
    first = True

    def change(tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        nonlocal first
        if first:
            first = False
            for row in given_up:
                row.is_cancelled = True
            thread.submit(rows)

    with broken(model, change):
        thread.submit(given_up)
        found = answers(events, len(rows))
    thread.stop()
    thread.join()
    assert found == dict(enumerate(expected))
