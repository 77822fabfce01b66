"""Sizes of models built from scratch, as their families' config.json states them.

The vocabulary is the tokenizer's; where a published size is planned without one, it is the one here.
`nano` trains on two CPU cores in half a minute, `small` in half an hour; the benchmarks use it.
"""

from typing import Any

_QWEN = {
    "hidden_act": "silu",
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}
_NANO_QWEN = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_SMALL_QWEN = {
    "vocab_size": 32000,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}

_QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **_QWEN}
OPEN_DCODER: dict[str, dict[str, Any]] = {
    "nano": {**_QWEN2, **_NANO_QWEN, "tie_word_embeddings": True},
    "small": {**_QWEN2, **_SMALL_QWEN, "tie_word_embeddings": True},
    # Qwen/Qwen2.5-Coder-0.5B, which Open-dCoder 0.5B continues from
    "0.5b": {
        **_QWEN2,
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
}

_DREAM = {"architectures": ["DreamModel"], "model_type": "Dream", **_QWEN, "tie_word_embeddings": False}
DREAM: dict[str, dict[str, Any]] = {
    "nano": {**_DREAM, **_NANO_QWEN},
    # Dream-org/Dream-v0-Base-7B
    "7b": {
        **_DREAM,
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
    },
}

_QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **_QWEN, "tie_word_embeddings": True}
QWEN3: dict[str, dict[str, Any]] = {
    "nano": {**_QWEN3, **_NANO_QWEN, "head_dim": 32},
    # Qwen/Qwen3-0.6B
    "0.6b": {
        **_QWEN3,
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
    },
}

A2D: dict[str, dict[str, Any]] = {
    "nano": {
        **QWEN3["nano"],
        "architectures": ["A2DQwen3LMHeadModel"],
        "model_type": "a2d-qwen3",
    },
}

CAUSAL_LM: dict[str, dict[str, Any]] = {
    "nano": {
        **_NANO_QWEN,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
}

_LLADA = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "activation_type": "silu",
    "alibi": False,
    "block_type": "llama",
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "embedding_dropout": 0.0,
    "flash_attention": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "residual_dropout": 0.0,
    "rope_full_precision": True,
    "scale_logits": False,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_theta": 500000.0,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
}
LLADA: dict[str, dict[str, Any]] = {
    "nano": {
        **_LLADA,
        "vocab_size": 512,
        "embedding_size": 512,
        "d_model": 128,
        "mlp_hidden_size": 352,
        "n_layers": 3,
        "n_heads": 4,
        "n_kv_heads": 4,
        "max_sequence_length": 2048,
    },
    # GSAI-ML/LLaDA-8B-Base
    "8b": {
        **_LLADA,
        "vocab_size": 126464,
        "embedding_size": 126464,
        "d_model": 4096,
        "mlp_hidden_size": 12288,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 32,
        "max_sequence_length": 4096,
    },
}
