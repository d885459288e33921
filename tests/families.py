"""Tiny random models of the families of decoders in transformers, with variants, for the tests of what works on them.

`FAMILIES` has one entry for each family: the class of the model, that of its configuration, and what makes it small.
`variants` gives each family in float32 and bfloat16, with tied and untied output where it can be chosen, and with the
scales and windows that the family has set to other values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

VOCABULARY = 80  # as many as tiny.tiny_tokenizer knows
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
BASE = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "max_position_embeddings": 256} | IDS  # fmt: skip
GROUPED = BASE | {"num_key_value_heads": 2, "intermediate_size": 128}
OLD = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256} | IDS
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
SHARED = ROUTED | {"shared_expert_intermediate_size": 64}
LINEAR = {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
          "linear_num_value_heads": 4, "linear_conv_kernel_dim": 4}  # fmt: skip
SLIDING = {"layer_types": ["sliding_attention"] * 3 + ["full_attention"], "sliding_window": 16}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
          "qk_nope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
          "moe_intermediate_size": 32, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 128}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A decoder of transformers: its class, its configuration's class, and options that make it tiny."""

    name: str
    model: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    variant: str = "float32"


def _family(name: str, stem: str, options: dict[str, Any], config: str = "") -> tuple[str, Family]:
    model = stem if stem.endswith(("Model", "Generation")) else f"{stem}ForCausalLM"
    return name, Family(name, model, config or f"{stem.removesuffix('LMHeadModel')}Config", options)


