"""The Python API: a checkpoint that can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from opendllm.core.call_checks import (
    check_attention_mask,
    check_ids,
    check_length,
    check_masks_are_real,
    count_of,
    several_texts,
    whole_seeds,
)
from opendllm.core.checkpoints.families import backbone_of, with_block_length
from opendllm.core.checkpoints.loading import Checkpoint, load_checkpoint, torch_device
from opendllm.core.checkpoints.pretrained import fetch
from opendllm.core.checkpoints.text_codec import TextCodec
from opendllm.core.decoding.chat import chat_prompt
from opendllm.core.decoding.decoder import Decoded, decode
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.settings import (
    check_destination,
    default_options,
    kept_defaults,
    sort_over_defaults,
)
from opendllm.core.decoding.text import SeededGap, Written, encode, refuse_unread_suffix, write
from opendllm.core.evaluation.text_likelihood import TextToScore, score_texts
from opendllm.core.objective_loss import GivenNoise, objective_loss
from opendllm.core.toolkit.draws import hash_address
from opendllm.core.toolkit.likelihood import Estimator
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.deprecations import warn_deprecated
from opendllm.registries.discovery import Plugins, installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap
from opendllm.registries.samplers import Sampler

BATCH_SIZE = 16
NO_TOKENIZER = "this checkpoint has no tokenizer: use `sample` and `logits` with token ids"


def load(
    path: str | Path,
    *,
    backbone: str | None = None,
    mask_token_id: int | None = None,
    block_length: int | None = None,
    add_bos_token: bool | None = None,
    device: str = "auto",
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """Load a model: a Hugging Face folder, a checkpoint, or a variant's folder of a run.

    Args:
        path: the folder, or a hub id such as `GSAI-ML/LLaDA-8B-Base`.
        backbone: the family's plugin, where config.json doesn't settle it.
        mask_token_id: where neither config.json nor the tokenizer names it.
        block_length: of a block-causal checkpoint, where config.json has none, or another one.
        add_bos_token: whether texts begin with BOS; None as the tokenizer says.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        dtype: of the weights; None keeps the file's.

    Raises:
        UserError: the folder is incomplete, of an unknown family, its weights don't fit, or `dtype` is none.
    """
    if not isinstance(dtype, torch.dtype | None):
        raise UserError(f"dtype is a torch dtype, such as torch.bfloat16, and {dtype!r} was given")
    plugins = installed_plugins()
    folder = fetch(str(path))
    family = backbone_of(plugins, folder, backbone)
    if block_length is not None:
        family = with_block_length(family, block_length)
    found = load_checkpoint(folder, family, torch_device(device), dtype, mask_token_id, add_bos_token)
    defaults = default_options(family.options, found.lm.attention.block_length)
    return LanguageModel(found, family.options.default_sampler, plugins, defaults)


class LanguageModel:
    """A diffusion language model with its tokenizer.

    Attributes:
        lm: the model itself.
        tokenizer: None where the checkpoint has none; calls with text then raise.
        default_sampler: the one its authors decode with.
        default_options: what they set beside it. They hold where a call names no sampler, each until the
            call says otherwise; a named sampler begins with its own defaults.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        default_sampler: str,
        plugins: Plugins,
        default_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.lm = checkpoint.lm
        self.tokenizer = checkpoint.tokenizer
        self._text_codec = checkpoint.codec
        self.default_sampler = default_sampler
        self.default_options = dict(default_options or {})
        self._plugins = plugins

    def __repr__(self) -> str:
        lm = self.lm
        parameters = sum(parameter.numel() for parameter in lm.module.parameters())
        tokenizer = "no tokenizer" if self.tokenizer is None else type(self.tokenizer).__name__
        return (
            f"LanguageModel({type(lm).__name__}, {parameters:,} parameters, {lm.attention.kind} attention, "
            f"vocab_size={lm.vocab_size}, {tokenizer}, default_sampler={self.default_sampler!r})"
        )

    @torch.no_grad()
    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Aligned logits [B, L, V] of `input_ids` [B, L]: position i predicts token i.

        A shifted model's first real position repeats its own hidden state's logits.

        Args:
            input_ids: int64.
            attention_mask: [B, L], zero on padding and one elsewhere.

        Raises:
            UserError: `input_ids` is no int64 tensor [B, L] of the model's token ids, or is longer than its
                context; or the mask is none.
        """
        check_ids(input_ids, self.lm.vocab_size, "input_ids")
        if not input_ids.shape[1]:
            raise UserError("input_ids holds no tokens")
        check_length(input_ids.shape[1], self.lm.context_length, "input_ids")
        check_attention_mask(attention_mask, input_ids, "input_ids")
        return self.lm.project(self.lm.hidden_states(inputs_from_mask(input_ids, attention_mask)))

    def sample(
        self,
        canvas: Tensor,
        sampler: str | None = None,
        attention_mask: Tensor | None = None,
        seed: int | Sequence[int] = 0,
        trace: bool = False,
        **options: Any,
    ) -> Decoded:
        """Fill the masks of `canvas` [B, L]; the whole canvas comes back, never cut at EOS.

        Args:
            canvas: int64; every mask token is to be written. `generate` lets a block-causal checkpoint's end
                with a block, which changes what is written in it; here that is the caller's affair.
            sampler: by default the family's own, with its `default_options`.
            attention_mask: [B, L], zero on padding and one elsewhere.
            seed: an integer, or one a row.
            trace: whether to keep the canvas after every step.
            options: the decoder's (`DecoderOptions`) and the sampler's own, flat.

        Raises:
            UserError: an option is unknown, out of range, or without effect; the canvas or the
                attention mask is none.
        """
        _refuse(options, "max_new_tokens", "the canvas says how much is written")
        check_ids(canvas, self.lm.vocab_size, "a canvas")
        check_attention_mask(attention_mask, canvas, "the canvas")
        check_masks_are_real(canvas, attention_mask, self.lm.mask_token_id)
        chosen, decoder = self.build_sampler(sampler, options)
        seeds = torch.tensor(row_seeds(seed, canvas.shape[0]), device=canvas.device)
        return decode(self.lm, canvas, attention_mask, chosen, decoder, seeds, trace)

    def score(
        self, texts: Sequence[str], draws: int = 128, seed: int = 0, estimator: Estimator = "llada"
    ) -> list[tuple[float, float]]:
        """(log-likelihood, its standard error) of each text in nats, given BOS, or else its first token.

        The ELBO of a diffusion model, exact for a causal one (see `log_likelihood`).

        Raises:
            UserError: these are no texts, one is too short to be scored or longer than the
                context, or there is no such estimator.
        """
        texts = several_texts(texts, "texts")
        draws = count_of(draws, "draws", "take at least one")
        if estimator not in get_args(Estimator):
            raise UserError(f"estimator {estimator!r} is none of {', '.join(get_args(Estimator))}")
        codec = self.codec
        sizes = [len([*codec.bos, *encode(codec, text, f"text {index}")]) for index, text in enumerate(texts)]
        for index, size in enumerate(sizes):
            if size < 2:
                raise UserError(f"text {index} has fewer than two tokens, so none can be scored")
            check_length(size, self.lm.context_length, f"text {index}")
        asked = [TextToScore(*each) for each in zip(texts, row_seeds(seed, len(texts)), strict=True)]
        found = score_texts(self.lm, codec, asked, max(sizes, default=0), draws, estimator)
        return [(scored.log_likelihood, scored.variance**0.5) for scored in found]

    @torch.no_grad()
    def loss(
        self,
        tokens: Tensor,
        masked: Tensor,
        mask_probability: Tensor,
        objective: str = "llada",
        segments: Tensor | None = None,
        noise_schedule: str | Mapping[str, Any] = "linear",
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """An objective's (sum, count) under given noise; their ratio is the published loss.

        Args:
            tokens: [B, L] int64, clean.
            masked: [B, L] bool; or int64, the noisy tokens themselves, where noise isn't masks only.
            mask_probability: [B, L] float, or [B, 1], the chance that a token doesn't survive.
            objective: the objective plugin.
            segments: [B, L] document numbers; None for one document a row.
            noise_schedule: the schedule plugin that `mask_probability` came from, by name, or with options as
                a manifest has it: `{"name": "linear", "options": {"destination": "uniform"}}`.
            options: the objective's.

        Raises:
            UserError: the objective and the schedule don't go together, or the noise isn't said as they need
                it.
        """
        check_ids(tokens, self.lm.vocab_size, "tokens")
        given = GivenNoise(tokens, masked, mask_probability, segments)
        return objective_loss(self.lm, self._plugins, given, objective, noise_schedule, options)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        sampler: str | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int = BATCH_SIZE,
        chat: bool = False,
        **options: Any,
    ) -> list[str]:
        """Continue each prompt; the texts end at EOS.

        Args:
            prompts: what to continue.
            sampler: by default the family's own, with its `default_options`.
            seed: an integer, or one a prompt.
            batch_size: rows decoded together; changes no result, but for the rounding of half precision.
            chat: put each prompt into the checkpoint's chat template.
            options: the decoder's and the sampler's own, flat.

        Raises:
            UserError: see `sample` and `write`.
        """
        texts = several_texts(prompts, "prompts")
        gaps = [self.chat_gap(text) if chat else Gap(text) for text in texts]
        written = self.fill(gaps, options, sampler=sampler, seed=seed, batch_size=batch_size)
        return [each.text for each in written]

    def infill(
        self,
        gaps: Sequence[tuple[str, str]],
        max_new_tokens: int | None = None,
        *,
        sampler: str | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> list[str]:
        """Write `max_new_tokens` tokens between each prefix and suffix; the texts end at EOS.

        Args:
            gaps: (prefix, suffix) of each.
            max_new_tokens: how much is written into each; by default as much as `generate` writes.
            sampler: by default the family's own, with its `default_options`.
            seed: an integer, or one a gap.
            batch_size: rows decoded together; changes no result, but for the rounding of half precision.
            options: the decoder's and the sampler's own, flat. `middle_tokens`, the deprecated name of
                `max_new_tokens`, is taken too.

        Raises:
            UserError: see `sample` and `write`; a gap isn't two texts; or the model is a causal one, which
                reads no suffix.
        """
        if "middle_tokens" in options:
            if max_new_tokens is not None:
                raise UserError("middle_tokens is max_new_tokens: give it once, as max_new_tokens")
            warn_deprecated("middle_tokens", "write infill(gaps, max_new_tokens=...)")
            max_new_tokens = options.pop("middle_tokens")
        if max_new_tokens is not None:
            max_new_tokens = count_of(max_new_tokens, "max_new_tokens", "write at least one token")
        gaps = list(gaps)
        for index, gap in enumerate(gaps):
            if isinstance(gap, str) or len(gap) != 2 or not _are_texts(gap):
                raise UserError(f"gap {index} is {gap!r}: give (prefix, suffix) of each, two texts")
        asked = [Gap(prefix, suffix, max_new_tokens) for prefix, suffix in gaps]
        written = self.fill(asked, options, sampler=sampler, seed=seed, batch_size=batch_size)
        return [each.text for each in written]

    def fill(
        self,
        gaps: Sequence[Gap],
        options: Mapping[str, Any],
        *,
        sampler: str | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int = BATCH_SIZE,
        trace: bool = False,
        on_written: Callable[[int, Written], None] = lambda index, written: None,
    ) -> list[Written]:
        """Write into each gap, with all that is known of how it went.

        Args:
            gaps: completions and infillings, mixed as you like.
            options: the decoder's and the sampler's own, flat.
            sampler: by default the family's own, with its `default_options`.
            seed: an integer, or one a gap.
            batch_size: rows decoded together; changes no result, but for the rounding of half precision.
            trace: whether to keep every canvas.
            on_written: told what was written into which gap as soon as it is; not in their order.

        Raises:
            UserError: see `sample` and `write`.
        """
        batch_size = count_of(batch_size, "batch_size", "decode at least one row at a time")
        refuse_unread_suffix(self.lm, gaps)
        chosen, decoder = self.build_sampler(sampler, options)
        codec = self.codec
        seeded = [SeededGap(*each) for each in zip(gaps, row_seeds(seed, len(gaps)), strict=True)]
        found: dict[int, Written] = {}
        for index, written in write(self.lm, codec, seeded, chosen, decoder, batch_size, trace):
            found[index] = written
            on_written(index, written)
        return [found[index] for index in range(len(seeded))]

    def decoding(self, sampler: str | None, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The sampler and the options, flat, that a call with these decodes with."""
        if sampler is not None:
            return sampler, dict(options)
        registration = self._plugins.samplers.get(self.default_sampler)
        return self.default_sampler, {
            **kept_defaults(options, self.default_options, registration),
            **options,
        }

    def chat_gap(self, prompt: str) -> Gap:
        """The answer to a prompt, which is a user's turn in the checkpoint's chat template.

        Raises:
            UserError: the checkpoint has no chat template, or it fails.
        """
        if self.tokenizer is None:
            raise UserError(NO_TOKENIZER)
        return Gap(chat_prompt(self.tokenizer, self.codec, prompt), templated=True)

    def build_sampler(self, name: str | None, flat: Mapping[str, Any]) -> tuple[Sampler, DecoderOptions]:
        """What a call with this sampler, by default the family's own, and these options decodes with.

        Raises:
            UserError: an option is unknown, out of range, or without effect; or the sampler is of other
                noise.
        """
        registration = self._plugins.samplers.get(self.default_sampler if name is None else name)
        check_destination(registration, self.lm.noise.destination)
        defaults = self.default_options if name is None else {}
        decoder, own = sort_over_defaults(flat, defaults, registration)
        return registration.build(own), decoder

    @property
    def codec(self) -> TextCodec:
        """Text to ids and back.

        Raises:
            UserError: the checkpoint has no tokenizer.
        """
        if self._text_codec is None:
            raise UserError(NO_TOKENIZER)
        return self._text_codec


def _are_texts(gap: Sequence[Any]) -> bool:
    return isinstance(gap[0], str) and (gap[1] is None or isinstance(gap[1], str))


def _refuse(options: dict[str, Any], name: str, why: str) -> None:
    if name in options:
        raise UserError(f"{name} has no effect here: {why}")


def row_seeds(seed: int | Sequence[int], rows: int) -> list[int]:
    """One seed a row; a single integer is hashed with the row's number.

    Raises:
        UserError: one seed a row, but for other rows; or a seed that torch can't hold.
    """
    given = whole_seeds(seed)
    if isinstance(given, int):
        hashed: list[int] = hash_address(given, torch.arange(rows)).tolist()
        return hashed
    if len(given) != rows:
        raise UserError(f"{len(given)} seeds were given for {rows} rows")
    return given
