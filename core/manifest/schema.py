"""What a manifest may say. Its docstrings and descriptions are the reference that editors show."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from opendllm.core.decoding.options import DecoderOptions
from opendllm.registries.benchmarks import IsolationLevel
from opendllm.registries.options import HubIdOrPath

MASK_TOKEN = "<|mask|>"  # noqa: S105 (no password)
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

PLUGIN_KEYS = {
    "backbone": "backbones",
    "corpus": "corpora",
    "objective": "objectives",
    "noise_schedule": "noise_schedules",
    "sampler": "samplers",
    "benchmark": "benchmarks",
}
"""Keys that choose a plugin, wherever they stand -> its kind."""

Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Part of a manifest: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PluginChoice(Section):
    """A plugin by name, with its options."""

    name: str = Field(description="The plugin's name; `platform plugins` lists them.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Its options; `platform plugins show KIND/NAME` explains them."
    )


class Model(Section):
    """The model."""

    backbone: PluginChoice
    add_bos_token: bool | None = Field(
        None, description="Whether texts begin with BOS; by default as the tokenizer says."
    )


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


class ZeroOptimization(Section):
    """DeepSpeed's ZeRO."""

    stage: Literal[0, 1, 2, 3] = Field(
        0, description="What is partitioned over the ranks: nothing, optimizer, + gradients, + weights."
    )
    offload_optimizer: bool = Field(
        False, description="Keep the optimizer's state in the CPU's memory; from stage 1 on."
    )
    offload_parameters: bool = Field(False, description="Keep the weights there too; stage 3 only.")

    @model_validator(mode="after")
    def _something_to_offload(self) -> ZeroOptimization:
        if self.offload_optimizer and self.stage < 1:
            raise ValueError("offload_optimizer needs stage 1, 2 or 3")
        if self.offload_parameters and self.stage < 3:
            raise ValueError("offload_parameters needs stage 3")
        return self


class DeepSpeed(Section):
    """Settings handed to DeepSpeed."""

    zero_optimization: ZeroOptimization = ZeroOptimization()


class Checkpointing(Section):
    """When training is saved, and what is kept."""

    every: int | None = Field(
        None, ge=1, description="Steps between checkpoints; the last step always is one."
    )
    keep: int = Field(2, ge=1, description="How many of the newest are kept.")
    keep_every: int | None = Field(
        None, ge=1, description="Those whose step is a multiple of this are kept for good."
    )
    keep_best: int = Field(
        0, ge=0, description="How many of the lowest held-out loss are kept besides; it is measured for each."
    )

    @model_validator(mode="after")
    def _kept_ones_are_written(self) -> Checkpointing:
        if self.keep_every is not None and self.keep_every % (self.every or self.keep_every + 1):
            raise ValueError(f"keep_every {self.keep_every} is not a multiple of every ({self.every})")
        return self


class Lora(Section):
    """Low-rank adapters instead of whole matrices (peft's LoRA); the other weights stay as they are."""

    rank: int = Field(8, ge=1, description="Of each adapter.")
    alpha: int = Field(16, ge=1, description="The adapters' product is scaled by alpha / rank.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="On the adapters' input. Its draws, unlike the noise, are others for another number of "
        "processes or another micro-batch.",
    )
    targets: str | tuple[str, ...] = Field(
        "all-linear",
        description="Which layers: `all-linear` (but the LM head), a regular expression on whole module "
        "names, or a list of name endings such as `q_proj`.",
    )


class WeightAverage(Section):
    """An exponential moving average of the weights, kept in float32."""

    decay: float = Field(0.9999, gt=0, lt=1, description="Of the average, at most (1 + step) / (10 + step).")
    evaluated: bool = Field(
        True,
        description="Whether the average is what is evaluated, exported and measured on held-out rows; "
        "else the weights themselves are, and the average only lies in the checkpoint.",
    )


