"""What a manifest may say. Its docstrings and descriptions are the reference that editors show."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.manifest.endpoint_schema import Endpoint
from opendllm.core.manifest.section import NAME_PATTERN, PluginChoice, Section
from opendllm.core.manifest.train_schema import Train
from opendllm.registries.benchmarks import IsolationLevel
from opendllm.registries.options import HubIdOrPath

MASK_TOKEN = "<|mask|>"  # noqa: S105 (no password)

PLUGIN_KEYS = {
    "backbone": "backbones",
    "corpus": "corpora",
    "objective": "objectives",
    "noise_schedule": "noise_schedules",
    "sampler": "samplers",
    "benchmark": "benchmarks",
    "reward": "rewards",
}
"""Keys that choose a plugin, wherever they stand -> its kind."""


class Model(Section):
    """The model."""

    backbone: PluginChoice
    add_bos_token: bool | None = Field(
        None, description="Whether texts begin with BOS; by default as the tokenizer says."
    )


def _model_kind(model: Any) -> str:
    named = "endpoint" in model if isinstance(model, dict) else isinstance(model, Endpoint)
    return "<endpoint>" if named else "<model>"


AnyModel = Annotated[
    Annotated[Model, Tag("<model>")] | Annotated[Endpoint, Tag("<endpoint>")], Discriminator(_model_kind)
]
"""A model that is built or loaded here, or one that a server runs. Angle brackets keep the kind out of the
paths that errors name (see `option_errors`)."""


class TokenizerTraining(Section):
    """A byte-level BPE tokenizer, trained on the corpus."""

    vocab_size: int = Field(ge=258, description="256 bytes, the special tokens, and merges up to this size.")


class TokenizerChoice(Section):
    """Where the tokenizer comes from: trained, or loaded."""

    train: TokenizerTraining | None = None
    path: HubIdOrPath | None = Field(None, description="Folder or hub id of a transformers tokenizer.")
    mask_token: str = Field(MASK_TOKEN, min_length=1, description="Added where the tokenizer has none.")
    eos_token: str | None = Field(
        None, min_length=1, description="What ends a document, where the tokenizer's files name nothing."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> TokenizerChoice:
        if (self.train is None) == (self.path is None):
            raise ValueError("give either `train` or `path`")
        return self


class MixturePart(Section):
    """One corpus of a mixture."""

    corpus: PluginChoice
    weight: float = Field(1.0, gt=0, description="Its share of the rows, relative to the others' weights.")


class Data(Section):
    """What is read."""

    corpus: PluginChoice | None = Field(None, description="Where the documents come from.")
    mixture: tuple[MixturePart, ...] = Field(
        (), description="Several corpora in place of one `corpus`; one that is used up begins again."
    )
    tokenizer: TokenizerChoice | None = Field(None, description="By default the pretrained checkpoint's own.")
    sequence_length: int = Field(ge=8, description="Tokens in a packed row.")
    packed: bool = Field(
        True,
        description="Put several documents into a row. If false each has a row of its own, filled up with "
        "EOS tokens that count as its end, as in LLaDA's SFT.",
    )
    chat: bool = Field(
        False, description="Put prompts and what answers them into the tokenizer's chat template."
    )

    contamination: int | None = Field(
        None,
        ge=3,
        le=200,
        description="Compare training documents with all benchmarks' problems, by runs of so many words "
        "(13 is usual); changes nothing that is trained.",
    )

    @model_validator(mode="after")
    def _corpus_or_mixture(self) -> Data:
        if (self.corpus is None) == (not self.mixture):
            raise ValueError("give either `corpus` or `mixture`")
        return self

    def corpora(self) -> tuple[PluginChoice, ...]:
        """The one, or the mixture's."""
        return (self.corpus,) if self.corpus else tuple(part.corpus for part in self.mixture)

    def weights(self) -> tuple[float, ...]:
        """Of `corpora`."""
        return (1.0,) if self.corpus else tuple(part.weight for part in self.mixture)


class Generate(DecoderOptions):
    """How text is written: the sampler, and the decoder's options."""

    sampler: PluginChoice | None = Field(None, description="By default the backbone's own.")
    chat: bool = Field(
        False, description="Put each prompt into the checkpoint's chat template; infilling has none."
    )


