"""What `--model_args` may say: which checkpoint, and how it is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from opendllm.core.checkpoints.families import backbone_of, stored_block_length
from opendllm.core.checkpoints.pretrained import fetch
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.settings import check_destination, default_options, sort_over_defaults
from opendllm.core.evaluation.answering import Asked
from opendllm.core.evaluation.replicas import load_replicas
from opendllm.core.foundation.option_errors import checked_options
from opendllm.core.manifest.schema import Evaluate
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.frozen_options import FrozenOptions
from opendllm.registries.registry import ChosenPlugin, Registration
from opendllm.registries.samplers import Sampler
from opendllm.registries.suggestions import did_you_mean

_UNSAID: dict[str, Any] = {name: Evaluate.model_fields[name].default for name in (
    "batch_size", "likelihood_draws", "likelihood_estimator")}  # fmt: skip


class ModelOptions(FrozenOptions):
    """Everything but what belongs to the decoder and the sampler."""

    checkpoint: str = Field(description="A run's variant, a checkpoint, a model folder, or a hub id.")
    backbone: str | None = Field(None, description="Its family, where config.json doesn't settle it.")
    add_bos_token: bool | None = Field(None, description="Whether texts begin with BOS; else as it says.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="`auto` takes every GPU.")
    sampler: str | None = Field(None, description="By default the one of the model's authors.")
    seed: int = Field(0, ge=0, lt=1 << 63, description="Of all draws, as a manifest's.")
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        _UNSAID["batch_size"],
        description="Rows decoded together; changes no result, but for half precision's rounding.",
    )
    sequence_length: int | None = Field(
        None, ge=8, description="Tokens of the longest text that is scored at once; by default the context."
    )
    likelihood_draws: int = Field(_UNSAID["likelihood_draws"], ge=1)
    likelihood_estimator: Literal["llada", "mdlm"] = _UNSAID["likelihood_estimator"]


@dataclass(frozen=True)
class OpenedModel:
    """A checkpoint, ready to be asked as the options say.

    Attributes:
        asked: it, with the decoder's options that hold where a task says nothing else.
        sampler: that it is decoded with.
        said: the names of those that the user has given.
        longest: tokens of the longest text that is scored at once.
        about: what is told of it beside results.
    """

    asked: Asked
    sampler: Registration[Sampler]
    said: frozenset[str]
    longest: int
    about: Mapping[str, Any]


def open_model(given: Mapping[str, Any]) -> OpenedModel:
    """Load a checkpoint.

    Args:
        given: the options, flat, with those of the decoder and the sampler.

    Raises:
        UserError: an option is unknown, out of range or without effect; or the checkpoint can't be loaded.
    """
    if "pretrained" in given:
        raise UserError("option pretrained: is called checkpoint here: checkpoint=PATH")
    own = {key: value for key, value in given.items() if key in ModelOptions.model_fields}
    options = checked_options(ModelOptions, own)
    flat = {key: value for key, value in given.items() if key not in own}
    plugins = installed_plugins()
    folder = fetch(options.checkpoint)
    family = backbone_of(plugins, folder, options.backbone)
    registration = plugins.samplers.get(options.sampler or family.options.default_sampler)
    known = [*ModelOptions.model_fields, *DecoderOptions.model_fields, *registration.options.model_fields]
    for key in flat:
        if key not in known:
            hint = did_you_mean(key, sorted(set(known)))
            raise UserError(
                f"option {key}: neither the model, the decoder nor sampler {registration.name!r} has it: "
                f"{hint}"
            )
    defaults = {}
    if options.sampler is None:
        defaults = default_options(family.options, stored_block_length(folder, family.options))
    decoder, of_sampler = sort_over_defaults(flat, defaults, registration)
    models = load_replicas(folder, family, options.device, options.add_bos_token)
    check_destination(registration, models[0].lm.noise.destination)
    sampler: ChosenPlugin[Sampler, Any] = ChosenPlugin(registration, of_sampler)
    asked = Asked(
        replicas=[model.with_sampler(sampler) for model in models],
        options=decoder,
        chat=False,  # lm-eval puts prompts into the template, through the model
        samples_per_task=1,
        batch_size=options.batch_size,
        sizes=family.options.architecture(models[0].lm.vocab_size),
        likelihood_estimator=options.likelihood_estimator,
        likelihood_draws=options.likelihood_draws,
        seed=options.seed,
    )
    about = {
        "checkpoint": str(folder),
        "backbone": family.written_name,
        "sampler": sampler.written_name,
        "sampler_options": of_sampler.model_dump(mode="json"),
        "decoder": decoder.model_dump(mode="json"),
        "plugins": str(registration.provenance),
    }
    longest = options.sequence_length or models[0].lm.context_length
    return OpenedModel(asked, registration, frozenset(flat), longest, about)
