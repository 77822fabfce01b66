"""An error in a plugin carries its name; what plugins return is looked at before it is used."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.benchmarks import Benchmark, BenchmarkContext, GenerationRequest
from opendllm.registries.corpora import Corpus, Document
from opendllm.registries.errors import PluginError, UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Objective
from opendllm.registries.options import ObjectiveOptions, PluginOptions, SamplerOptions
from opendllm.registries.plugin_calls import PluginFailureError, watched
from opendllm.registries.registry import Provenance, Registration
from opendllm.registries.samplers import Sampler, Selection, Step
from opendllm.registries.sequences import ModelInputs, TokenRows

OPTIONS = {"samplers": SamplerOptions, "objectives": ObjectiveOptions}
Build = Callable[[str, Any], Any]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    """(kind, class without arguments) -> it, as a plugin `x` of the package `stranger` 0.1 builds it."""

    def make(kind: str, plugin: Any) -> Any:
        module = types.ModuleType("a_strangers_code")
        module.make = lambda options: plugin()  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        options = OPTIONS.get(kind, PluginOptions)
        provenance = Provenance("stranger", "0.1")
        return Registration(kind, "x", options, f"{module.__name__}:make", "", provenance).build()

    return make


class Dividing(Sampler):
    def select(self, step: Step) -> Selection:
        return Selection(commit=step.masked & bool(1 / (step.steps[0] - step.steps[0]).item()))


class Hungry(Sampler):
    def select(self, step: Step) -> Selection:
        raise torch.OutOfMemoryError("full")


class Refusing(Sampler):
    def select(self, step: Step) -> Selection:
        raise UserError("this checkpoint has no such token")


def run(sampler: Sampler) -> None:
    lm = TableLM()
    decode(lm, torch.tensor([[3, lm.mask_token_id]]), None, sampler, DecoderOptions(), torch.tensor([0]))


def test_a_bug_is_the_plugins_and_its_traceback_is_kept(build: Build) -> None:
    with pytest.raises(PluginFailureError) as caught:
        run(build("samplers", Dividing))
    message = str(caught.value)
    assert message.startswith("samplers/x of stranger 0.1 failed in select: ZeroDivisionError: ")
    assert "\n" not in message
    assert caught.value.exit_code == 1
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_memory_that_is_full_is_no_plugin_s_mistake(build: Build) -> None:
    """Whoever decodes catches it, and goes on with fewer rows."""
    with pytest.raises(torch.OutOfMemoryError, match=r"^full$"):
        run(build("samplers", Hungry))


def test_a_mistake_of_the_users_stays_one_and_gets_the_name_once(build: Build) -> None:
    with pytest.raises(UserError) as caught:
        run(build("samplers", Refusing))
    assert str(caught.value) == "samplers/x of stranger 0.1: this checkpoint has no such token"
    assert type(caught.value) is UserError


def test_what_fails_while_it_is_made_is_named_too(build: Build) -> None:
    def broken() -> None:
        raise KeyError("no such setting")

    with pytest.raises(
        PluginFailureError, match=r"samplers/x of stranger 0.1 failed in its making: KeyError"
    ):
        build("samplers", broken)


def test_a_plugin_stays_what_it_was(build: Build) -> None:
    sampler = build("samplers", Refusing)
    assert isinstance(sampler, Refusing)
    assert type(sampler).__name__ == "Refusing"
    assert type(sampler).remaining_masks is Sampler.remaining_masks  # the contract's own answer, untouched


def test_an_error_of_one_plugin_inside_another_is_the_inner_ones(build: Build) -> None:
    class Schedule(NoiseSchedule):
        ends = (1.0, 0.0)

        def alpha(self, t: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

        def alpha_prime(self, t: torch.Tensor) -> torch.Tensor:
            return -torch.ones_like(t)

    schedule = build("noise_schedules", Schedule)

    class Calling(Sampler):
        def select(self, step: Step) -> Selection:
            schedule.alpha(torch.zeros(1))
            return Selection(commit=step.masked)

    with pytest.raises(
        PluginFailureError, match=r"^noise_schedules/x of stranger 0.1 failed in alpha: ValueErr"
    ):
        run(build("samplers", Calling))


def corpus_of(*items: Any) -> type[Corpus]:
    class Given(Corpus):
        def documents(self, split: Any) -> Iterator[Document]:
            for item in items:
                if isinstance(item, Exception):
                    raise item
                yield item

        def fingerprint(self) -> str:
            return "1"

    return Given


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": "a"}, "documents gave dict, and every one must be a Document"),
        (
            Document("a", cast("str", 3)),
            "documents gave a Document with name str and text int: both must be strings",
        ),
        (OSError("gone"), "corpora/x of stranger 0.1 failed in documents: OSError: gone"),
    ],
)
def test_documents_are_looked_at_as_they_come(build: Build, wrong: Any, message: str) -> None:
    documents = build("corpora", corpus_of(Document("a", "text"), wrong)).documents("train")
    assert next(documents).name == "a"
    with pytest.raises(PluginError, match=message):
        next(documents)


def benchmark_of(requests: Any) -> type[Benchmark]:
    class Given(Benchmark):
        def requests(self, context: BenchmarkContext) -> Any:
            return requests

        def score(self, answers: Any) -> Any:
            raise NotImplementedError

    return Given


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (
            [GenerationRequest("a", Gap("x")), GenerationRequest("a", Gap("y"))],
            "asks task 'a' more than once in",
        ),
        ([{"task_id": "a"}], "gave dict as a request"),
        (
            iter([GenerationRequest("a", Gap("x"))]),
            "gave list_iterator, and a sequence of requests was expected",
        ),
    ],
)
def test_requests_are_told_apart(build: Build, requests: Any, message: str) -> None:
    context = BenchmarkContext(None, 0, 64, lambda: iter(()))
    with pytest.raises(PluginError, match=f"benchmarks/x of stranger 0.1: requests {message}"):
        build("benchmarks", benchmark_of(requests)).requests(context)


def test_a_schedule_keeps_the_shape_of_its_times(build: Build) -> None:
    class Flat(NoiseSchedule):
        ends = (1.0, 0.0)

        def alpha(self, t: torch.Tensor) -> torch.Tensor:
            return (1 - t).mean()

        def alpha_prime(self, t: torch.Tensor) -> torch.Tensor:
            return -torch.ones_like(t)

    with pytest.raises(
        PluginError, match=r"x of stranger 0.1: alpha gave float32 \[\], and float \[2, 3\] was expected"
    ):
        build("noise_schedules", Flat).alpha(torch.zeros(2, 3))


def rows() -> TokenRows:
    tokens = torch.arange(8).view(2, 4)
    maskable = torch.tensor([[False, True, True, False], [False, True, True, True]])
    segments = torch.tensor([[0, 0, 0, -1], [0, 0, 0, 0]])
    return TokenRows(tokens, segments, torch.arange(4).expand(2, 4), maskable, torch.arange(2))


class Greedy(Objective):
    """Masks everything, or everything but what may not be; or hides prompts behind the masking's back."""

    everything = False
    behind = False
    scores = False
    frees = False
    times = 1
    replaces: torch.dtype | None = None
    weights = 1

    def mask(self, given: TokenRows, noise: Any, schedule: Any) -> Masking:
        masked = torch.ones_like(given.maskable) if self.everything else given.maskable
        chance = torch.ones(given.tokens.shape, dtype=torch.float64)
        if self.frees:
            given = replace(given, maskable=torch.ones_like(given.maskable))
            masked = given.maskable
        noisy = None if self.replaces is None else torch.zeros(given.tokens.shape, dtype=self.replaces)
        return Masking(masked, chance, chance, given, noisy)

    def corrupt(self, what: Masking, schedule: Any, mask_token_id: int) -> Corruption:
        hidden = torch.ones_like(what.masked) if self.behind else what.masked
        tokens = what.rows.tokens.masked_fill(hidden, mask_token_id)
        scored = torch.ones_like(what.masked) if self.scores else what.masked
        count = what.masked.sum().double()
        repeated = [
            each.repeat_interleave(self.times, 0)
            for each in (tokens, what.rows.segments, what.rows.positions, what.rows.tokens, scored)
        ]
        weight = torch.ones(int(repeated[4].sum()) * self.weights)
        inputs = ModelInputs(repeated[0], repeated[1], repeated[2])
        return Corruption(inputs, repeated[3], repeated[4], weight, count)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"everything": True}, "mask masked 3 tokens of prompts or padding: leave positions alone where"),
        ({"everything": True, "frees": True}, "mask masked 3 tokens of prompts or padding"),
        ({"replaces": torch.int64}, "mask replaced 2 tokens of prompts or padding"),
        ({"replaces": torch.float32}, r"mask gave float32 \[2, 4\], and int64 \[2, 4\] was expected: noisy"),
        ({"behind": True}, "corrupt changed 3 tokens of prompts or padding"),
        ({"behind": True, "times": 2}, "corrupt changed 6 tokens of prompts or padding"),
        ({"times": 2}, None),
        ({"scores": True}, "corrupt scored 3 tokens of prompts or padding"),
        ({"reads_distributions": True}, "corrupt gave no `time` or no `ids`"),
        (
            {"weights": 2},
            r"corrupt gave float32 \[10\], and float \[5\] was expected: one weight a scored position",
        ),
    ],
)
def test_an_objective_that_hides_prompts_does_not_train_in_silence(
    build: Build, changes: dict[str, Any], message: str | None
) -> None:
    objective = build("objectives", type("Changed", (Greedy,), changes))

    def corrupted() -> None:
        masking = objective.mask(rows(), AddressedNoise(0, rows(), 2), None)
        objective.corrupt(what=masking, schedule=None, mask_token_id=9)

    if message is None:
        corrupted()
        return
    with pytest.raises(PluginError, match=f"^objectives/x of stranger 0.1: {message}"):
        corrupted()


