"""The contract of backbones: what a position sees, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import torch

from opendllm.core.testing.backbone_case import (
    BATCH,
    OTHER_VOCABULARY,
    VOCABULARY,
    BackboneCase,
    training_batch,
)
from opendllm.core.testing.contract import check_close, passed_over
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.errors import UserError
from opendllm.registries.options import BackboneOptions
from opendllm.registries.sequences import ModelInputs


class ReadingTests(BackboneCase):
    """Aligned logits, documents apart, padding unseen."""

    def test_it_knows_its_vocabulary(self) -> None:
        """Mask, EOS and size are those of the tokenizer, whatever they are."""
        for vocabulary in (VOCABULARY, OTHER_VOCABULARY):
            lm = self.lm(vocabulary)
            found = lm.mask_token_id, lm.eos_token_id, lm.vocab_size
            wanted = vocabulary.mask_token_id, vocabulary.eos_token_id, vocabulary.size
            assert found == wanted, (
                f"mask, EOS and vocabulary size are {found}, and {wanted} was expected: take what build "
                f"is given"
            )

    def test_it_says_how_much_it_reads(self) -> None:
        """`context_length` is how many positions it was made for: longer rows are refused."""
        length = self.lm().context_length
        assert type(length) is int and length >= BATCH[1], (  # noqa: PT018 (one thing)
            f"context_length is {length!r}, and a number of positions was expected, {BATCH[1]} at least, "
            f"which it reads here: give what the family was made for"
        )

    def test_random_weights_hang_on_the_seed(self) -> None:
        """`build` draws from torch's global generator: a run's seed is all that it hangs on."""
        backbone = self.build()
        drawn = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            drawn.append(backbone.build(VOCABULARY).module.state_dict())
        same, other = (
            all(torch.equal(drawn[0][name], some[name]) for name in drawn[0]) for some in drawn[1:]
        )
        assert same, (
            "the same seed was expected to build the same weights, and builds others: draw from torch"
        )
        assert not other, (
            "another seed was expected to build other weights, and builds the same: draw them from torch's "
            "global generator"
        )

    def test_shapes_are_those_of_the_contract(self) -> None:
        """Hidden states [B, L, D], logits [B, L, V], likelihoods [N]; all of them floating."""
        lm, tokens = self.lm(), torch.arange(12).view(2, 6)
        inputs, scored = inputs_from_mask(tokens, None), tokens % 3 > 0
        with torch.no_grad():
            hidden = lm.hidden_states(inputs)
            nll = lm.negative_log_likelihood(inputs, tokens, scored)
        logits = self.logits(lm, inputs)
        for name, value, wanted in (
            ("hidden_states", hidden, [2, 6, hidden.shape[-1]]),
            ("project", logits, [2, 6, VOCABULARY.size]),
            ("negative_log_likelihood", nll, [int(scored.sum())]),
        ):
            came = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
            right = list(value.shape) == wanted and value.is_floating_point()
            assert right, f"{name} gave {came}, and float {wanted} was expected: see DiffusionLM.{name}"
        kept = torch.equal(inputs.tokens, torch.arange(12).view(2, 6)) and torch.equal(
            inputs.positions, inputs_from_mask(tokens, None).positions
        )
        assert kept, "what a model reads was expected to stay as it is, and was written into: work on copies"
        check_close(
            lm.project(hidden[scored]),
            logits[scored],
            "the logits of some positions [N, D], against those among all [B, L, D]",
            "`project` takes hidden states of any shape [..., D], and each by itself",
            rtol=1e-5,
            atol=1e-5,
        )

    def test_padding_on_either_side_changes_nothing(self) -> None:
        """A padded row's logits are those of the row alone."""
        lm, tokens = self.lm(), torch.arange(1, 9)[None]
        alone = self.logits(lm, inputs_from_mask(tokens, None))
        pad = torch.zeros(1, 3, dtype=torch.int64)
        for side, parts, real in (
            ("left", (pad, tokens), slice(3, None)),
            ("right", (tokens, pad), slice(0, 8)),
        ):
            padded = torch.cat(parts, dim=1)
            mask = torch.zeros_like(padded)
            mask[:, real] = 1
            check_close(
                self.logits(lm, inputs_from_mask(padded, mask))[:, real],
                alone,
                f"a logit of a row with padding on its {side}, against the row alone",
                "nothing attends to `segments` -1, and positions are `inputs.positions`, not columns",
                rtol=0,
                atol=1e-4,
            )

    def test_attention_is_as_declared(self) -> None:
        """Each pattern that the family takes: a token changes the logits that may see it, and no others."""
        for _, lm in self.models():
            tokens = torch.arange(1, 9)[None]
            inputs = inputs_from_mask(tokens, None)
            before = self.logits(lm, inputs)[0]
            sees = lm.predictors(inputs.segments)[0]
            blocks = lm.attention.blocks(inputs.positions)
            blocks = torch.zeros_like(tokens) if blocks is None else blocks
            for column in range(tokens.shape[1]):
                changed = tokens.clone()
                changed[0, column] = 17
                moved = (self.logits(lm, inputs.with_tokens(changed))[0] - before).abs().amax(-1)
                visible = blocks[0, column] <= blocks[0, sees]
                if lm.attention.kind == "causal" and not lm.logit_shift:
                    visible &= torch.arange(len(sees)) != column  # aligned: no token predicts itself
                told = f"{lm.attention} attention: when the token at {column} changes, the logits at"
                leaks = ((moved > 1e-5) & ~visible).nonzero()[:, 0].tolist()
                assert not leaks, f"{told} {leaks} were expected to stay, and change: they may not see it"
                blind = ((moved == 0) & visible).nonzero()[:, 0].tolist()
                assert not blind, f"{told} {blind} were expected to change, and stay: they have to see it"

    def test_padding_does_not_change_the_attention(self) -> None:
        """In a padded row the last real token still reaches the first position of a bidirectional model."""
        lm = self.lm()
        if lm.attention.kind != "bidirectional":
            passed_over(f"its attention is {lm.attention.kind}")
        tokens = torch.tensor([[1, 2, 3, 4, 5, 0, 0]])
        mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
        changed = tokens.clone()
        changed[0, 4] = 17
        before, after = (self.logits(lm, inputs_from_mask(row, mask))[0, 0] for row in (tokens, changed))
        assert not torch.equal(before, after), (
            "changing the last real token of a padded row leaves the first position's logits as they were: "
            "a padding mask must not make the attention causal"
        )

    def test_logits_are_aligned(self) -> None:
        """Of a shifted model, position i has the hidden state of i - 1, and a document's first its own."""
        lm = self.lm()
        packed = ModelInputs(
            tokens=torch.arange(3, 13)[None],
            segments=torch.tensor([[0] * 4 + [1] * 6]),
            positions=torch.tensor([[*range(4), *range(6)]]),
        )
        with torch.no_grad():
            hidden = lm.hidden_states(packed)[0]
        wanted = [0, 0, 1, 2, 4, 4, 5, 6, 7, 8] if lm.logit_shift else list(range(10))
        found = lm.predictors(packed.segments)[0].tolist()
        assert found == wanted, (
            f"logit_shift is {lm.logit_shift}, so that positions are predicted at {wanted}, and `predictors` "
            f"says {found}: give it with the shift"
        )
        if lm.attention.kind == "causal" and not self.lm().logit_shift:
            return
        for first in (0, 4):
            same = torch.equal(hidden[first], hidden[first + 1])
            assert same == lm.logit_shift, (
                f"logit_shift is {lm.logit_shift}, and the hidden states of a document's first two positions "
                f"are {'the same' if same else 'not the same'}: hidden_states gives aligned ones, moved by "
                f"one where the checkpoint's are shifted"
            )

    def test_packed_documents_do_not_see_each_other(self) -> None:
        """A packed row gives each document the logits that it has alone."""
        lm = self.lm()
        first, second = torch.arange(1, 6)[None], torch.arange(11, 18)[None]
        packed = ModelInputs(
            tokens=torch.cat([first, second], dim=1),
            segments=torch.tensor([[0] * 5 + [1] * 7]),
            positions=torch.tensor([[*range(5), *range(7)]]),
        )
        alone = [self.logits(lm, inputs_from_mask(tokens, None)) for tokens in (first, second)]
        check_close(
            self.logits(lm, packed),
            torch.cat(alone, dim=1),
            "a logit of packed documents, against each alone",
            "a token attends to its own `segments` number only, and counts by `inputs.positions`",
            rtol=0,
            atol=1e-4,
        )

    def test_a_time_is_read_or_refused(self) -> None:
        """A model that ignores the time it is told would pass for one that reads it."""
        lm, (inputs, _, _) = self.lm(), training_batch()
        options = self.registration().options
        assert issubclass(options, BackboneOptions)
        times = [torch.full(inputs.tokens.shape, time) for time in (0.1, 2.0)]
        if options.reads_time:
            early, late = (self.logits(lm, replace(inputs, time=time)) for time in times)
            assert not torch.equal(early, late), (
                "options.reads_time is True, and another time gives the same logits: read `inputs.time`, or "
                "set reads_time = False"
            )
        else:
            try:
                self.logits(lm, replace(inputs, time=times[0]))
            except UserError:
                return
            raise AssertionError(
                "options.reads_time is False, and a time was taken without a word: refuse `inputs.time` with "
                "a UserError, or read it and set reads_time = True"
            )