class Evaluate(Section):
    """One benchmark, and how it is run."""

    benchmark: PluginChoice
    label: str | None = Field(
        None, pattern=NAME_PATTERN, description="What its files are called; by default the benchmark's name."
    )
    generate: Generate | None = Field(None, description="Overrides single settings of `generate`.")
    samples_per_task: int = Field(1, ge=1, description="Answers to each request.")
    problem_seed: int = Field(
        0,
        ge=0,
        lt=1 << 63,
        description="Of what the benchmark draws: which lines are hidden, where excerpts begin. `seed` and "
        "`seeds` change none of it.",
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Rows decoded together; changes no result, but for the rounding of half precision. "
        "`auto`: on a GPU as many as its memory holds, 64 at most, and 32 on a CPU.",
    )
    likelihood_estimator: Literal["llada", "mdlm"] = Field(
        "llada", description="How a diffusion model's likelihood is estimated."
    )
    likelihood_draws: int = Field(
        16, ge=1, description="Monte-Carlo draws a text, where likelihoods are asked for."
    )


class Rendezvous(Section):
    """Where the nodes of a run find each other."""

    endpoint: str = Field(
        pattern=r"^[^\s:]+:\d+$", description="HOST:PORT, free on the first node and reachable from all."
    )
    timeout: int = Field(600, ge=1, description="Seconds to wait for all nodes.")


class Slurm(Section):
    """What `--launcher slurm` asks the cluster for."""

    partition: str | None = None
    account: str | None = None
    time: str | None = Field(None, description="Longest run time, as in `12:00:00`.")
    options: dict[str, str | int] = Field(
        default_factory=dict, description="Any other option of sbatch, as in `{gpus-per-node: 8}`."
    )


class Launch(Section):
    """How the processes of a run are started; changes no result."""

    nodes: int = Field(1, ge=1, description="Machines.")
    processes_per_node: int | None = Field(
        None, ge=1, description="By default one for each GPU of the machine, or one."
    )
    rendezvous: Rendezvous | None = Field(
        None, description="Needed by `--launcher local` on several nodes; Slurm's first node is found."
    )
    environment: dict[str, str] = Field(
        default_factory=dict,
        description="Variables of every process, as in `{NCCL_SOCKET_IFNAME: eth0, NCCL_DEBUG: WARN}`.",
    )
    slurm: Slurm | None = Field(None, description="For `--launcher slurm`.")


class Manifest(Section):
    """One variant of an experiment, fully resolved."""

    name: str = Field(pattern=NAME_PATTERN, description="The experiment's name; its run folder's by default.")
    description: str = Field("", description="One line for the report.")
    seed: int = Field(
        0,
        ge=0,
        lt=1 << 63,
        description="Of weights, data order, noise and sampling; what benchmarks ask has its `problem_seed`.",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="`auto`, `cpu` or `cuda`.")
    output: str | None = Field(None, description="The run folder; `runs/NAME` by default.")
    launch: Launch | None = Field(None, description="For `platform run --launcher ...`.")
    model: AnyModel
    data: Data | None = Field(None, description="Needed to train, and by benchmarks of held-out documents.")
    train: Train | None = Field(None, description="Without it the model is evaluated as it is.")
    generate: Generate = Generate()
    evaluate: tuple[Evaluate, ...] = ()
    allow_code_execution: bool = Field(
        False,
        description="Whether benchmarks and rewards may run what the model wrote, in a sandbox, to score it.",
    )
    isolation: IsolationLevel | None = Field(
        None, description="The weakest sandbox that will do; by default the strongest of this machine."
    )

    @property
    def endpoint(self) -> Endpoint | None:
        """The server that is asked; None where the model is one of this machine."""
        return self.model if isinstance(self.model, Endpoint) else None

    @property
    def local_model(self) -> Model:
        """Of a manifest without an endpoint."""
        assert isinstance(self.model, Model)
        return self.model


class PublishedFigures(Section):
    """What others measured, for the report to put beside what is measured here."""

    model: str = Field(description="Whose figures they are.")
    benchmark: str = Field(
        pattern=NAME_PATTERN, description="The label of the `evaluate` entry they go with."
    )
    metrics: dict[str, float] = Field(min_length=1, description="Metric -> value, as a result here has it.")
    source: str = Field(min_length=1, description="Where they were published, and when that was read.")


class ExperimentManifest(Manifest):
    """The file: a manifest, what it builds on, and its variants."""

    extends: str | None = Field(
        None, description="Another manifest, relative to this one; this one overrides it."
    )
    published: str | tuple[PublishedFigures, ...] = Field(
        (),
        description="Figures for the report to quote, or a YAML file with a list of them under `figures`.",
    )
    require: dict[str, str] = Field(
        default_factory=dict,
        description="What has to be installed: a package of plugins, or KIND/NAME, -> its versions, as in "
        "`my-sampler: '>=0.2'`.",
    )
    seeds: tuple[int, ...] | None = Field(
        None,
        description="Repeats every variant, trained and sampled with each of these seeds; benchmarks ask the "
        "same problems every time.",
    )
    variants: dict[str, Any] = Field(
        default_factory=dict,
        description="Name -> patch on this manifest. A null in a patch removes what it names.",
    )
