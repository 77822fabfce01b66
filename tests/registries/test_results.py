"""What a plugin of any kind gives that its contract has no use for is told with package, method and line."""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core.decoding.decoder import decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.benchmarks import BenchmarkContext, GeneratedText
from opendllm.registries.errors import PluginError
from opendllm.registries.extension_points import EXTENSION_POINTS, contract_class, options_base
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.registry import Provenance, Registration
from opendllm.registries.result_checks import ITEM_CHECKS, RESULT_CHECKS
from opendllm.registries.rewards import RewardContext
from opendllm.registries.sequences import ModelInputs, TokenRows

HEAD = """
import torch
from opendllm.core.testing.table_lm import TableLM
from opendllm.registries.backbones import Backbone, CanvasReader, DistributionLoss, WholeReader
from opendllm.registries.benchmarks import Benchmark, GenerationRequest, LikelihoodRequest, Metric, Scores
from opendllm.registries.corpora import Corpus, Document
from opendllm.registries.gaps import Gap
from opendllm.registries.noise_schedules import NoiseMass, NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Objective
from opendllm.registries.problems import Problem
from opendllm.registries.rewards import Reward
from opendllm.registries.samplers import Sampler, Selection
"""
RIGHT: Mapping[str, str] = {
    "noise_schedules": """
class Right(NoiseSchedule):
    ends = (1.0, 0.0)
    def alpha(self, t): return 1 - t
    def alpha_prime(self, t): return -torch.ones_like(t)
""",
    "objectives": """
class Right(Objective):
    def mask(self, rows, noise, schedule):
        chance = torch.full(rows.tokens.shape, 0.5, dtype=torch.float64)
        return Masking(rows.maskable, chance, chance, rows)
    def corrupt(self, masking, schedule, mask_token_id):
        weight = torch.ones(masking.masked.shape)
        return Corruption.of_masked(masking, mask_token_id, weight=weight, count=masking.masked.sum())
""",
    "samplers": """
class Right(Sampler):
    def select(self, step): return Selection(commit=step.masked)
""",
    "backbones": """
class Right(Backbone):
    def build(self, vocabulary): return Model()
    def load(self, folder, config, device, dtype, min_vocab_size=0): return Model()
class Model(TableLM):
    pass
""",
    "corpora": """
class Right(Corpus):
    def documents(self, split): yield Document("a", "text")
    def fingerprint(self): return "1"
""",
    "benchmarks": """
class Right(Benchmark):
    headline = ("accuracy",)
    def requests(self, context): return [GenerationRequest("a", Gap("x", length=2))]
    def score(self, answers): return Scores({"accuracy": Metric(1.0, 1.0, 1.0)}, {"a": {"passed": True}})
""",
    "rewards": """
class Right(Reward):
    def values(self, completions, context): return [0.5 for _ in completions]
""",
}
MINE = """
class Mine(Right):
    def __init__(self, options): pass
"""


def use_schedule(schedule: Any) -> None:
    times = torch.rand(3)
    assert schedule.ends
    for name in ("alpha", "alpha_prime", "mask_probability", "elbo_weight", "time_of"):
        getattr(schedule, name)(times)
    schedule.noise_mass(times, 5), schedule.noise_mass_prime(times, 5)


def rows() -> TokenRows:
    tokens = torch.arange(8).view(2, 4)
    maskable = torch.tensor([[False, True, True, False], [False, True, True, True]])
    segments = torch.tensor([[0, 0, 0, -1], [0, 0, 0, 0]])
    return TokenRows(tokens, segments, torch.arange(4).expand(2, 4), maskable, torch.arange(2))


def use_objective(objective: Any) -> None:
    masking = objective.mask(rows(), AddressedNoise(0, rows(), 2), None)
    corruption = objective.corrupt(masking, None, 9)
    nll = torch.ones(len(corruption.weight))
    objective.loss_sum(nll, corruption)
    objective.loss_part(corruption, None)(nll[:2], slice(0, 2))


def use_sampler(sampler: Any) -> None:
    lm = TableLM()
    canvas = torch.full((2, 5), lm.mask_token_id)
    decode(lm, canvas, None, sampler, DecoderOptions(steps=3), torch.tensor([0, 1]))


