"""Backbones: names, options and where each is implemented."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from opendllm.plugins.backbones.presets import (
    A2D,
    CAUSAL_LM,
    DREAM,
    FAST_DLLM_V2,
    LLADA,
    LLADA2,
    LLADA_MOE,
    OPEN_DCODER,
    QWEN3,
    SDAR,
    SDAR_MOE,
)
from opendllm.plugins.backbones.shapes import (
    causal_lm_architecture,
    llada2_architecture,
    llada_architecture,
    llada_moe_architecture,
    planned_architecture,
    qwen_architecture,
    sdar_architecture,
    sdar_moe_architecture,
)
from opendllm.registries import AttentionKind, BackboneOptions, Register
from opendllm.registries.architecture import Architecture

HERE = "opendllm.plugins.backbones"
SDAR_DECODING: dict[str, Any] = {"rule": "dynamic", "threshold": 0.85, "temperature": 1.0}
"""Of JetAstra/SDAR @c2041a83, generate.py; its evaluation has others, see docs/decoding.md."""


class OpenDcoderOptions(BackboneOptions):
    """Options of Open-dCoder models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen2"})
    default_sampler: ClassVar[str] = "p2"

    preset: Literal["nano", "small", "60m", "0.5b"] = Field(
        "nano", description="Size of a model built from scratch."
    )

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(qwen_architecture, self.pretrained, OPEN_DCODER, self.preset, vocab_size)


class LladaOptions(BackboneOptions):
    """Options of LLaDA models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"llada"})
    default_sampler: ClassVar[str] = "low-confidence"

    preset: Literal["nano", "60m", "8b"] = Field("nano", description="Size of a model built from scratch.")

    @classmethod
    def claims(cls, config: Mapping[str, Any]) -> bool:
        """LLaDA-MoE calls itself `llada`, too."""
        return super().claims(config) and "num_experts" not in config

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(llada_architecture, self.pretrained, LLADA, self.preset, vocab_size)


class DreamOptions(BackboneOptions):
    """Options of Dream models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"Dream"})
    default_sampler: ClassVar[str] = "entropy"

    preset: Literal["nano", "60m", "7b"] = Field("nano", description="Size of a model built from scratch.")

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(qwen_architecture, self.pretrained, DREAM, self.preset, vocab_size)


class Qwen3Options(BackboneOptions):
    """Options of Qwen3-shaped models."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"logit_shift": True}]})

    default_sampler: ClassVar[str] = "low-confidence"

    preset: Literal["nano", "0.6b"] = Field("nano", description="Size of a model built from scratch.")
    logit_shift: bool = Field(False, description="Whether hidden state i-1 predicts token i.")

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(qwen_architecture, self.pretrained, QWEN3, self.preset, vocab_size)


class A2dOptions(BackboneOptions):
    """Options of dllm's checkpoints made from autoregressive models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"a2d-qwen2", "a2d-qwen3"})
    default_sampler: ClassVar[str] = "low-confidence"

    preset: Literal["nano"] = Field("nano", description="Size of a model built from scratch.")

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(qwen_architecture, self.pretrained, A2D, self.preset, vocab_size)


SDAR_BLOCK_KEY, FAST_DLLM_V2_BLOCK_KEY, LLADA2_BLOCK_KEY = "block_size", "bd_size", "block_length"
"""Where config.json holds the block length."""


class _BlockOptions(BackboneOptions):
    """Of families with block-causal attention."""

    knows_block_length: ClassVar[bool] = True

    attention: AttentionKind = Field(
        "block-causal", description="Which positions see each other; a property of the checkpoint."
    )


class SdarOptions(_BlockOptions):
    """Options of SDAR models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"sdar"})
    default_sampler: ClassVar[str] = "block-steps"
    default_options: ClassVar[Mapping[str, Any]] = SDAR_DECODING
    known_ids: ClassVar[Mapping[str, int]] = {"mask_token_id": 151669}
    block_length_key: ClassVar[str | None] = SDAR_BLOCK_KEY
    published_block_length: ClassVar[int | None] = 4

    preset: Literal["nano", "60m", "1.7b", "4b", "8b"] = Field(
        "nano", description="Size of a model built from scratch."
    )

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(sdar_architecture, self.pretrained, SDAR, self.preset, vocab_size)


class FastDllmV2Options(_BlockOptions):
    """Options of Fast-dLLM v2 models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"Fast_dLLM_Qwen"})
    default_sampler: ClassVar[str] = "block-steps"
    # Its `generate`: sub-blocks of 8 in blocks of 32, no block cache.
    default_options: ClassVar[Mapping[str, Any]] = {"rule": "dynamic", "threshold": 1.0, "block_length": 8}
    known_ids: ClassVar[Mapping[str, int]] = {"mask_token_id": 151665, "eos_token_id": 151645}
    block_length_key: ClassVar[str | None] = FAST_DLLM_V2_BLOCK_KEY
    published_block_length: ClassVar[int | None] = 32

    preset: Literal["nano", "1.5b", "7b"] = Field("nano", description="Size of a model built from scratch.")

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(qwen_architecture, self.pretrained, FAST_DLLM_V2, self.preset, vocab_size)


