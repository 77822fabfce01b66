"""The contract of backbones: readers give the model's own hidden states, with and without a cache."""

from __future__ import annotations

from dataclasses import replace

import torch

from opendllm.core.testing.backbone_case import BackboneCase
from opendllm.core.testing.contract import check_close
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import CanvasReader, DiffusionLM, RefreshSpan, TokenPositions
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import ModelInputs

ROWS, LENGTH = 3, 10
PART = (3, 6)
"""Columns that are read anew by themselves."""


class ReaderTests(BackboneCase):
    """While a canvas is written it is read again and again, each time as if it were the first."""

    def test_a_reader_gives_the_models_hidden_states(self) -> None:
        """Of the tokens as they are now, after others and of fewer rows too."""
        for _, lm in self.models():
            inputs = canvas()
            reader = lm.reader(inputs)
            for changed in (inputs, other(inputs)):
                self._same(lm, reader, changed, f"a reader of a {lm.attention.kind} model")
            kept = torch.tensor([0, 2])
            reader.select_rows(kept)
            self._same(lm, reader, inputs.rows(kept), "a reader that goes on with two of three rows")

    def test_a_cache_changes_nothing_that_is_read_anew(self) -> None:
        """Of one that `supports_kv_cache`: with all columns read anew, and some that haven't changed."""
        for _, lm in self.models():
            inputs = canvas()
            if not lm.supports_kv_cache:
                try:
                    lm.reader(inputs, use_kv_cache=True)
                except UserError:
                    continue
                raise AssertionError(
                    "supports_kv_cache is False, and a reader with a cache was given: refuse it with a "
                    "UserError, or set supports_kv_cache = True"
                )
            told = f"a reader with a cache, of a {lm.attention.kind} model,"
            try:
                reader = lm.reader(inputs, use_kv_cache=True)
            except Exception as error:
                raise AssertionError(
                    f"supports_kv_cache is True, and a reader with a cache was expected; {error}: give one, "
                    f"or set supports_kv_cache = False"
                ) from error
            for changed in (inputs, other(inputs)):
                self._same(
                    lm, reader, changed, f"{told} all columns of which are read anew", span(0, LENGTH - 1)
                )
            self._same(lm, reader, other(inputs), f"{told} some columns of which are read anew", span(*PART))

    @torch.no_grad()
    def _same(
        self,
        lm: DiffusionLM,
        reader: CanvasReader,
        inputs: ModelInputs,
        told: str,
        refresh: RefreshSpan | None = None,
    ) -> None:
        """At every real position that is predicted from the columns that are read."""
        sources = lm.predictors(inputs.segments)
        wanted = inputs.segments >= 0
        if refresh is not None:
            wanted &= (sources >= refresh.first[:, None]) & (sources <= refresh.last[:, None])
        at = TokenPositions(*wanted.nonzero(as_tuple=True))
        try:
            found = reader.states(inputs.tokens, at, refresh)
        except Exception as error:
            raise AssertionError(
                f"{told} was expected to give hidden states, and raised {type(error).__name__}: {error}: see "
                f"CanvasReader.states"
            ) from error
        check_close(
            found,
            lm.hidden_states(inputs)[at.rows, at.columns],
            f"a hidden state of {told} against the model's own",
            "read the tokens as they are now; what is kept is of columns that have not changed since",
            rtol=1e-3,
            atol=1e-4,
        )


def canvas() -> ModelInputs:
    """Three rows, of which the second is padded on its left and the third on its right."""
    tokens = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) * 7 % 37
    mask = torch.ones_like(tokens)
    mask[1, :2] = mask[2, -2:] = 0
    return inputs_from_mask(tokens, mask)


def other(inputs: ModelInputs) -> ModelInputs:
    """The same rows with other tokens."""
    return replace(inputs, tokens=(inputs.tokens + 11) % 37)


def span(first: int, last: int) -> RefreshSpan:
    """These columns of all rows."""
    return RefreshSpan(None, torch.full((ROWS,), first), torch.full((ROWS,), last), last - first + 1)
