"""Answers as the policy writes them, and as policy objectives read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from opendllm.core.checkpoints.chat_template import apply_template
from opendllm.core.checkpoints.text_codec import TextCodec
from opendllm.core.decoding.chat import chat_prompt
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.text import SeededGap, around_gap, why_unfit, write
from opendllm.core.training.reinforcement.problems import Question
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.policies import Rollouts
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.samplers import Sampler
from opendllm.registries.sequences import PADDING_SEGMENT, TokenIds, TokenRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@contextmanager
def answering(module: nn.Module) -> Iterator[None]:
    """Within it the model only answers: nothing is dropped out."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@dataclass(frozen=True)
class Answer:
    """What was written.

    Attributes:
        question: what it answers.
        before: the ids that stand left of it.
        after: and right.
        tokens: of the answer, as many as were asked for.
        committed_at: see `Written`.
        kept: how many of the tokens come before the first stop id.
        text: of these.
        forward_passes: that it took.
    """

    question: Question
    before: list[int]
    after: list[int]
    tokens: tuple[int, ...]
    committed_at: tuple[int, ...]
    kept: int
    text: str
    forward_passes: int

    @property
    def counted(self) -> int:
        """How many tokens are learnt: up to and with the first stop id."""
        return min(self.kept + 1, len(self.tokens))

    @property
    def completion(self) -> Completion:
        """The same for rewards."""
        return Completion(
            problem=self.question.problem,
            sample=self.question.sample,
            text=self.text,
            tokens=self.tokens[: self.counted],
            ended=self.kept < len(self.tokens),
        )


@dataclass(frozen=True)
class Writer:
    """The policy at work.

    Attributes:
        lm: the model, with the weights that it has at the time.
        tokenizer: for chat templates.
        codec: text to ids and back.
        sampler: decides in which order tokens are committed.
        options: the decoder's.
        chat: whether prompts go through the chat template.
        batch_size: answers that are written side by side.
    """

    lm: DiffusionLM
    tokenizer: PreTrainedTokenizerFast
    codec: TextCodec
    sampler: Sampler
    options: DecoderOptions
    chat: bool
    batch_size: int

    def at_temperature(self, temperature: float) -> Writer:
        """The same but for the temperature of the token draw."""
        return replace(self, options=self.options.model_copy(update={"temperature": temperature}))

    def gap(self, problem: Problem) -> Gap:
        """What is put to the model.

        Raises:
            UserError: the tokenizer has no chat template, and one is asked for.
        """
        gap = problem.gap
        if problem.messages:
            text = apply_template(self.tokenizer, self.codec, problem.messages, "answer follows")
            return replace(gap, prefix=text, templated=True)
        if self.chat and gap.suffix is None and not gap.templated:
            text = chat_prompt(self.tokenizer, self.codec, gap.prefix)
            return replace(gap, prefix=text, templated=True)
        return gap

    def longest(self, problems: Sequence[Problem]) -> int:
        """The most tokens that an answer to one of them may have."""
        return max(
            self.options.max_new_tokens if each.gap.length is None else each.gap.length for each in problems
        )

    def refuse_unfit(self, problems: Sequence[Problem]) -> None:
        """Before anything takes time.

        Raises:
            UserError: a problem can't be put to the model: its prompt is empty, say, or too long.
        """
        for problem in problems:
            reason = why_unfit(self.lm, self.codec, self.gap(problem), self.options)
            if reason is not None:
                raise UserError(f"train.rl: problem {problem.task_id!r} can't be put to the model: {reason}")

    def write(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """The answers, as they come; the model is left as it was, in training or not."""
        gaps = [self.gap(question.problem) for question in questions]
        seeded = [SeededGap(gap, each.seed) for gap, each in zip(gaps, questions, strict=True)]
        with answering(self.lm.module):
            for at, found in write(self.lm, self.codec, seeded, self.sampler, self.options, self.batch_size):
                before, after = around_gap(self.codec, gaps[at])
                yield Answer(
                    questions[at],
                    before,
                    after,
                    found.tokens,
                    found.committed_at,
                    found.kept_tokens,
                    found.text,
                    found.forward_passes,
                )


def rollouts_of(answers: Sequence[Answer], lm: DiffusionLM, longest: int) -> Rollouts:
    """Answers side by side, on the CPU; each `sample_index` is the answer's number in its phase.

    Args:
        answers: at least one.
        lm: the model that they are of.
        longest: the most tokens that a completion could have.
    """
    width = max(len(each.before) + len(each.tokens) + len(each.after) for each in answers)
    shape = (len(answers), width)
    filler = next((stop for stop in lm.stops if stop < lm.vocab_size), int(lm.mask_token_id == 0))
    tokens = torch.full(shape, filler)
    segments = torch.full(shape, PADDING_SEGMENT)
    positions, committed_at = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    maskable, counted = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for row, each in enumerate(answers):
        ids = [*each.before, *each.tokens, *each.after]
        start, end = len(each.before), len(each.before) + len(each.tokens)
        tokens[row, : len(ids)] = torch.tensor(ids)
        segments[row, : len(ids)] = 0
        positions[row, : len(ids)] = torch.arange(len(ids))
        maskable[row, start:end] = True
        counted[row, start : start + each.counted] = True
        committed_at[row, start:end] = torch.tensor(each.committed_at)
    numbers = torch.tensor([each.question.number for each in answers])
    ids_of = TokenIds(lm.vocab_size, lm.mask_token_id)
    rows = TokenRows(tokens, segments, positions, maskable, numbers, ids=ids_of)
    return Rollouts(rows, counted, committed_at, longest)


def part_of(rollouts: Rollouts, lm: DiffusionLM, chosen: Tensor, first_index: int) -> Rollouts:
    """Some rows on the model's device, no wider than they have to be.

    Args:
        rollouts: of a phase.
        lm: the model.
        chosen: [B'] int64, which rows; at least one.
        first_index: what is added to each `sample_index`.
    """
    rows = rollouts.rows
    width = int((rows.segments[chosen] != PADDING_SEGMENT).sum(-1).amax())
    device = next(lm.module.parameters()).device

    def cut(values: Tensor) -> Tensor:
        return values[chosen, :width].to(device)

    positions = cut(rows.positions)
    return Rollouts(
        TokenRows(
            cut(rows.tokens),
            cut(rows.segments),
            positions,
            cut(rows.maskable),
            (rows.sample_index[chosen] + first_index).to(device),
            lm.attention.blocks(positions),
            ids=rows.ids,
        ),
        cut(rollouts.counted),
        cut(rollouts.committed_at),
        rollouts.max_completion_length,
    )