FAMILIES = dict(
    [
        _family(
            "afmoe",
            "Afmoe",
            GROUPED | ROUTED | SLIDING | {"head_dim": 16, "num_dense_layers": 1, "num_shared_experts": 1},
        ),
        _family("apertus", "Apertus", GROUPED),
        _family("arcee", "Arcee", GROUPED),
        _family("bamba", "Bamba", GROUPED | MAMBA | {"attn_layer_indices": [2]}),
        _family("bitnet", "BitNet", GROUPED),
        _family("bloom", "Bloom", OLD | {"hidden_size": 64}),
        _family("codegen", "CodeGen", OLD | {"rotary_dim": 8}),
        _family("cohere", "Cohere", GROUPED),
        _family("cohere2", "Cohere2", GROUPED | {"sliding_window": 16}),
        _family("deepseek_v2", "DeepseekV2", GROUPED | LATENT | {"n_group": 1}),
        _family("deepseek_v3", "DeepseekV3", GROUPED | LATENT | {"n_group": 2}),
        _family("ernie4_5", "Ernie4_5", GROUPED | {"head_dim": 16}),
        _family(
            "ernie4_5_moe",
            "Ernie4_5_Moe",
            GROUPED
            | {
                "moe_num_experts": 4,
                "moe_k": 2,
                "moe_intermediate_size": 64,
                "moe_num_shared_experts": 1,
                "moe_layer_start_index": 1,
            },
        ),
        _family("exaone4", "Exaone4", GROUPED | {"sliding_window": 16}),
        _family(
            "falcon-7b", "Falcon", BASE | {"num_kv_heads": 4, "new_decoder_architecture": False, "multi_query": True}
        ),
        _family("falcon-40b", "Falcon", BASE | {"num_kv_heads": 2, "new_decoder_architecture": True}),
        _family(
            "falcon-rw",
            "Falcon",
            BASE
            | {
                "num_kv_heads": 4,
                "new_decoder_architecture": False,
                "multi_query": False,
                "parallel_attn": False,
                "alibi": True,
                "bias": True,
            },
        ),
        _family(
            "falcon_h1",
            "FalconH1",
            GROUPED
            | {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16},
        ),
        _family(
            "falcon_mamba",
            "FalconMamba",
            {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 4, "state_size": 8} | IDS,
        ),
        _family("flex_olmo", "FlexOlmo", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
        _family("gemma", "Gemma", GROUPED | {"head_dim": 16}),
        _family("gemma2", "Gemma2", GROUPED | {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16}),
        _family(
            "gemma3",
            "Gemma3",
            GROUPED | {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},
            "Gemma3TextConfig",
        ),
        _family(
            "gemma3n",
            "Gemma3n",
            GROUPED
            | SLIDING
            | {
                "head_dim": 16,
                "vocab_size_per_layer_input": VOCABULARY,
                "hidden_size_per_layer_input": 8,
                "altup_num_inputs": 2,
                "num_kv_shared_layers": 0,
                "laurel_rank": 8,
                "activation_sparsity_pattern": [0.0] * 4,
            },
            "Gemma3nTextConfig",
        ),
        _family(
            "gemma4",
            "Gemma4",
            GROUPED
            | SLIDING
            | {
                "head_dim": 16,
                "global_head_dim": 16,
                "vocab_size_per_layer_input": VOCABULARY,
                "hidden_size_per_layer_input": 8,
                "num_kv_shared_layers": 0,
            },
            "Gemma4TextConfig",
        ),
        _family("glm", "Glm", GROUPED | {"head_dim": 16}),
        _family("glm4", "Glm4", GROUPED | {"head_dim": 16}),
        _family(
            "glm4_moe",
            "Glm4Moe",
            GROUPED
            | {
                "head_dim": 16,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "n_group": 1,
                "topk_group": 1,
                "first_k_dense_replace": 1,
                "n_shared_experts": 1,
            },
        ),
        _family("glm4_moe_lite", "Glm4MoeLite", GROUPED | LATENT | {"n_group": 1}),
        _family("gpt2", "GPT2LMHeadModel", OLD),
        _family("gpt_bigcode", "GPTBigCode", OLD),
        _family(
            "gpt_neo",
            "GPTNeo",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": 64,
                "num_layers": 4,
                "num_heads": 4,
                "attention_types": [[["global", "local"], 2]],
                "max_position_embeddings": 256,
                "window_size": 16,
            }
            | IDS,
        ),
        _family("gpt_neox", "GPTNeoX", BASE | {"intermediate_size": 128, "rotary_pct": 0.25}),
        _family("gpt_oss", "GptOss", GROUPED | EXPERTS | {"head_dim": 16, "sliding_window": 16}),
        _family("gptj", "GPTJ", OLD | {"rotary_dim": 8}),
        _family(
            "granite",
            "Granite",
            GROUPED
            | {
                "embedding_multiplier": 12.0,
                "logits_scaling": 8.0,
                "residual_multiplier": 0.22,
                "attention_multiplier": 0.0156,
            },
        ),
        _family(
            "granitemoe",
            "GraniteMoe",
            GROUPED | EXPERTS | {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22},
        ),
        _family(
            "granitemoehybrid",
            "GraniteMoeHybrid",
            GROUPED
            | EXPERTS
            | MAMBA
            | {
                "shared_intermediate_size": 64,
                "layer_types": ["mamba", "mamba", "attention", "mamba"],
                "logits_scaling": 8.0,
            },
        ),
        _family("helium", "Helium", GROUPED | {"head_dim": 16}),
        _family("hunyuan", "HunYuanDenseV1", GROUPED | {"head_dim": 16}),
        _family("jais2", "Jais2", GROUPED | {"head_dim": 16}),
        _family(
            "jamba",
            "Jamba",
            GROUPED
            | {
                "num_experts": 2,
                "num_experts_per_tok": 1,
                "attn_layer_period": 2,
                "attn_layer_offset": 1,
                "use_mamba_kernels": False,
                "mamba_d_state": 8,
            },
        ),
        _family(
            "jetmoe",
            "JetMoe",
            BASE
            | {
                "num_key_value_heads": 4,
                "kv_channels": 16,
                "intermediate_size": 64,
                "num_local_experts": 4,
                "num_experts_per_tok": 1,
            },
        ),
        _family("lfm2", "Lfm2", GROUPED | {"layer_types": ["conv", "conv", "full_attention", "conv"]}),
        _family(
            "lfm2_moe",
            "Lfm2Moe",
            GROUPED | ROUTED | {"layer_types": ["conv", "conv", "full_attention", "conv"], "num_dense_layers": 1},
        ),
        _family("llama", "Llama", GROUPED),
        _family("llama-3-rotation", "Llama", GROUPED | {"rope_parameters": LLAMA3}),
        _family(
            "llama4",
            "Llama4",
            GROUPED
            | {
                "head_dim": 16,
                "intermediate_size_mlp": 128,
                "num_local_experts": 4,
                "num_experts_per_tok": 1,
                "attention_chunk_size": 64,
            },
            "Llama4TextConfig",
        ),
        _family(
            "mamba",
            "Mamba",
            {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 4, "state_size": 8} | IDS,
        ),
        _family(
            "mamba2",
            "Mamba2",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": 64,
                "num_hidden_layers": 4,
                "state_size": 16,
                "num_heads": 8,
                "head_dim": 16,
                "n_groups": 1,
                "chunk_size": 16,
            }
            | IDS,
        ),
        _family("minimax_m2", "MiniMaxM2", GROUPED | EXPERTS | {"head_dim": 16}),
        _family("ministral3", "Ministral3", GROUPED | {"head_dim": 16}),
        _family("mistral", "Mistral", GROUPED | {"sliding_window": 16}),
        _family("mixtral", "Mixtral", GROUPED | EXPERTS),
        _family(
            "modernbert_decoder",
            "ModernBertDecoder",
            BASE | {"intermediate_size": 128, "local_attention": 16, "cls_token_id": 1, "sep_token_id": 2},
        ),
        _family(
            "mpt",
            "Mpt",
            {"vocab_size": VOCABULARY, "d_model": 64, "n_heads": 4, "n_layers": 4, "max_seq_len": 256} | IDS,
        ),
        _family("nanochat", "NanoChat", GROUPED),
        _family("nemotron", "Nemotron", GROUPED),
        _family(
            "nemotron_h",
            "NemotronH",
            GROUPED
            | {
                "layers_block_type": ["mamba", "attention", "moe", "mamba"],
                "mamba_num_heads": 8,
                "mamba_head_dim": 16,
                "ssm_state_size": 16,
                "n_groups": 1,
                "chunk_size": 16,
                "head_dim": 16,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "moe_shared_expert_intermediate_size": 32,
            },
        ),
        _family("olmo", "Olmo", GROUPED),
        _family("olmo2", "Olmo2", GROUPED),
        _family("olmo3", "Olmo3", GROUPED | {"sliding_window": 16}),
        _family(
            "olmo_hybrid",
            "OlmoHybrid",
            GROUPED
            | LINEAR
            | {"layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"]},
        ),
        _family("olmoe", "Olmoe", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
        _family("openai-gpt", "OpenAIGPTLMHeadModel", OLD),
        _family("opt", "OPT", BASE | {"word_embed_proj_dim": 64, "ffn_dim": 128}),
        _family("opt-350m", "OPT", BASE | {"word_embed_proj_dim": 32, "do_layer_norm_before": False, "ffn_dim": 128}),
        _family("phi", "Phi", BASE | {"intermediate_size": 128}),
        _family("phi3", "Phi3", GROUPED | {"original_max_position_embeddings": 256}),
        _family("phimoe", "Phimoe", GROUPED | EXPERTS),
        _family("qwen2", "Qwen2", GROUPED),
        _family("qwen2_moe", "Qwen2Moe", GROUPED | SHARED),
        _family("qwen3", "Qwen3", GROUPED | {"head_dim": 32}),
        _family("qwen3_moe", "Qwen3Moe", GROUPED | ROUTED | {"head_dim": 16}),
        _family("qwen3_next", "Qwen3Next", GROUPED | SHARED | LINEAR | {"head_dim": 16}),
        _family("qwen3_5", "Qwen3_5", GROUPED | LINEAR | {"head_dim": 16}, "Qwen3_5TextConfig"),
        _family("qwen3_5_moe", "Qwen3_5Moe", GROUPED | SHARED | LINEAR | {"head_dim": 16}, "Qwen3_5MoeTextConfig"),
        _family(
            "recurrent_gemma",
            "RecurrentGemma",
            GROUPED
            | {"lru_width": 64, "attention_window_size": 16, "block_types": ["recurrent", "recurrent", "attention"]},
        ),
        _family(
            "rwkv",
            "Rwkv",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": 64,
                "num_hidden_layers": 4,
                "attention_hidden_size": 64,
                "context_length": 256,
            }
            | IDS,
        ),
        _family("seed_oss", "SeedOss", GROUPED | {"head_dim": 16}),
        _family("smollm3", "SmolLM3", GROUPED),
        _family("stablelm", "StableLm", GROUPED),
        _family("starcoder2", "Starcoder2", GROUPED),
        _family(
            "vaultgemma", "VaultGemma", GROUPED | {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16}
        ),
        _family(
            "xglm",
            "XGLM",
            {
                "vocab_size": VOCABULARY,
                "d_model": 64,
                "ffn_dim": 128,
                "num_layers": 4,
                "attention_heads": 4,
                "max_position_embeddings": 256,
            }
            | IDS,
        ),
        _family(
            "youtu",
            "Youtu",
            GROUPED | {k: v for k, v in LATENT.items() if not k.startswith(("n_", "num_exp", "moe", "topk", "first"))},
        ),
        _family(
            "zamba2",
            "Zamba2",
            GROUPED
            | {
                "num_key_value_heads": 4,
                "mamba_d_state": 16,
                "mamba_headdim": 16,
                "mamba_ngroups": 1,
                "n_mamba_heads": 8,
                "chunk_size": 16,
                "num_mem_blocks": 1,
                "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            },
        ),
    ]
)

