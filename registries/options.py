"""Options models: what a plugin lets its user set, checked before anything heavy is imported."""

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from opendllm.registries.architecture import Sizes
from opendllm.registries.deprecations import warn_deprecated
from opendllm.registries.frozen_options import FrozenOptions
from opendllm.registries.noise_schedules import Destination
from opendllm.registries.planned_requests import PlannedRequests

AttentionKind = Literal["bidirectional", "causal", "block-causal"]
Bound = Literal["masks", "noise", "noise-and-reconstruction", "none"]
"""What a likelihood is. `masks`: masked diffusion's NELBO (exact for a causal model); `noise`: the bound of
the checkpoint's own schedule and destination; `noise-and-reconstruction`: that and the cross-entropy of the
clean text at time 0, as UDLM has it; `none`: nobody knows one."""


@dataclass(frozen=True)
class _PathMark:
    """Marks a field whose value says where something lies."""

    or_hub_id: bool


ManifestPath = Annotated[str, _PathMark(or_hub_id=False)]
"""A file, a folder or a glob. A relative one is relative to the manifest that says it; the plugin gets an
absolute one."""
HubIdOrPath = Annotated[str, _PathMark(or_hub_id=True)]
"""The same where there is a folder of that name; else an id of the Hugging Face hub, left as it is."""


def path_fields(model: type[BaseModel]) -> Iterator[tuple[str, bool]]:
    """(name, whether it may be a hub id) of each field of an options model, or of a manifest's section, that
    is a `ManifestPath` or `HubIdOrPath`, or None.
    """
    for name, field in model.model_fields.items():
        marks = [*field.metadata]
        for alternative in typing.get_args(field.annotation):
            marks += getattr(alternative, "__metadata__", ())
        for mark in marks:
            if isinstance(mark, _PathMark):
                yield name, mark.or_hub_id


class PluginOptions(FrozenOptions):
    """Base of every plugin's options: immutable, and an unknown option is an error."""

    @model_validator(mode="after")
    def _say_what_is_deprecated(self) -> typing.Self:
        """An option with `Field(..., deprecated="use `other`")` still works, and its user is told once."""
        for name in sorted(self.model_fields_set):
            instead = type(self).model_fields[name].deprecated
            if isinstance(instead, str):
                warn_deprecated(f"option {name!r} of {type(self).__name__}", instead)
        return self


class NoiseScheduleOptions(PluginOptions):
    """Options of a noise schedule."""

    @property
    def noise_destination(self) -> Destination:
        """Where the schedule with these options sends tokens that don't survive."""
        return "mask"


def noise_destination(options: PluginOptions) -> Destination:
    """Of a noise schedule's options; a schedule whose options don't say is one of masks."""
    return options.noise_destination if isinstance(options, NoiseScheduleOptions) else "mask"


class ObjectiveOptions(PluginOptions):
    """Options of an objective."""

    trains: ClassVar[AttentionKind] = "bidirectional"
    """The attention pattern that a model must have to be trained with this objective."""
    noise_schedules: ClassVar[frozenset[str] | None] = None
    """The noise schedules it can be trained with, by name; None, the default, for any. An objective whose
    formulas hold for one schedule only names it."""
    destinations: ClassVar[frozenset[Destination]] = frozenset({"mask"})
    """Where the noise that it can be trained with may send tokens."""

    @property
    def bound(self) -> Bound:
        """What a likelihood of a model is that is trained with it."""
        return "masks"

    @property
    def loss_is_bound(self) -> bool:
        """Whether a row's loss sum is, on average, that bound of its maskable tokens (given a first token
        that isn't one); not so where the loss is weighed otherwise. The contract tests it.
        """
        return True

    @property
    def tells_time(self) -> bool:
        """Whether its models are told the time: then only backbones that read it can be trained."""
        return False

    @property
    def scored_share(self) -> float:
        """The share of the tokens whose logits it needs, on average; for planning."""
        return 0.5

    @property
    def positions_per_token(self) -> int:
        """How many positions a row has for each of its tokens; for planning."""
        return 1

    @property
    def copies_per_row(self) -> int:
        """How many rows the model reads for each row of the data; for planning."""
        return 1

    def needs_prompts(self) -> bool:
        """Whether every document must have a prompt: so it is with objectives that learn answers."""
        return False


class PolicyObjectiveOptions(ObjectiveOptions):
    """Options of a policy objective, which learns from answers' rewards (`train.rl`), not from documents.

    What an options model derives from says which of the two it is.
    """

    @property
    def needs_reference(self) -> bool:
        """Whether its loss reads a reference model; without one, the trainer keeps none."""
        return False

    @property
    def loss_is_bound(self) -> bool:
        """It is about rewards."""
        return False


def destination_issue(objective: str, options: ObjectiveOptions, schedule: PluginOptions) -> str | None:
    """Why an objective can't be trained with a noise schedule's noise; None where it can.

    Args:
        objective: its name.
        options: its options.
        schedule: the noise schedule's options.
    """
    found, wanted = noise_destination(schedule), sorted(options.destinations)
    if found in options.destinations:
        return None
    how = {
        "mask": "a noise schedule with `destination: mask`",
        "uniform": "a noise schedule with `destination: uniform`",
        "mixture": "a schedule of mixed noise, such as gidd",
    }
    return (
        f"objective {objective!r} is for {' or '.join(wanted)} noise, and the noise schedule's is {found}: "
        f"choose {' or '.join(how[each] for each in wanted)}"
    )


