"""The tokenizer of a run: trained on its corpus, or loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from opendllm.core.manifest.schema import TokenizerChoice
from opendllm.registries.corpora import Corpus
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from opendllm.registries.corpora import Document

EOS_TOKEN = "<|endoftext|>"  # noqa: S105 (no password)
MASK_TOKEN = "<|mask|>"  # noqa: S105


def make_tokenizer(choice: TokenizerChoice, corpus: Corpus) -> PreTrainedTokenizerFast:
    """The tokenizer that the manifest asks for, with an EOS and a mask token.

    Raises:
        UserError: it can't be loaded, or has no EOS token.
    """
    if choice.train is not None:
        return train_tokenizer(corpus.documents("train"), choice.train.vocab_size)
    assert choice.path is not None
    try:
        tokenizer = AutoTokenizer.from_pretrained(choice.path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"tokenizer {choice.path!r} cannot be loaded: {str(error).splitlines()[0]}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer {choice.path!r} has no EOS token, which ends every document")
    if tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    return tokenizer


def train_tokenizer(documents: Iterable[Document], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text survives encoding and decoding unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS_TOKEN, MASK_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        mask_token=MASK_TOKEN,
        clean_up_tokenization_spaces=False,
    )