def use_backbone(backbone: Any) -> None:
    lm = backbone.build(Vocabulary(12, 11, 0))
    backbone.load(Path(), {}, torch.device("cpu"), None)
    given = rows()
    inputs = ModelInputs(given.tokens, given.segments, given.positions)
    hidden = lm.hidden_states(inputs)
    lm.project(hidden)
    lm.negative_log_likelihood(inputs, given.tokens, given.maskable)
    assert lm.predictors(given.segments) is not None
    assert lm.stops is not None
    assert lm.network is not None
    from opendllm.registries.backbones import TokenPositions

    lm.reader(inputs).states(given.tokens, TokenPositions(torch.tensor([0]), torch.tensor([1])))


def use_corpus(corpus: Any) -> None:
    corpus.fingerprint()
    list(corpus.documents("train"))
    corpus.skipped("train")


def use_benchmark(benchmark: Any) -> None:
    benchmark.requests(BenchmarkContext(None, 0, 64, lambda: iter(())))
    answer = GeneratedText("a", "default", 0, "b")
    benchmark.score([answer]), benchmark.quick_score(answer), benchmark.task_of("a")
    benchmark.training_problems(BenchmarkContext(None, 0, 64, lambda: iter(())))


def use_reward(reward: Any) -> None:
    problem = Problem("a", Gap("x"))
    reward.issue_with(problem)
    for _ in range(2):  # every call is looked at
        reward.values([Completion(problem, sample, "b") for sample in range(2)], RewardContext())


USE: Mapping[str, Callable[[Any], None]] = {
    "noise_schedules": use_schedule,
    "objectives": use_objective,
    "samplers": use_sampler,
    "backbones": use_backbone,
    "corpora": use_corpus,
    "benchmarks": use_benchmark,
    "rewards": use_reward,
}