# Two classes that take images too: the text model inside is wrapped.
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
FAMILIES["gemma3-images"] = Family(
    "gemma3-images",
    "Gemma3ForConditionalGeneration",
    "Gemma3Config",
    {
        "text_config": FAMILIES["gemma3"].options,
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "image_token_index": 79,
        "boi_token_index": 77,
        "eoi_token_index": 78,
    },
)
FAMILIES["llava"] = Family(
    "llava",
    "LlavaForConditionalGeneration",
    "LlavaConfig",
    {
        "text_config": GROUPED | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model", "projection_dim": 32},
        "image_token_index": 79,
    },
)

# What else a family may have: other scales, other windows, other places of norms and biases.
OTHERS: dict[str, dict[str, dict[str, Any]]] = {
    "bloom": {"residual after norm": {"apply_residual_connection_post_layernorm": True}},
    "cohere": {"logits x 0.5": {"logit_scale": 0.5}, "norm of heads": {"use_qk_norm": True}},
    "cohere2": {"logits x 2, window 8": {"logit_scale": 2.0, "sliding_window": 8}},
    "falcon_h1": {
        "multipliers": {
            "lm_head_multiplier": 0.5,
            "embedding_multiplier": 2.0,
            "attention_out_multiplier": 0.7,
            "ssm_out_multiplier": 0.6,
            "mlp_multipliers": [0.8, 0.9],
        }
    },
    "gemma2": {
        "caps 5": {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0},
        "window 8": {"sliding_window": 8},
        "no caps": {"final_logit_softcapping": None, "attn_logit_softcapping": None},
    },
    "gemma3": {"window 8": {"sliding_window": 8}, "cap 2": {"final_logit_softcapping": 2.0}},
    "gemma3n": {"shared keys": {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}},
    "gemma4": {
        "shared keys": {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2},
        "no inputs by layer": {"hidden_size_per_layer_input": 0},
        "cap 2": {"final_logit_softcapping": 2.0},
    },
    "gpt2": {"scaled by layer": {"scale_attn_by_inverse_layer_idx": True}},
    "gpt_neox": {"one after the other": {"use_parallel_residual": False}, "all rotary": {"rotary_pct": 1.0}},
    "granite": {
        "scales 1": {"embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0},
        "logits / 3": {"logits_scaling": 3.0, "residual_multiplier": 0.5},
    },
    "granitemoehybrid": {"residual x 0.22": {"residual_multiplier": 0.22}},
    "llama": {"biases": {"attention_bias": True, "mlp_bias": True}, "all heads": {"num_key_value_heads": 4}},
    "mistral": {"window 8": {"sliding_window": 8}, "no window": {"sliding_window": None}},
    "opt": {"no biases": {"enable_bias": False}},
    "olmo": {"clipped": {"clip_qkv": 0.5}},
    "phi": {"norm of heads": {"qk_layernorm": True}},
    "qwen2": {"window": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}},
    "stablelm": {"parallel": {"use_parallel_residual": True}, "norm of heads": {"qk_layernorm": True}},
}


