"""The tokenizer of a run: trained on its corpus, or loaded."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from opendllm.core.checkpoints.families import read_config
from opendllm.core.checkpoints.pretrained import fetch
from opendllm.core.checkpoints.tokenizer_files import read_tokenizer
from opendllm.core.data.long_texts import parts
from opendllm.core.manifest.schema import MASK_TOKEN, TokenizerChoice
from opendllm.core.networks.noise_section import CONFIG_FILE
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from opendllm.registries.corpora import Document

EOS_TOKEN = "<|endoftext|>"  # noqa: S105 (no password)


CHARACTERS_TRAINED_ON = 100_000_000
"""More would cost memory and change little."""


def make_tokenizer(choice: TokenizerChoice, corpora: Sequence[Iterable[Document]]) -> PreTrainedTokenizerFast:
    """The tokenizer that the manifest asks for, with an EOS and a mask token.

    Args:
        choice: the manifest's.
        corpora: what each corpus trains on; a tokenizer that is trained reads the beginning of each,
            `CHARACTERS_TRAINED_ON` in all.

    Raises:
        UserError: it can't be loaded, or has no EOS token.
    """
    if choice.train is not None:
        share = CHARACTERS_TRAINED_ON // len(corpora)
        beginnings = (_beginning(documents, share) for documents in corpora)
        documents = itertools.chain.from_iterable(beginnings)
        return train_tokenizer(documents, choice.train.vocab_size, choice.mask_token)
    assert choice.path is not None
    tokenizer = load_tokenizer(choice.path, choice.mask_token)
    if choice.eos_token is not None and tokenizer.eos_token not in (None, choice.eos_token):
        raise UserError(
            f"data.tokenizer.eos_token is {choice.eos_token!r}, and the files of {choice.path} name "
            f"{tokenizer.eos_token!r}: leave it out"
        )
    if choice.eos_token is not None:
        tokenizer.add_special_tokens({"eos_token": choice.eos_token})
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"tokenizer {choice.path!r} has no EOS token, which ends every document: name it as "
            f"data.tokenizer.eos_token"
        )
    return tokenizer


def _beginning(documents: Iterable[Document], characters: int) -> Iterator[Document]:
    for document in documents:
        yield replace(document, text=document.text[:characters])
        characters -= len(document.text)
        if characters <= 0:
            return


def load_tokenizer(path_or_hub_id: str, new_mask_token: str = MASK_TOKEN) -> PreTrainedTokenizerFast:
    """A published tokenizer, with a mask token: its own, its checkpoint's, or the new one.

    Raises:
        UserError: it can't be loaded, or lacks the mask token that its checkpoint names.
    """
    folder = fetch(path_or_hub_id, said_as="data.tokenizer.path")
    tokenizer = read_tokenizer(folder)
    config_file = folder / CONFIG_FILE
    mask_token_id = read_config(folder).get("mask_token_id") if config_file.is_file() else None
    if mask_token_id is not None:
        mask_token = tokenizer.convert_ids_to_tokens(mask_token_id)
        if mask_token is None:
            raise UserError(
                f"{config_file}: the tokenizer beside it has no token of mask_token_id {mask_token_id}"
            )
        tokenizer.mask_token = mask_token
    elif tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": new_mask_token})
    return tokenizer


def train_tokenizer(
    documents: Iterable[Document], vocab_size: int, mask_token: str = MASK_TOKEN
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text survives encoding and decoding unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS_TOKEN, mask_token],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (part for document in documents for part in parts(document.text))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        mask_token=mask_token,
        clean_up_tokenization_spaces=False,
    )
