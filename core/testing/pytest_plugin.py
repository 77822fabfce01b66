"""Fixtures for plugin authors, by pytest's own entry point. Imports nothing heavy before one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from opendllm.core.language_model import LanguageModel
    from opendllm.core.testing.table_lm import TableLM


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, `<|endoftext|>` and `<|mask|>`: any text goes there and back."""
    from opendllm.core.testing.tiny_model import byte_tokenizer

    return byte_tokenizer()


@pytest.fixture
def tiny_model() -> LanguageModel:
    """What `load` gives, of two transformer layers with random weights, the same every time."""
    from opendllm.core.testing.tiny_model import tiny_language_model

    return tiny_language_model()


@pytest.fixture
def table_lm() -> TableLM:
    """A model of a few hundred numbers over twelve tokens, small enough to enumerate what it says."""
    from opendllm.core.testing.table_lm import TableLM

    return TableLM()
