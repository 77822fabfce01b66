"""The contract of a benchmark: what a model is asked, and how its answers score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

from opendllm.registries.corpora import Document, Message
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Problem

DEFAULT_SETTING = "default"
"""Of a problem that is asked in one way."""


@dataclass(frozen=True)
class GenerationRequest:
    """Write into a gap.

    Attributes:
        task_id: the problem; scores are paired by it.
        gap: what is to be written.
        reference: the published answer, if there is one.
        setting: names this way of asking where a problem is asked in several ("oracle", "length-8").
        stop: the answer is cut before the first of these; empty ones cut nothing.
        oracle_length: whether to write as many tokens as the reference has, instead of the gap's length.
        failure: why the problem can't be asked, where its own preparation failed; the others are asked, and
            this one is answered by an empty text with the same failure.
    """

    task_id: str
    gap: Gap
    reference: str | None = None
    setting: str = DEFAULT_SETTING
    stop: tuple[str, ...] = ()
    oracle_length: bool = False
    failure: str | None = None


@dataclass(frozen=True)
class LikelihoodRequest:
    """How likely is this text?

    Attributes:
        task_id: the problem; scores are paired by it.
        text: what is scored.
        setting: names this way of asking, as in a GenerationRequest.
        context: what stands before it and is given; None gives the text's own first token.
        greedy: whether to find out too if the model would write just this text.
        templated: whether `context` came out of the context's chat template.
        failure: see GenerationRequest.
    """

    task_id: str
    text: str
    setting: str = DEFAULT_SETTING
    context: str | None = None
    greedy: bool = False
    templated: bool = False
    failure: str | None = None


Request = GenerationRequest | LikelihoodRequest
"""What a model is asked."""


AnswerForm = Literal["written", "completion", "solution"]
"""Who made a text: "written" by this platform, as the model gave it; a "completion" or a whole
"solution" of a samples file, which whoever made it has cleaned up already."""


@dataclass(frozen=True)
class GeneratedText:
    """An answer to a GenerationRequest.

    Attributes:
        task_id: the request's.
        setting: the request's.
        sample: which of the answers to that request, from 0.
        text: the answer, cut at the first EOS and stop string; a "solution" repeats prefix and suffix.
        tokens: the token ids as written, uncut; empty in a samples file of others.
        reference_tokens: the reference's own ids, empty where there is none.
        ended: whether an EOS or a stop string came within the length; None where nobody knows.
        form: what `text` is.
        failure: why the problem couldn't be put to the model (its prompt is too long, say); the answer is
            then empty, and counts as a wrong one whatever an empty one is worth.
    """

    task_id: str
    setting: str
    sample: int
    text: str
    tokens: tuple[int, ...] = ()
    reference_tokens: tuple[int, ...] = ()
    ended: bool | None = None
    form: AnswerForm = "written"
    failure: str | None = None


@dataclass(frozen=True)
class TextLikelihood:
    """An answer to a LikelihoodRequest.

    Attributes:
        task_id: the request's.
        setting: the request's.
        log_likelihood: nats; the ELBO of a diffusion model, exact for a causal one.
        variance: of that estimate, in nats squared; 0 where exact.
        tokens: how many tokens were scored.
        bytes: how many UTF-8 bytes these tokens spell.
        greedy: whether the model would write just this text; None where that wasn't asked.
        exact: whether it is the likelihood itself; False of a lower bound, None where nobody says.
        failure: why the text has no likelihood (it couldn't be put to the model, say); the numbers are then
            NaN and 0, and where there is right and wrong it counts as wrong.
    """

    task_id: str
    setting: str
    log_likelihood: float
    variance: float
    tokens: int
    bytes: int
    greedy: bool | None = None
    failure: str | None = None
    exact: bool | None = None


Answer = GeneratedText | TextLikelihood
"""What it answers."""


MetricKind = Literal["estimate", "exact", "upper bound"]
"""Whether a score has an error; "exact" of one that has none for the tasks that were asked (a causal model's
perplexity), "upper bound" of one that the model's own number may lie below (an ELBO's perplexity)."""


@dataclass(frozen=True)
class TaskRatio:
    """What a metric is where it isn't the mean over tasks: a ratio of totals.

    Attributes:
        numerator: the number in `per_task` whose total is divided.
        denominator: that by whose total.
        exponential: whether the metric is e to the power of that.
    """

    numerator: str
    denominator: str
    exponential: bool = False


@dataclass(frozen=True)
class Metric:
    """A score with its 95 % interval.

    Attributes:
        value: the score.
        low: the interval's lower end.
        high: its upper end.
        kind: what the score is; of two kinds, not every difference proves something.
        ratio: how it is made of `per_task`; None where it is the mean of the number that has its name there.
    """

    value: float
    low: float
    high: float
    kind: MetricKind = "estimate"
    ratio: TaskRatio | None = None


@dataclass(frozen=True)
class Scores:
    """What a benchmark says of one model.

    Attributes:
        metrics: by name.
        per_task: by task id, for pairing variants: `{"passed": true}`, `{"nats": 3.2}`, ...
        notes: how the numbers are to be read (what was given, what was scored).
        verdicts: (task id, setting, sample) -> "passed", or why that answer isn't right, where each answer is
            judged by itself.
    """

    metrics: Mapping[str, Metric]
    per_task: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()
    verdicts: Mapping[tuple[str, str, int], str] = field(default_factory=dict)


IsolationLevel = Literal["rlimits", "namespaces", "bubblewrap"]
"""How generated code is kept in, weakest first."""


@dataclass(frozen=True)
class CodeExecution:
    """The user's leave to run what a model wrote.

    Attributes:
        level: the weakest isolation that will do; None takes the strongest that this machine has.
        workers: programs run at once; None for one a core.
        on_progress: told (problems judged, of how many, the share of their programs that passed).
    """

    level: IsolationLevel | None = None
    workers: int | None = None
    on_progress: Callable[[int, int, float], None] = field(
        default=lambda done, wanted, passed: None, repr=False, compare=False
    )


class ChatTemplate(Protocol):
    """The checkpoint's chat template."""

    def __call__(self, messages: Sequence[Message], prefilled: bool = False) -> str:
        """The chat as text, up to where the model's answer goes on.

        Args:
            messages: the turns.
            prefilled: whether the last turn is the beginning of that answer.

        Raises:
            UserError: there is no template, or it fails.
        """


