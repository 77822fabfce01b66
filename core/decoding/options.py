"""The decoder's own options: they hold for every sampler."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from opendllm.registries.frozen_options import FrozenOptions

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1e6
"""In between, divided logits stay far from float32's limits; below is the mode, above chance."""

Cache = Literal["none", "prefix", "dual", "delayed"]


class DecoderOptions(FrozenOptions):
    """How a canvas is written, whichever sampler decides on the order."""

    steps: int | None = Field(
        None,
        ge=1,
        description="Denoising steps for the whole canvas; by default one a masked token. Samplers that "
        "commit what the model is sure of take as many as that needs, and refuse a number.",
    )
    max_new_tokens: int = Field(64, ge=1, description="Masks to fill after a prompt without a suffix.")
    block_length: int | None = Field(
        None, ge=1, description="Write blocks of so many masks from left to right; by default all at once."
    )
    temperature: float = Field(0.0, ge=0, description="Of the token draw; 0 takes the most probable token.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Draw from the most probable tokens that together exceed this."
    )
    top_k: int | None = Field(None, ge=1, description="Draw from so many most probable tokens.")
    guidance_scale: float = Field(
        0.0, ge=0, description="Classifier-free guidance away from the masked prompt; 0 is none."
    )
    alg_temp: float = Field(
        0.0, ge=0, description="Temperature of the order in which positions are committed; 0 takes the best."
    )
    cache: Cache = Field(
        "none",
        description="Keep keys and values while a block is written: of what stands before it (prefix), "
        "of all but the block (dual), or of what has been done for some passes (delayed). Faster, "
        "approximate.",
    )
    cache_delay: int | None = Field(
        None,
        ge=0,
        description="With the delayed cache: passes that a block is read for after it is done; by default 2.",
    )
    cache_refresh: int | None = Field(
        None,
        ge=1,
        description="Read the whole row anew at every so manieth step of a block, where 1 is exact; with the "
        "delayed cache at every so manieth of the row that no block's keys are kept at.",
    )
    early_stop: bool = Field(
        False,
        description="Stop a row once an EOS is settled: nothing left of it in its gap is masked. What is "
        "right of it in the gap becomes EOS; the text is the same.",
    )
    compile: bool | Literal["graphs"] = Field(
        False,
        description="In few shapes, replay whole steps as CUDA graphs: graphs as they are, true with kernels "
        "fused by torch.compile, which takes longer to start and less a step (on a CPU, no graphs).",
    )

    @field_validator("temperature", "alg_temp")
    @classmethod
    def _can_be_divided_by(cls, value: float) -> float:
        if value and not LEAST_TEMPERATURE <= value <= MOST_TEMPERATURE:
            raise ValueError(
                f"must be 0, which takes the best, or from {LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g}"
            )
        return value
