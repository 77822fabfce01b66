"""Options and registrations of all seven plugins. Imported with every command, so nothing heavy is."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from opendllm.registries import (
    BackboneOptions,
    BenchmarkOptions,
    ManifestPath,
    NoiseScheduleOptions,
    ObjectiveOptions,
    PluginOptions,
    Register,
    RewardOptions,
    SamplerOptions,
    hookimpl,
)
from opendllm.registries.architecture import Architecture
from opendllm.registries.noise_schedules import Destination
from pydantic import Field

OPENDLLM_INTERFACE = ">=1.3,<2"
"""The versions of the platform's plugin interface that this package was written for."""


class SigmoidOptions(NoiseScheduleOptions):
    """Options of the sigmoid schedule."""

    steepness: float = Field(6.0, gt=0, le=40, description="Slope in the middle: near 0 it is a line.")
    destination: Literal["mask", "uniform"] = Field(
        "mask", description="What tokens become that don't survive: the mask token, or any token alike."
    )

    @property
    def noise_destination(self) -> Destination:
        """See `NoiseScheduleOptions.noise_destination`."""
        return self.destination


class FocalOptions(ObjectiveOptions):
    """Options of the focal objective."""

    noise_schedules: ClassVar[frozenset[str] | None] = None
    # Weighed by the model's own certainty, it bounds no likelihood.
    loss_is_bound: ClassVar[bool] = False

    gamma: float = Field(
        1.0, ge=0, le=5, description="How little sure tokens count; 0 is the plain cross-entropy."
    )


class SettledOptions(SamplerOptions):
    """Options of the sampler that waits until proposals have settled."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"alg_temp"})

    patience: int = Field(2, ge=1, le=100, description="How many steps running a token must be proposed.")
    threshold: float = Field(0.5, ge=0, le=1, description="Least probability to commit before the last step.")


OLMO2_PRESETS: dict[str, dict[str, Any]] = {
    "nano": {
        "model_type": "olmo2",
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    # allenai/OLMo-2-0425-1B
    "1b": {
        "model_type": "olmo2",
        "vocab_size": 100352,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
}
"""The config.json of each size that is built from scratch."""


@dataclass(frozen=True)
class Olmo2Architecture(Architecture):
    """Queries and keys are normalised over all heads at once, and not one by one as elsewhere."""

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return super().parameters + self._norms

    @property
    def active_parameters(self) -> int:
        """All of them: there are no experts."""
        return self.parameters

    @property
    def _norms(self) -> int:
        return self.layers * (self.heads + self.key_value_heads) * self.head_size


class Olmo2Options(BackboneOptions):
    """Options of OLMo 2 models."""

    default_sampler: ClassVar[str] = "entropy"

    preset: Literal["nano", "1b"] = Field("nano", description="Size of a model built from scratch.")
    logit_shift: bool = Field(
        True, description="Whether hidden state i-1 predicts token i, as the autoregressive model learnt it."
    )

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        if self.pretrained is not None:
            return None
        sizes = OLMO2_PRESETS[self.preset]
        return Olmo2Architecture(
            vocab_size=vocab_size or sizes["vocab_size"],
            hidden_size=sizes["hidden_size"],
            intermediate_size=sizes["intermediate_size"],
            layers=sizes["num_hidden_layers"],
            heads=sizes["num_attention_heads"],
            key_value_heads=sizes["num_key_value_heads"],
            head_size=sizes["hidden_size"] // sizes["num_attention_heads"],
            tied=sizes["tie_word_embeddings"],
        )


class SqliteOptions(PluginOptions):
    """Options of the corpus in an SQLite database."""

    database: ManifestPath = Field(description="The database file; it is opened for reading only.")
    table: str = Field("documents", description="The table or view that holds the texts.")
    column: str = Field("text", description="Its column that holds a text in each row.")


class ClozeOptions(BenchmarkOptions):
    """Options of the hidden words."""

    problems: int = Field(100, ge=1, description="How many texts a word is hidden in.")
    min_letters: int = Field(3, ge=1, description="The fewest letters that a hidden word has.")
    context_words: int = Field(20, ge=1, description="How many words stand on either side of it.")


class RepetitionOptions(RewardOptions):
    """Options of the penalty on repetitions."""

    words: int = Field(3, ge=1, description="Of an n-gram that is looked for again.")
    penalty: float = Field(1.0, gt=0, description="What an answer would lose that is nothing but repetition.")


@hookimpl
def register_noise_schedules(register: Register) -> None:
    """Called when the platform looks for noise schedules."""
    register(
        "sigmoid",
        options=SigmoidOptions,
        target="opendllm_examples.sigmoid:Sigmoid",
        summary="alpha falls like a sigmoid from 1 to 0",
    )


@hookimpl
def register_objectives(register: Register) -> None:
    """Called when the platform looks for objectives."""
    register(
        "focal",
        options=FocalOptions,
        target="opendllm_examples.focal:Focal",
        summary="cross-entropy that easy tokens hardly count in",
    )


@hookimpl
def register_samplers(register: Register) -> None:
    """Called when the platform looks for samplers."""
    register(
        "settled",
        options=SettledOptions,
        target="opendllm_examples.settled:Settled",
        summary="commits what was proposed several steps running",
    )


@hookimpl
def register_backbones(register: Register) -> None:
    """Called when the platform looks for backbones."""
    register(
        "olmo2",
        options=Olmo2Options,
        target="opendllm_examples.olmo2:olmo2",
        summary="OLMo 2 made bidirectional",
    )


@hookimpl
def register_corpora(register: Register) -> None:
    """Called when the platform looks for corpora."""
    register(
        "sqlite",
        options=SqliteOptions,
        target="opendllm_examples.sqlite:Sqlite",
        summary="texts in a column of an SQLite table",
    )


@hookimpl
def register_benchmarks(register: Register) -> None:
    """Called when the platform looks for benchmarks."""
    register(
        "cloze",
        options=ClozeOptions,
        target="opendllm_examples.cloze:Cloze",
        summary="a hidden word of each held-out text",
    )


@hookimpl
def register_rewards(register: Register) -> None:
    """Called when the platform looks for rewards."""
    register(
        "repetition",
        options=RepetitionOptions,
        target="opendllm_examples.repetition:Repetition",
        summary="penalty on answers that repeat themselves",
    )