INIT = "def __init__(self): super().__init__()"
MISTAKES: Mapping[tuple[str, str], list[tuple[str, str]]] = {
    ("noise_schedules", "Mine"): [
        ("ends = 1.0", "ends is 1.0, and tuple[float, float] was expected"),
        ("ends = property(lambda self: (1, 0, 0))", "ends gave (1, 0, 0), and two numbers were"),
        ("interval = 0.5", "interval is 0.5, and tuple[float, float] was expected"),
        ("destination = 'masks'", "destination is 'masks', and Destination was expected"),
        ("def alpha_prime(self, t): return -1.0", "alpha_prime gave float, and float [3] was expected"),
        ("def time_of(self, p): return p.mean()", "time_of gave float32 [], and float [3]"),
        ("def noise_mass(self, t, v): return t", "noise_mass gave float32 [3], and a NoiseMass"),
        ("def noise_mass_prime(self, t, v): return NoiseMass(t, t[:1])", "and float [3] was expected: oth"),
    ],
    ("objectives", "Mine"): [
        ("reads_distributions = 1", "reads_distributions is 1, and bool was expected"),
        ("def mask(self, rows, noise, schedule): return rows", "mask gave TokenRows, and a Masking"),
        ("def corrupt(self, m, s, i): return None", "corrupt gave NoneType, and a Corruption"),
        ("def loss_sum(self, nll, corruption): return nll", "loss_sum gave float32 [5], and float []"),
        ("def loss_part(self, c, s, count=1.0, answers=1.0): return None", "loss_part gave NoneType, and"),
        (
            "def loss_part(self, c, s, count=1.0, answers=1.0): return lambda nll, chosen: nll",
            "what loss_part gave is a function of [2], and a scalar tensor was expected",
        ),
    ],
    ("samplers", "Mine"): [
        ("plans = 'yes'", "plans is 'yes', and bool was expected"),
        (
            "proposes = 'everything'",
            "proposes is 'everything', and Literal['masked', 'editable', 'asked'] was",
        ),
        (
            "proposes = 'asked'; asks = lambda self, step: step.canvas",
            "asks gave int64 [2, 5], and bool [2, 5]",
        ),
        ("growth = None", "growth is None, and int was expected"),
        ("def select(self, step): return step.masked", "select gave Tensor, and a Selection was expected"),
        ("def select(self, step): return Selection()", "select gave a Selection without any decision"),
        ("def select(self, step): return Selection(commit=step.masked.float())", "commit as float32"),
        ("def select(self, step): return Selection(remask=step.masked)", "gave remask, which only a samp"),
        ("def block_steps(self, size, steps): return 0", "block_steps gave 0 for a block of 5"),
        ("plans = True; remaining_masks = lambda self, m, s: 3", "remaining_masks gave int, and a list"),
        ("plans = True; remaining_masks = lambda self, m, s: [1, 0]", "remaining_masks gave 2 numbers"),
        ("plans = True; remaining_masks = lambda self, m, s: [9, 1, 0]", "remaining_masks gave 9 of 5"),
        ("def suppressed_tokens(self, special, room, last): return [1]", "gave list, and a mapping"),
        ("def suppressed_tokens(self, special, room, last): return {1: room}", "and bool [2] was expected"),
        ("def times(self, index, steps): return index", "times gave int64 [2], and float [2] was expected"),
    ],
    ("backbones", "Mine"): [
        ("def build(self, vocabulary): return None", "build gave NoneType, and a DiffusionLM was expected"),
        ("def load(self, *given): return Right", "load gave ABCMeta, and a DiffusionLM was expected"),
    ],
    ("backbones", "Model"): [
        (f"{INIT}; self.mask_token_id = '11'", "a model whose mask_token_id is '11', and int was"),
        (f"{INIT}; self.attention = 'causal'", "attention is 'causal', and AttentionPattern was"),
        (f"{INIT}; self.eos_token_id = (0, 1)", "eos_token_id is (0, 1), and int | None was"),
        ("def hidden_states(self, inputs): return inputs.tokens[..., None]", "gave int64 [2, 4, 1]"),
        ("def hidden_states(self, inputs): return torch.ones(2, 4)", "gave float32 [2, 4], and"),
        ("def project(self, hidden): return hidden", "project gave float32 [2, 4, 16], and"),
        ("def negative_log_likelihood(self, i, t, s): return torch.ones(2)", "and float [5] was"),
        ("def predictors(self, segments): return segments + 0.5", "predictors gave float32 [2, 4]"),
        ("stops = property(lambda self: 0)", "stops gave 0, and a tuple of token ids"),
        ("network = property(lambda self: {})", "network gave dict, and a module was expected"),
        ("def reader(self, inputs, *more): return self", "reader gave Model, and a CanvasReader"),
    ],
    ("corpora", "Mine"): [
        ("def documents(self, split): return [Document('a', 'b')]", "documents gave list, and an iterator"),
        ("def documents(self, split): yield 'text'", "documents gave str, and every one must be a Document"),
        ("def documents(self, split): yield Document('a', 3)", "and text int: both must be strings"),
        ("def documents(self, split): yield Document('a', 'b', 3)", "gave a Document with prompt int"),
        ("def fingerprint(self): return 7", "fingerprint gave int, and a string was expected"),
        ("def fingerprint(self): return ''", "fingerprint gave an empty string"),
        ("def skipped(self, split): return 0", "skipped gave int, and a Skipped was expected"),
    ],
    ("benchmarks", "Mine"): [
        ("headline = 'accuracy'", "tuple[str, ...] was expected: write ('accuracy',)"),
        ("lower_is_better = {'nats'}", "lower_is_better is {'nats'}, and frozenset[str] was expected"),
        ("def requests(self, context): return [('a', 'b')]", "requests gave tuple as a request"),
        ("def requests(self, context): return [GenerationRequest(1, Gap(''))]", "whose task_id is int"),
        ("def requests(self, context): return [GenerationRequest('1', '')]", "whose gap is str: make it"),
        ("def requests(self, context): return [LikelihoodRequest('1', 2)]", "whose text is int: make it"),
        ("def score(self, answers): return {'accuracy': 1}", "score gave dict, and Scores were expected"),
        ("def score(self, answers): return None", "score gave NoneType, and Scores were expected"),
        ("def score(self, answers): return Scores({'a': 1.0}, {})", "score gave float as metrics['a']"),
        ("def score(self, answers): return Scores({}, {'a': True})", "score gave bool as per_task['a']"),
        ("def score(self, answers): return Scores({}, [])", "whose per_task are list: make them a mapping"),
        ("def score(self, answers): return Scores({}, {}, ('a', 1))", "gave notes ('a', 1): make them"),
        ("def quick_score(self, answer): return 'good'", "quick_score gave str, and a number or None was"),
        ("def task_of(self, given): return 3", "task_of gave int, and a task id was expected"),
        ("def training_problems(self, context): return [1]", "gave list, and a sequence of Problems was"),
        (
            "def training_problems(self, context): return [Problem('a', Gap(''))] * 2",
            "training_problems gives problem 'a' more than once",
        ),
    ],
    ("rewards", "Mine"): [
        ("bounds = 1.0", "bounds is 1.0, and tuple[float, float] was expected"),
        (
            "def values(self, completions, context): return 1.0",
            "values gave float for 2 answers: give a list",
        ),
        ("def values(self, completions, context): return [1.0]", "values gave a list of 1 for 2 answers"),
        (
            "def values(self, completions, context): return [0.5, float('nan')]",
            "values gave nan, and a finite number was expected, for answer 1 to problem 'a'",
        ),
        (
            "def values(self, completions, context): return ['a', 1]",
            "gave str, and a number was expected, for",
        ),
        (
            "def values(self, completions, context): return [2, 1]",
            "gave 2, where its `bounds` are 0 and 1, f",
        ),
        (
            "def values(self, completions, context, n=[]): n.append(1); return [0.5, 1e400 if n[1:] else 1]",
            "values gave inf, and a finite number was expected, for answer 1",
        ),
        ("def issue_with(self, problem): return True", "issue_with gave bool, and what is wrong in words"),
    ],
}
"""By kind and the class that makes it: (a line of the class, what is said of it)."""
NUMBERS = itertools.count()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Any, Path]]]:
    """(kind, a line for the class of that name) -> the registration of such a plugin, and its file."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(kind: str, line: str, of: str = "Mine") -> tuple[Registration[Any], Path]:
        module = f"stranger_{next(NUMBERS)}"
        made.append(module)
        code = HEAD + RIGHT[kind] + MINE
        if of == "Mine":
            code += f"    {line}  # here\n"
        else:
            code = code.replace(f"class {of}(TableLM):\n", f"class {of}(TableLM):\n    {line}  # here\n")
        file = tmp_path / f"{module}.py"
        file.write_text(code)
        importlib.invalidate_caches()
        provenance = Provenance("stranger", "0.1")
        return Registration(kind, "x", options_base(kind), f"{module}:Mine", "", provenance), file

    yield make
    for module in made:
        sys.modules.pop(module, None)


@pytest.mark.parametrize("kind", EXTENSION_POINTS)
def test_what_the_contract_asks_for_is_taken(plugin: Any, kind: str) -> None:
    registration, _ = plugin(kind, "pass")
    USE[kind](registration.build())


@pytest.mark.parametrize(
    ("kind", "of", "line", "says"),
    [
        pytest.param(*made, line, says, id=f"{made[0]}: {says}")
        for made, mistakes in MISTAKES.items()
        for line, says in mistakes
    ],
)
def test_anything_else_is_named_with_its_package_and_its_line(
    plugin: Any, kind: str, of: str, line: str, says: str
) -> None:
    registration, file = plugin(kind, line, of)
    with pytest.raises(PluginError) as caught:
        USE[kind](registration.build())
    message = str(caught.value)
    number = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "# here" in text)
    assert message.startswith(f"{kind}/x of stranger 0.1: ")
    assert says in message
    assert message.endswith(f" (at {file}:{number})")
    assert "\n" not in message


CHECKED_WHERE_THEY_ARE_USED = {
    ("Sampler", "select"),  # at each step, by the decoder
    ("Sampler", "asks"),
    ("Sampler", "block_steps"),  # for each block, by its plan
}
GIVE_NOTHING = {("CanvasReader", "select_rows"), ("DiffusionLM", "save"), ("DiffusionLM", "balance_experts")}


def test_every_method_of_every_contract_is_looked_at() -> None:
    """One that is added tomorrow is missed here."""
    from opendllm.registries.backbones import CanvasReader, DiffusionLM
    from opendllm.registries.policies import PolicyObjective

    methods = {
        (contract.__name__, name)
        for contract in (*map(contract_class, EXTENSION_POINTS), PolicyObjective, DiffusionLM, CanvasReader)
        for name, value in vars(contract).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    }
    looked_at = {*RESULT_CHECKS, *ITEM_CHECKS}
    assert looked_at <= methods
    assert methods - looked_at - GIVE_NOTHING == CHECKED_WHERE_THEY_ARE_USED