class HeldOut(Section):
    """The held-out loss, measured while training."""

    every: int | None = Field(
        None, ge=1, description="Steps between measurements; first and last always are."
    )
    rows: int = Field(32, ge=1, description="Packed held-out rows that are scored.")
    draws: int = Field(16, ge=1, description="Monte-Carlo draws a row.")


class Train(Section):
    """How the model is trained."""

    objective: PluginChoice
    noise_schedule: PluginChoice = PluginChoice(name="linear")
    steps: int = Field(ge=1, description="Optimizer steps.")
    global_batch_size: int = Field(16, ge=1, description="Rows in a step, over all ranks and micro-batches.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Rows in one forward pass of one rank; by default as many as the step has."
    )
    learning_rate: float = Field(3e-4, gt=0, description="At its peak.")
    final_learning_rate: float = Field(
        0.0, ge=0, description="What it falls to: a step after the last one would have it."
    )
    decay: Literal["cosine", "linear", "constant"] = Field("cosine", description="From peak to final.")
    warmup_ratio: float = Field(0.0, ge=0, le=1, description="Share of the steps in which it rises linearly.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, on matrices; biases and norms have none.")
    adam_betas: tuple[Beta, Beta] = (0.9, 0.95)
    adam_epsilon: float = Field(1e-8, gt=0)
    gradient_clipping: float = Field(1.0, ge=0, description="Largest gradient norm; 0 clips nothing.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Of forward and backward passes.")
    master_weights: bool = Field(
        True,
        description="Beside bf16 weights keep float32 ones, gradients and moments; "
        "false keeps all of them in bf16.",
    )
    compile: bool = Field(False, description="Compile the model with torch.compile; needs a C++ compiler.")
    activation_checkpointing: bool = Field(
        False, description="Compute each layer's activations again in the backward pass, to save memory."
    )
    freeze: tuple[str, ...] = Field(
        (), description="Regular expressions; parameters whose name holds a match are not trained."
    )
    lora: Lora | None = Field(None, description="Train adapters only.")
    ema: WeightAverage | None = Field(None, description="Average the weights over the steps.")
    deepspeed: DeepSpeed = DeepSpeed()
    checkpoint: Checkpointing = Checkpointing()
    held_out: HeldOut = HeldOut()
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="Where each line of train.jsonl goes besides; each must be installed."
    )

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Train:
        if not self.master_weights and self.precision == "fp32":
            raise ValueError("master_weights: false has an effect with precision bf16 only")
        if self.freeze and self.lora is not None:
            raise ValueError("freeze has no effect beside lora, which trains nothing but its adapters")
        if self.ema is not None and self.deepspeed.zero_optimization.stage == 3:
            raise ValueError("ema needs whole weights on every rank: use a ZeRO stage below 3")
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError("trackers: name each once")
        for pattern in self.freeze:
            _check_expression("freeze", pattern)
        if self.lora is not None and isinstance(self.lora.targets, str):
            _check_expression("lora.targets", self.lora.targets)
        return self

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Train:
        if self.micro_batch_size is not None and self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        return self


def _check_expression(key: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{key}: {pattern!r} is no regular expression: {error}") from error


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
    batch_size: int = Field(32, ge=1, description="Rows decoded together; changes no result.")
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
    model: Model
    data: Data | None = Field(None, description="Needed to train, and by benchmarks of held-out documents.")
    train: Train | None = Field(None, description="Without it the model is evaluated as it is.")
    generate: Generate = Generate()
    evaluate: tuple[Evaluate, ...] = ()
    allow_code_execution: bool = Field(
        False, description="Whether benchmarks may run what the model wrote, in a sandbox, to score it."
    )
    isolation: IsolationLevel | None = Field(
        None, description="The weakest sandbox that will do; by default the strongest of this machine."
    )


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
    seeds: tuple[int, ...] | None = Field(
        None,
        description="Repeats every variant, trained and sampled with each of these seeds; benchmarks ask the "
        "same problems every time.",
    )
    variants: dict[str, Any] = Field(
        default_factory=dict,
        description="Name -> patch on this manifest. A null in a patch removes what it names.",
    )
