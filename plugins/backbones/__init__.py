"""Backbones: names, options and where each is implemented."""

from typing import ClassVar, Literal

from pydantic import Field

from opendllm.plugins.backbones.presets import A2D, CAUSAL_LM, DREAM, LLADA, OPEN_DCODER, QWEN3
from opendllm.plugins.backbones.shapes import (
    causal_lm_architecture,
    llada_architecture,
    planned_architecture,
    qwen_architecture,
)
from opendllm.registries import BackboneOptions, Register
from opendllm.registries.architecture import Architecture

HERE = "opendllm.plugins.backbones"


class OpenDcoderOptions(BackboneOptions):
    """Options of Open-dCoder models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen2"})
    default_sampler: ClassVar[str] = "p2"

    preset: Literal["nano", "small", "0.5b"] = Field(
        "nano", description="Size of a model built from scratch."
    )

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(qwen_architecture, self.pretrained, OPEN_DCODER, self.preset, vocab_size)


class LladaOptions(BackboneOptions):
    """Options of LLaDA models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"llada"})
    default_sampler: ClassVar[str] = "low-confidence"

    preset: Literal["nano", "8b"] = Field("nano", description="Size of a model built from scratch.")

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(llada_architecture, self.pretrained, LLADA, self.preset, vocab_size)


class DreamOptions(BackboneOptions):
    """Options of Dream models."""

    model_types: ClassVar[frozenset[str]] = frozenset({"Dream"})
    default_sampler: ClassVar[str] = "entropy"

    preset: Literal["nano", "7b"] = Field("nano", description="Size of a model built from scratch.")

    def architecture(self, vocab_size: int | None) -> Architecture | None:
        """See `BackboneOptions.architecture`."""
        return planned_architecture(qwen_architecture, self.pretrained, DREAM, self.preset, vocab_size)


class Qwen3Options(BackboneOptions):
    """Options of Qwen3-shaped models."""

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


class CausalLmOptions(BackboneOptions):
    """Options of an autoregressive model turned bidirectional."""

    default_sampler: ClassVar[str] = "entropy"

    preset: Literal["nano"] = Field("nano", description="Size of a LLaMA built from scratch.")
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
