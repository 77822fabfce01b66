"""A transformer and a tokenizer small enough to be made anew for a test."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config

from opendllm.core.checkpoints.loading import Checkpoint
from opendllm.core.checkpoints.text_codec import codec_of
from opendllm.core.language_model import LanguageModel
from opendllm.core.networks.transformers_lm import CheckpointFormat
from opendllm.core.networks.transformers_loading import build_lm
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import BackboneOptions
from opendllm.registries.sequences import AttentionPattern

EOS_TOKEN, MASK_TOKEN = "<|endoftext|>", "<|mask|>"
CONTEXT = 256


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """EOS is 0, the mask 1, and the 256 bytes follow."""
    names = [EOS_TOKEN, MASK_TOKEN, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        mask_token=MASK_TOKEN,
        clean_up_tokenization_spaces=False,
    )


def tiny_language_model() -> LanguageModel:
    """A bidirectional model of width 32 over bytes; torch's global generator stays where it was."""
    tokenizer = byte_tokenizer()
    network = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        is_causal=False,
        pad_token_id=None,
    )
    form = CheckpointFormat("tiny", network, {}, logit_shift=False, context_length=CONTEXT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = build_lm(form, {}, AttentionPattern(), tokenizer.mask_token_id, tokenizer.eos_token_id)
    lm.module.eval()
    checkpoint = Checkpoint(lm, tokenizer, codec_of(tokenizer, [lm.mask_token_id, *lm.stops]))
    return LanguageModel(checkpoint, BackboneOptions.default_sampler, installed_plugins())