class SamplerOptions(PluginOptions):
    """Options that only one sampler has; the decoder's own options stand beside it in `generate`."""

    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Decoder options that this sampler never reads: setting one is an error, not a silent no-op."""
    reads_filtered: ClassVar[bool] = True
    """Whether it reads confidences after the filters; if not, top-p and top-k only matter to a draw."""
    destinations: ClassVar[frozenset[Destination]] = frozenset({"mask"})
    """The noise that it undoes: where the tokens went that its models were trained to bring back."""


class BackboneOptions(PluginOptions):
    """Options that every backbone has."""

    model_types: ClassVar[frozenset[str]] = frozenset()
    """The `model_type` values of config.json that belong to this family."""
    default_sampler: ClassVar[str] = "ancestral"
    """The sampler that the family's authors decode with."""
    default_options: ClassVar[Mapping[str, Any]] = {}
    """The decoder's and that sampler's options that they decode with, where they aren't these's own defaults:
    `{"threshold": 0.95}`. They hold where no sampler is named, each until another value is asked for, or one
    that leaves it without effect; a `block_length` only where it divides the checkpoint's own blocks. How
    much is written isn't among them."""
    reads_time: ClassVar[bool] = False
    """Whether its models read `ModelInputs.time`."""

    knows_block_length: ClassVar[bool] = False
    """Whether the family's config.json, or the family itself, says how long a block is."""
    block_length_key: ClassVar[str | None] = None
    """Where config.json says it; None where it has no word of its own for that."""
    published_block_length: ClassVar[int | None] = None
    """Of the family's published checkpoints, where it `knows_block_length`; for planning."""
    known_ids: ClassVar[Mapping[str, int]] = {}
    """`mask_token_id` and `eos_token_id` of its published checkpoints, where their config.json lacks them."""

    @classmethod
    def claims(cls, config: Mapping[str, Any]) -> bool:
        """Whether a checkpoint with this config.json belongs to the family."""
        return config.get("model_type") in cls.model_types

    pretrained: HubIdOrPath | None = Field(
        None,
        description="Folder or hub id of a checkpoint to start from; without it, random weights.",
    )
    device_map: Literal["auto"] | None = Field(
        None, description="`auto` spreads a pretrained model over all devices, GPUs first; for evaluation."
    )
    load_in_8bit: bool = Field(
        False, description="Keep a pretrained model's linear layers in 8 bit; for evaluation."
    )
    attention: AttentionKind = Field(
        "bidirectional", description="Which positions see each other; a property of the checkpoint."
    )
    block_length: int | None = Field(
        None, ge=1, description="Length of a block, in tokens, for block-causal attention."
    )

    def architecture(self, vocab_size: int | None) -> Sizes | None:
        """The sizes of the model that these options mean; None where only its files can tell.

        Anything that has `Sizes`' three is enough for `platform plan`; an `Architecture` lets it estimate the
        activations too. A backbone without it trains all the same.

        Args:
            vocab_size: of a tokenizer that is trained for it; None takes the family's own.
        """
        return None


class BenchmarkOptions(PluginOptions):
    """Options of a benchmark."""

    @property
    def only_likelihoods(self) -> bool:
        """Whether it asks for nothing else: it then decodes nothing, and needs a model with a likelihood."""
        return False

    @property
    def chat_issue(self) -> str | None:
        """Why what it asks makes no sense as a user's turn, and which option mends it; None where it does.

        A text that is to be gone on with, say, is answered in a chat, and the answer goes on with nothing.
        """
        return None

    def planned_requests(self) -> Sequence[PlannedRequests] | None:
        """What it will ask, for `platform plan`; None where only its problems can tell."""
        return None


def only_asks_likelihoods(options: PluginOptions) -> bool:
    """Of a benchmark's options; a benchmark whose options don't say may ask for anything."""
    return isinstance(options, BenchmarkOptions) and options.only_likelihoods


class ProblemFileOptions(BenchmarkOptions):
    """Options of a benchmark whose problems are published as a file."""

    problems: ManifestPath | None = Field(
        None,
        description="File of its problems: JSON lines, as they are or packed by gzip, bzip2, xz or zstd; "
        "by default from the Hugging Face hub.",
    )


class RewardOptions(PluginOptions):
    """Options of a reward."""

    executes_code: ClassVar[bool] = False
    """Whether it runs what a model wrote: a manifest that chooses it has to allow that."""

    @property
    def chat_issue(self) -> str | None:
        """Why it makes no sense of a chat's answers, and which option mends it; None where it does."""
        return None


def chat_issue(options: PluginOptions) -> str | None:
    """Of a benchmark's or a reward's options: see `BenchmarkOptions.chat_issue`."""
    return options.chat_issue if isinstance(options, BenchmarkOptions | RewardOptions) else None
