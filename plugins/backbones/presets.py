"""Sizes of models built from scratch, as their families' config.json states them.

The vocabulary is the tokenizer's; where a published size is planned without one, it is the one here.
`nano` trains on two CPU cores in half a minute, `small` in half an hour; the benchmarks use it. `60m` is for
minutes of one GPU, and of one size for all families that have it: 60 million parameters with 16,384 tokens.
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

_60M_QWEN = {
    "vocab_size": 16384,
    "hidden_size": 640,
    "intermediate_size": 1728,
    "num_hidden_layers": 10,
    "num_attention_heads": 10,
    "num_key_value_heads": 10,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}

_QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **_QWEN}
OPEN_DCODER: dict[str, dict[str, Any]] = {
    "nano": {**_QWEN2, **_NANO_QWEN, "tie_word_embeddings": True},
    "small": {**_QWEN2, **_SMALL_QWEN, "tie_word_embeddings": True},
    "60m": {**_QWEN2, **_60M_QWEN},
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
    "60m": {**_DREAM, **_60M_QWEN},
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
    # meta-llama/Llama-3.2-1B
    "llama-3.2-1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
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
    "60m": {
        **_LLADA,
        "vocab_size": 16384,
        "embedding_size": 16384,
        "d_model": 640,
        "mlp_hidden_size": 1728,
        "n_layers": 10,
        "n_heads": 10,
        "n_kv_heads": 10,
        "max_sequence_length": 4096,
        "weight_tying": True,
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

_SDAR = {
    **_QWEN3,
    "architectures": ["SDARForCausalLM"],
    "model_type": "sdar",
    "block_size": 4,
    "tie_word_embeddings": False,
}
_SDAR_VOCABULARY = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128}
SDAR: dict[str, dict[str, Any]] = {
    "nano": {**_SDAR, **_NANO_QWEN, "head_dim": 32, "tie_word_embeddings": True},
    "60m": {**_SDAR, **_60M_QWEN, "head_dim": 64},
    # JetLM/SDAR-1.7B-Chat, as hxhcreate/DARE @b6aa3ba8, models/SDAR-1dot7B-Chat, carries its config.json
    "1.7b": {
        **_SDAR,
        **_SDAR_VOCABULARY,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "max_position_embeddings": 32768,
    },
    # JetLM/SDAR-4B-Chat as in JetAstra/SDAR @c2041a83, training/model, and Gen-Verse/TraDo-4B-Instruct
    "4b": {
        **_SDAR,
        **_SDAR_VOCABULARY,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "max_position_embeddings": 32768,
    },
    # JetLM/SDAR-8B-Chat as in JetAstra/SDAR @c2041a83, training/model, and Gen-Verse/TraDo-8B-Instruct
    "8b": {
        **_SDAR,
        **_SDAR_VOCABULARY,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "max_position_embeddings": 32768,
    },
}

_FAST_DLLM_V2 = {
    **_QWEN2,
    "architectures": ["Fast_dLLM_QwenForCausalLM"],
    "model_type": "Fast_dLLM_Qwen",
    "bd_size": 32,
}
FAST_DLLM_V2: dict[str, dict[str, Any]] = {
    "nano": {**_FAST_DLLM_V2, **_NANO_QWEN, "tie_word_embeddings": True},
    # Efficient-Large-Model/Fast_dLLM_v2_1.5B: Qwen2.5-1.5B-Instruct's sizes, which it was made from
    "1.5b": {
        **_FAST_DLLM_V2,
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    # Efficient-Large-Model/Fast_dLLM_v2_7B: Qwen2.5-7B-Instruct's sizes, which it was made from
    "7b": {
        **_FAST_DLLM_V2,
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
}

_SDAR_MOE = {
    **_SDAR,
    "architectures": ["SDARMoeForCausalLM"],
    "model_type": "sdar_moe",
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
}
SDAR_MOE: dict[str, dict[str, Any]] = {
    "nano": {
        **_SDAR_MOE,
        **_NANO_QWEN,
        "head_dim": 32,
        "moe_intermediate_size": 88,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
    # JetLM/SDAR-30B-A3B-Chat: Qwen3-30B-A3B-Base's sizes, which it was made from
    "30b-a3b": {
        **_SDAR_MOE,
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 32768,
    },
}

_LLADA_MOE = {
    "architectures": ["LLaDAMoEModelLM"],
    "model_type": "llada_moe",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "norm_topk_prob": False,
    "qk_layernorm": True,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0,
    "tie_word_embeddings": False,
}
LLADA_MOE: dict[str, dict[str, Any]] = {
    "nano": {
        **_LLADA_MOE,
        "vocab_size": 512,
        "hidden_size": 128,
        "expert_intermediate_size": 88,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 2048,
    },
    # inclusionAI/LLaDA-MoE-7B-A1B-Base and -Instruct, whose config.json was not to be had. Layers, width,
    # heads, experts, their width and RoPE's base as a review of arXiv:2509.24389 quotes them
    # (themoonlight.io); the context of 8192 from another (aoijays.top); vocabulary and LM head from a GGUF
    # copy's header (157,184 rows, 195 tensors). Their sum, 7.36 billion, is what 14.7 GB of bf16 weights
    # hold, which a program that reads them reports. All read 2026-11-27.
    "7b-a1b": {
        **_LLADA_MOE,
        "vocab_size": 157184,
        "hidden_size": 2048,
        "expert_intermediate_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 8192,
    },
}

_LLADA2 = {
    "architectures": ["LLaDA2MoeModelLM"],
    "model_type": "llada2_moe",
    "hidden_act": "silu",
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "num_shared_experts": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-6,
    "rope_theta": 600000.0,
    "routed_scaling_factor": 2.5,
    "score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "tie_word_embeddings": False,
}
_LLADA2_PUBLISHED = {
    "vocab_size": 157184,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "max_position_embeddings": 16384,
}
LLADA2: dict[str, dict[str, Any]] = {
    "nano": {
        **_LLADA2,
        "block_length": 32,
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 352,
        "moe_intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "max_position_embeddings": 2048,
    },
    # inclusionAI/LLaDA2.0-mini as in inclusionAI/dFactory @92b68908, and LLaDA2.1-mini. The two differ in how
    # they are decoded, which config.json doesn't say: name the sampler token-editing for 2.1.
    "mini": {
        **_LLADA2,
        **_LLADA2_PUBLISHED,
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 20,
        "num_attention_heads": 16,
    },
    # inclusionAI/LLaDA2.0-flash as in inclusionAI/dFactory @92b68908, and LLaDA2.1-flash
    "flash": {
        **_LLADA2,
        **_LLADA2_PUBLISHED,
        "hidden_size": 4096,
        "intermediate_size": 9216,
        "moe_intermediate_size": 1024,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}