def test_an_objective_is_looked_at_until_a_batch_has_a_prompt_or_padding(build: Build) -> None:
    """Packed rows may have none for long; a batch without them shows nothing."""
    objective = build("objectives", type("Changed", (Greedy,), {"everything": True}))
    full = replace(rows(), maskable=torch.ones(2, 4, dtype=torch.bool))
    for _ in range(2):
        objective.mask(full, AddressedNoise(0, full, 2), None)
    with pytest.raises(PluginError, match="mask masked 3 tokens of prompts or padding"):
        objective.mask(rows(), AddressedNoise(0, rows(), 2), None)


def test_a_loss_is_one_number(build: Build) -> None:
    class Whole(Greedy):
        def loss_sum(self, negative_log_likelihood: Tensor, corruption: Corruption) -> Tensor:
            return negative_log_likelihood

    objective = build("objectives", Whole)
    corruption = objective.corrupt(objective.mask(rows(), None, None), None, 9)
    with pytest.raises(PluginError, match=r"loss_sum gave float32 \[5\], and float \[\] was expected"):
        objective.loss_sum(torch.ones(5), corruption)


def test_a_models_likelihoods_are_one_a_scored_position(build: Build) -> None:
    """[N, 1] times weights [N] would broadcast."""

    class Tall(TableLM):
        def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
            return super().negative_log_likelihood(inputs, targets, scored)[:, None]

    given = inputs_from_mask(rows().tokens, None)
    lm = watched(Tall(), "backbones/x of stranger 0.1")
    with pytest.raises(PluginError, match=r"gave float32 \[5, 1\], and float \[5\] was expected"):
        lm.negative_log_likelihood(given, given.tokens, rows().maskable)


