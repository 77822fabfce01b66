"""Held-out perplexity."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from opendllm.core.scoring.statistics import likelihood_kind, normal_interval
from opendllm.core.toolkit.draws import stream_id, uniform
from opendllm.plugins.benchmarks import PerplexityOptions
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    BenchmarkContext,
    LikelihoodRequest,
    Metric,
    Scores,
    TaskRatio,
    TextLikelihood,
)
from opendllm.registries.errors import UserError


class Perplexity(Benchmark):
    """exp(NELBO / tokens) of excerpts, one from each of the first held-out documents.

    The intervals are the Monte-Carlo estimate's own error: the documents are taken as given.
    """

    headline = ("perplexity", "bits_per_byte")
    lower_is_better = frozenset({"perplexity", "nats_per_token", "bits_per_byte"})

    def __init__(self, options: PerplexityOptions) -> None:
        self._documents = options.documents

    def requests(self, context: BenchmarkContext) -> Sequence[LikelihoodRequest]:
        """From a random line of each document on; the evaluator cuts at the models' row length."""
        wanted = self._documents if context.limit is None else min(self._documents, context.limit)
        requests = []
        for document in itertools.islice(context.held_out(), wanted):
            lines = document.text.splitlines(keepends=True)
            start = int(float(uniform(context.seed, stream_id(document.name))) * len(lines) * 0.5)
            text = "".join(lines[start:])
            if text.strip():
                requests.append(LikelihoodRequest(document.name, text))
        if not requests:
            raise UserError("benchmark perplexity: the held-out split has no documents")
        return requests

    def score(self, answers: Sequence[Answer]) -> Scores:
        """Totals over all documents but those that failed: there is no wrong perplexity to count them as."""
        likelihoods = [
            answer for answer in answers if isinstance(answer, TextLikelihood) and answer.failure is None
        ]
        nats = -sum(answer.log_likelihood for answer in likelihoods)
        error = math.sqrt(sum(answer.variance for answer in likelihoods))
        tokens = sum(answer.tokens for answer in likelihoods)
        size = sum(answer.bytes for answer in likelihoods)
        if size == 0:
            raise UserError(
                "benchmark perplexity: no held-out document has two tokens, so none can be scored"
            )
        per_token = normal_interval(nats / tokens, error / tokens)
        per_byte = normal_interval(nats / size / math.log(2), error / size / math.log(2))
        perplexity = Metric(math.exp(per_token.value), math.exp(per_token.low), math.exp(per_token.high))
        metrics = {
            "perplexity": replace(perplexity, ratio=TaskRatio("nats", "tokens", exponential=True)),
            "nats_per_token": replace(per_token, ratio=TaskRatio("nats", "tokens")),
            "bits_per_byte": replace(per_byte, ratio=TaskRatio("bits", "bytes")),
        }
        kind = likelihood_kind(likelihoods)
        return Scores(
            metrics={name: replace(metric, kind=kind) for name, metric in metrics.items()},
            per_task={
                answer.task_id: {
                    "nats": -answer.log_likelihood,
                    "bits": -answer.log_likelihood / math.log(2),
                    "tokens": answer.tokens,
                    "bytes": answer.bytes,
                    "bits_per_byte": -answer.log_likelihood / max(1, answer.bytes) / math.log(2),
                }
                for answer in likelihoods
            },
            notes=(
                "each excerpt's first token is given, not scored, where no BOS stands before it",
                "the intervals are the Monte-Carlo error of the ELBO for these texts, an upper bound of the "
                "model's own perplexity; an autoregressive model's is exact for these texts",
                *(["documents that failed are left out"] if len(likelihoods) < len(answers) else []),
            ),
        )
