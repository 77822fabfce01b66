"""Sizes of models built from scratch, as their families' config.json would state them.

The vocabulary is the tokenizer's. `nano` trains on two CPU cores in a minute.
"""

from typing import Any

_QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
          "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "attention_dropout": 0.0}  # fmt: skip

OPEN_DCODER: dict[str, dict[str, Any]] = {
    "nano": _QWEN2 | {
        "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    # Qwen/Qwen2.5-Coder-0.5B, which Open-dCoder 0.5B continues from
    "0.5b": _QWEN2 | {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "tie_word_embeddings": True,
    },
}  # fmt: skip

_DREAM = _QWEN2 | {"architectures": ["DreamModel"], "model_type": "Dream", "tie_word_embeddings": False}

DREAM: dict[str, dict[str, Any]] = {
    "nano": _DREAM | {
        "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 2048,
    },
    # Dream-org/Dream-v0-Base-7B
    "7b": _DREAM | {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 131072,
    },
}  # fmt: skip

_LLADA = {"architectures": ["LLaDAModelLM"], "model_type": "llada", "activation_type": "silu",
          "alibi": False, "block_type": "llama", "layer_norm_type": "rms", "rms_norm_eps": 1e-5, "rope": True,
          "rope_theta": 500000.0, "include_bias": False, "include_qkv_bias": False,
          "weight_tying": False}  # fmt: skip

LLADA: dict[str, dict[str, Any]] = {
    "nano": _LLADA | {
        "d_model": 128, "mlp_hidden_size": 352, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4,
        "max_sequence_length": 2048,
    },
    # GSAI-ML/LLaDA-8B-Base
    "8b": _LLADA | {
        "d_model": 4096, "mlp_hidden_size": 12288, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32,
        "max_sequence_length": 4096,
    },
}  # fmt: skip