def test_the_command_line_says_whose_it_is_and_shows_more_with_debug(
    platform: Any, tmp_path: Path, repository: Path
) -> None:
    code = "from opendllm.registries import hookimpl, PluginOptions\n"
    code += "from opendllm.registries.corpora import Corpus\n"
    code += "class Broken(Corpus):\n    def __init__(self, options): pass\n"
    code += "    def documents(self, split): raise ZeroDivisionError('a stranger divides')\n"
    code += "    def fingerprint(self): return '1'\n"
    code += "@hookimpl\ndef register_corpora(register):\n"
    code += "    register('odd', options=PluginOptions, target='stranger:Broken', summary='breaks')\n"
    (tmp_path / "stranger.py").write_text(code)
    metadata = tmp_path / "stranger-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[opendllm]\nentry = stranger\n")
    manifest = str(repository / "experiments" / "quickstart.yaml")
    ask = ("run", manifest, "--set", "data.corpus={name: odd}", "--only", "train", "--variant", "llada")
    plain = platform(*ask, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    expected = "error: corpora/odd of stranger 0.1 failed in documents: ZeroDivisionError: a stranger divides"
    assert expected in plain.stderr
    assert "Traceback" not in plain.stderr
    assert plain.returncode == 1
    debug = platform("--debug", *ask, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "Traceback" in debug.stderr
    assert "in documents" in debug.stderr
