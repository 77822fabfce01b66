"""Flat options, as Python and the command line take them, sorted into the decoder's and the sampler's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import combinations
from typing import Any

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.foundation.option_errors import checked_options
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import Destination
from opendllm.registries.options import AttentionKind, BackboneOptions, SamplerOptions
from opendllm.registries.plugin_calls import owner_of
from opendllm.registries.registry import Registration
from opendllm.registries.samplers import Sampler
from opendllm.registries.suggestions import did_you_mean


def sort_options(
    flat: Mapping[str, Any], registration: Registration[Sampler]
) -> tuple[DecoderOptions, SamplerOptions]:
    """The decoder's options and the sampler's.

    Raises:
        UserError: an option belongs to neither, is out of range, or has no effect with this sampler.
    """
    decoder_names = set(DecoderOptions.model_fields)
    sampler_names = set(registration.options.model_fields)
    for name in flat:
        if name not in decoder_names | sampler_names:
            hint = did_you_mean(name, sorted(decoder_names | sampler_names))
            raise UserError(
                f"neither the decoder nor sampler {registration.name!r} has an option {name!r}: {hint}"
            )
    decoder = checked_options(DecoderOptions, {k: v for k, v in flat.items() if k in decoder_names})
    sampler = checked_options(registration.options, {k: v for k, v in flat.items() if k in sampler_names})
    assert isinstance(sampler, SamplerOptions)
    check_effect(decoder, registration)
    return decoder, sampler


def default_options(family: BackboneOptions, block_length: int | None = None) -> dict[str, Any]:
    """What a family's authors decode with, beside their sampler: see `BackboneOptions.default_options`.

    Args:
        family: its options.
        block_length: of the checkpoint's own blocks, where it is known and `family` says no other.
    """
    found = dict(family.default_options)
    own = block_length if family.block_length is None else family.block_length
    sub_block = found.get("block_length")
    if own is not None and sub_block is not None and own % sub_block:
        del found["block_length"]
    return found


def kept_defaults(
    flat: Mapping[str, Any], defaults: Mapping[str, Any], registration: Registration[Sampler]
) -> dict[str, Any]:
    """Those of a family's default options that hold beside what is asked for: as many as go with it.

    A rule that is asked for has no use for another rule's threshold, say.
    """
    unsaid = [name for name in defaults if name not in flat]
    for count in range(len(unsaid), 0, -1):
        for names in combinations(unsaid, count):
            held = {name: defaults[name] for name in names}
            with suppress(UserError):
                sort_options({**held, **flat}, registration)
                return held
    return {}


def sort_over_defaults(
    flat: Mapping[str, Any], defaults: Mapping[str, Any], registration: Registration[Sampler]
) -> tuple[DecoderOptions, SamplerOptions]:
    """`sort_options` of what is asked for, over those of a family's default options that go with it.

    Raises:
        UserError: see `sort_options`.
    """
    return sort_options({**kept_defaults(flat, defaults, registration), **flat}, registration)


def check_destination(registration: Registration[Sampler], destination: Destination) -> None:
    """Refuse a sampler of other noise than the model was trained to undo.

    Args:
        registration: the sampler's.
        destination: where the model's noise put tokens.

    Raises:
        UserError: it doesn't undo that.
    """
    assert issubclass(registration.options, SamplerOptions)
    own = registration.options.destinations
    if destination in own:
        return
    others = [
        other.name
        for other in installed_plugins().samplers
        if issubclass(other.options, SamplerOptions) and destination in other.options.destinations
    ]
    raise UserError(
        f"sampler {registration.name!r} undoes {' or '.join(sorted(own))} noise, and this model's is "
        f"{destination}: choose one of {', '.join(others) or '(none is installed)'}"
    )


def check_effect(decoder: DecoderOptions, registration: Registration[Sampler]) -> None:
    """Refuse a decoder option that the sampler would never read.

    Raises:
        UserError: one is set to something else than its default.
    """
    assert issubclass(registration.options, SamplerOptions)
    if decoder.cache_refresh is not None and decoder.cache == "none":
        raise UserError("cache_refresh has no effect without a cache: set cache, or leave it out")
    if decoder.cache_delay is not None and decoder.cache != "delayed":
        raise UserError(
            "cache_delay has no effect without the delayed cache: set cache: delayed, or leave it out"
        )
    for name in sorted(registration.options.without_effect):
        if getattr(decoder, name) != DecoderOptions.model_fields[name].default:
            raise UserError(f"{name} has no effect with sampler {registration.name!r}: leave it out")
    filtered = decoder.top_p is not None or decoder.top_k is not None
    if filtered and decoder.temperature == 0 and not registration.options.reads_filtered:
        raise UserError(
            f"top_p and top_k have no effect with sampler {registration.name!r} at temperature 0: "
            f"leave them out"
        )


def check_reach(decoder: DecoderOptions, attention: AttentionKind, time_conditioning: bool) -> None:
    """Refuse a decoder option that a checkpoint has no use for.

    Args:
        decoder: the decoder's options.
        attention: the checkpoint's.
        time_conditioning: whether its model has to be told the time.

    Raises:
        UserError: one is set.
    """
    if attention != "bidirectional":
        sub_blocks = attention == "block-causal" and decoder.block_length is not None
        if decoder.cache != "none" and not (sub_blocks and decoder.cache == "dual"):
            raise UserError(
                f"cache has no effect with a {attention} checkpoint, whose cache is exact and always on: "
                f"leave it out (or, with block_length for sub-blocks, take dual)"
            )
        if sub_blocks and decoder.cache_refresh is not None:
            raise UserError("cache_refresh has no effect with a block-causal checkpoint: leave it out")
    if time_conditioning and (decoder.cache != "none" or decoder.compile):
        raise UserError(
            "cache and compile have no effect with a model that is told the time, which changes all keys: "
            "leave them out"
        )


def check_sampler(
    sampler: Sampler, decoder: DecoderOptions, attention: AttentionKind, time_conditioning: bool
) -> None:
    """Refuse a sampler that asks of a checkpoint or a cache what it can't do; the rest is `check_reach`'s.

    Raises:
        UserError: it does.
    """
    if attention != "bidirectional" and (sampler.edits_length or sampler.spans_blocks):
        raise UserError(f"this sampler needs a bidirectional checkpoint, and this is a {attention} one")
    if decoder.cache == "delayed" and sampler.revises and not sampler.spans_blocks:
        raise UserError(
            "cache: delayed keeps the keys of blocks without a mask, and this sampler changes such blocks: "
            "take prefix or dual"
        )
    if time_conditioning and type(sampler).times is Sampler.times:
        raise UserError(
            f"this model was trained with the time as an input, and {owner_of(sampler, 'sampler')} has none "
            f"to tell it: choose one that has `times`"
        )