@dataclass(frozen=True)
class BenchmarkContext:
    """What a benchmark may ask of the run.

    Attributes:
        limit: at most so many problems, or None for all.
        seed: for whatever a benchmark draws (which line to hide, say); the same for every seed of the run.
        held_out: the manifest's corpus, held-out split.
        sequence_length: the longest text, in tokens, that the manifest's models read.
        code_execution: whether, and how, `score` may run generated code; None forbids it.
        chat: the chat template, where prompts are to be put into it. Prompts that a benchmark leaves as they
            are become a user's turn; one with turns of its own (examples, a system prompt) renders them
            itself and marks its gaps and contexts as `templated`.
    """

    limit: int | None
    seed: int
    sequence_length: int
    held_out: Callable[[], Iterator[Document]] = field(repr=False)
    code_execution: CodeExecution | None = None
    chat: ChatTemplate | None = field(default=None, repr=False)


class Benchmark(ABC):
    """Problems, and how answers to them score.

    `requests` is called first, once, with the context that holds for `score` too.
    """

    headline: tuple[str, ...] = ()
    """The metrics to show first, of those that there are."""
    lower_is_better: frozenset[str] = frozenset()
    """The metrics of which less is better."""
    gold_scores: Mapping[str, float] = MappingProxyType({})
    """What the published answers score, by metric, where that isn't 1 (or 0, where less is better): 100 of a
    percentage, say."""
    executes_code: bool = False
    """Whether `score` runs generated code: it is then only called where the context allows that."""
    accepts: frozenset[AnswerForm] = frozenset({"written"})
    """The forms of answers that can be scored; others than "written" come from samples files."""

    @abstractmethod
    def requests(self, context: BenchmarkContext) -> Sequence[Request]:
        """What to ask, in a fixed order."""

    @abstractmethod
    def score(self, answers: Sequence[Answer]) -> Scores:
        """Score the answers, ordered by request and sample.

        A samples file may leave tasks out, and give some more samples than others.
        """

    def training_problems(self, context: BenchmarkContext) -> Sequence[Problem]:
        """What a model may be taught with by rewards; `requests` need not have been called.

        By default they are the requests that have a reference, each as its problem's answer, whatever the
        number of settings. A benchmark that keeps its test problems apart gives others here; one that runs
        programs gives their tests. None at all means that there is nothing to learn from.
        """
        asked = (each for each in self.requests(context) if isinstance(each, GenerationRequest))
        found: dict[str, Problem] = {}
        for each in asked:
            if each.reference is not None and each.failure is None:
                found.setdefault(each.task_id, Problem(each.task_id, each.gap, answer=each.reference))
        return list(found.values())

    def quick_score(self, answer: Answer) -> float | None:
        """What one answer is worth, for the score so far in a progress bar; None where it isn't cheap."""
        return None

    def task_of(self, given: str) -> str:
        """The task id that a samples file means, which may spell it as another harness does."""
        return given