class SdarMoeOptions(_BlockOptions):
    """Options of sparse SDAR models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"sdar_moe"})
    default_sampler: ClassVar[str] = "block-steps"
    default_options: ClassVar[Mapping[str, Any]] = SDAR_DECODING
    known_ids: ClassVar[Mapping[str, int]] = {"mask_token_id": 151669}
    block_length_key: ClassVar[str | None] = SDAR_BLOCK_KEY
    published_block_length: ClassVar[int | None] = 4

    preset: Literal["nano", "30b-a3b"] = Field("nano", description="Size of a model built from scratch.")

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(sdar_moe_architecture, self.pretrained, SDAR_MOE, self.preset, vocab_size)


class LladaMoeOptions(BackboneOptions):
    """Options of LLaDA-MoE models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"llada_moe", "lladamoe"})
    default_sampler: ClassVar[str] = "low-confidence"
    known_ids: ClassVar[Mapping[str, int]] = {"mask_token_id": 156895, "eos_token_id": 156892}

    preset: Literal["nano", "7b-a1b"] = Field("nano", description="Size of a model built from scratch.")

    @classmethod
    def claims(cls, config: Mapping[str, Any]) -> bool:
        """Some of its config.json files call it `llada`."""
        return super().claims(config) or (config.get("model_type") == "llada" and "num_experts" in config)

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(
            llada_moe_architecture, self.pretrained, LLADA_MOE, self.preset, vocab_size
        )


class Llada2Options(_BlockOptions):
    """Options of LLaDA2 models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"llada2_moe", "llada2_moe_veomni"})
    # LLaDA2.0's `generate`. LLaDA2.1's is the sampler token-editing; config.json doesn't tell the two.
    default_sampler: ClassVar[str] = "block-steps"
    default_options: ClassVar[Mapping[str, Any]] = {
        "rule": "dynamic",
        "threshold": 0.95,
        "confidence": "filtered",
    }
    known_ids: ClassVar[Mapping[str, int]] = {"mask_token_id": 156895, "eos_token_id": 156892}
    block_length_key: ClassVar[str | None] = LLADA2_BLOCK_KEY
    published_block_length: ClassVar[int | None] = 32

    preset: Literal["nano", "mini", "flash"] = Field(
        "nano", description="Size of a model built from scratch."
    )

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(llada2_architecture, self.pretrained, LLADA2, self.preset, vocab_size)


class CausalLmOptions(BackboneOptions):
    """Options of an autoregressive model turned bidirectional."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"logit_shift": False}]})

    default_sampler: ClassVar[str] = "entropy"

    preset: Literal["nano", "llama-3.2-1b"] = Field("nano", description="Size of a LLaMA built from scratch.")
    logit_shift: bool = Field(
        True, description="Whether hidden state i-1 predicts token i, as the autoregressive model learnt it."
    )
    pad_vocabulary_to: int = Field(
        1, ge=1, description="Grow the vocabulary to a multiple of this, which some kernels like."
    )

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(
            causal_lm_architecture, self.pretrained, CAUSAL_LM, self.preset, vocab_size
        )


def register_all(register: Register) -> None:
    """Register every built-in backbone."""
    register(
        "open-dcoder",
        options=OpenDcoderOptions,
        target=f"{HERE}.open_dcoder:open_dcoder",
        summary="Qwen2 made bidirectional, logits shifted by one (Open-dCoder 0.5B)",
    )
    register(
        "llada",
        options=LladaOptions,
        target=f"{HERE}.llada:llada",
        summary="LLaMA-shaped, LLaDA's own keys and config, no shift (LLaDA 8B, 1.5)",
    )
    register(
        "dream",
        options=DreamOptions,
        target=f"{HERE}.dream:dream",
        summary="Qwen2-shaped, logits shifted by one (Dream, Dream-Coder, DiffuCoder)",
    )
    register(
        "qwen3",
        options=Qwen3Options,
        target=f"{HERE}.qwen3:qwen3",
        summary="Qwen3 made bidirectional, with or without shift",
    )
    register(
        "a2d",
        options=A2dOptions,
        target=f"{HERE}.a2d:a2d",
        summary="dllm's Qwen2 and Qwen3 diffusion checkpoints, no shift",
    )
    register(
        "causal-lm",
        options=CausalLmOptions,
        target=f"{HERE}.causal_lm:causal_lm",
        summary="any transformers causal LM made bidirectional, for continued pretraining",
    )
    register(
        "sdar",
        options=SdarOptions,
        target=f"{HERE}.sdar:sdar",
        summary="Qwen3-shaped, block-causal, no shift (SDAR, TraDo)",
    )
    register(
        "sdar-moe",
        options=SdarMoeOptions,
        target=f"{HERE}.mixtures:sdar_moe",
        summary="a Qwen3-MoE mixture, block-causal, no shift (SDAR-30B-A3B)",
    )
    register(
        "llada-moe",
        options=LladaMoeOptions,
        target=f"{HERE}.mixtures:llada_moe",
        summary="a mixture with a softmax router, no shift (LLaDA-MoE-7B-A1B)",
    )
    register(
        "llada2",
        options=Llada2Options,
        target=f"{HERE}.llada2:llada2",
        summary="a mixture with grouped sigmoid routing, block-causal, no shift (LLaDA2.0, 2.1)",
    )
    register(
        "fast-dllm-v2",
        options=FastDllmV2Options,
        target=f"{HERE}.fast_dllm_v2:fast_dllm_v2",
        summary="Qwen2-shaped, block-causal, logits shifted by one (Fast-dLLM v2)",
    )