def variants(name: str) -> Iterator[Family]:
    """The family in float32 and bfloat16, with the other way to tie its output, and with its other options."""
    base = FAMILIES[name]
    yield base
    yield replace(base, dtype=torch.bfloat16, variant="bfloat16")
    tied = bool(getattr(config_of(base), "tie_word_embeddings", False))
    if name in TIES:
        yield replace(
            base,
            options=base.options | {"tie_word_embeddings": not tied},
            variant=f"{'untied' if tied else 'tied'} output",
        )
    for variant, options in OTHERS.get(name, {}).items():
        yield replace(base, options=base.options | options, variant=variant)


TIES = (
    "apertus",
    "cohere",
    "cohere2",
    "gemma",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "olmo",
    "olmo2",
    "opt",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
    "starcoder2",
)


def config_of(family: Family) -> Any:
    """The configuration, as transformers' class makes it."""
    import transformers

    return getattr(transformers, family.config)(**family.options)


def build(family: Family, seed: int = 0) -> Any:
    """The random model, in whose biases and norms no entry is 0 or 1, so that none can be left out unnoticed."""
    import transformers

    torch.manual_seed(seed)
    model = getattr(transformers, family.model)(config_of(family)).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        head = model.get_output_embeddings()
        # Larger logits: a soft cap, a scale and a bias are to be seen beside the rounding.
        for weight in {id(head.weight): head.weight}.values():
            weight.mul_(5)
    return model.to(family.dtype)
