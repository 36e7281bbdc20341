"""Decoder-only classes of transformers: GPT, GPT-2, OPT, Llama and GPT-NeoX."""

from __future__ import annotations

from typing import Any

from scaling.config import ModelConfig
from scaling.errors import UserError
from scaling.interop.families.common import (
    LEARNED,
    OFFSET,
    OWN_HEAD,
    TORCH_EPSILON,
    init_std,
    init_std_back,
)
from scaling.interop.family import Family, Rule, linear, norm
from scaling.interop.fields import ACTIVATIONS, Fields, Pair, Settings
from scaling.interop.layouts import (
    CONV1D,
    CONV1D_FROM_HEADS,
    INTERLEAVED,
    LINEAR_FROM_HEADS,
    TABLE,
    VECTOR,
    fused,
)

ROTARY = {"positions": "rotary", "rotary_pairs": "halves", "scale_embedding": False}

BLOCK = "decoder.stack.{layer}"
ATTENTION = f"{BLOCK}.attention"
QUERY_KEY_VALUE = tuple(f"{ATTENTION}.{part}" for part in ("query", "key", "value"))


def joint(theirs: str, weight: Any, bias: Any) -> tuple[Rule, Rule]:
    """Queries, keys and values in one tensor."""
    return (Rule(f"{theirs}.weight", tuple(f"{part}.weight" for part in QUERY_KEY_VALUE), weight),
            Rule(f"{theirs}.bias", tuple(f"{part}.bias" for part in QUERY_KEY_VALUE), bias))


# GPT and GPT-2 name alike, but for the embeddings and the last norm.
GPT_BLOCK = (
    *joint("transformer.h.{layer}.attn.c_attn", fused(CONV1D), fused(VECTOR)),
    *linear("transformer.h.{layer}.attn.c_proj", f"{ATTENTION}.out", CONV1D_FROM_HEADS),
    *linear("transformer.h.{layer}.mlp.c_fc", f"{BLOCK}.feed_forward.up", CONV1D),
    *linear("transformer.h.{layer}.mlp.c_proj", f"{BLOCK}.feed_forward.down", CONV1D),
    *norm("transformer.h.{layer}.ln_1", f"{BLOCK}.attention_norm"),
    *norm("transformer.h.{layer}.ln_2", f"{BLOCK}.feed_forward_norm"),
    OWN_HEAD,
)
GPT_PAIRS = (
    Pair("vocab_size", "vocab_size"),
    Pair("n_positions", "context"),
    Pair("n_embd", "d_model"),
    Pair("n_layer", "n_layers"),
    Pair("n_head", "n_heads"),
    Pair("layer_norm_epsilon", "norm_epsilon", TORCH_EPSILON),
    Pair("resid_pdrop", "dropout", 0.1),
    Pair("attn_pdrop", "attention_dropout", 0.1),
    Pair("tie_word_embeddings", "tied_head", True),
)
GPT_BUFFERS = (r"transformer\.h\.\d+\.attn\.(masked_)?bias",)
"""Causal masks, which older files hold."""
WITHOUT_PREFIX = {r"^(?!transformer\.|lm_head\.)": "transformer."}
"""Files of the class without a head, which its name does not begin."""


def _embeddings_drop_too(config: ModelConfig) -> Settings:
    return {"embd_pdrop": config.dropout}


GPT = Family(
    architecture="OpenAIGPTLMHeadModel",
    fields=Fields(
        "openai-gpt",
        # This class calls by "gelu" what the others call "gelu_new".
        (*GPT_PAIRS, Pair("afn", "activation", "gelu",
                          {"gelu": "gelu", "gelu_new": "gelu", "relu": "relu"})),
        ours={**LEARNED, "norm_place": "post"},
        to_theirs=_embeddings_drop_too,
    ),
    rules=(
        Rule("transformer.tokens_embed.weight", "embedding", TABLE),
        Rule("transformer.positions_embed.weight", "decoder.positions", TABLE),
        *GPT_BLOCK,
    ),
    copies={"lm_head.weight": "transformer.tokens_embed.weight"},
    ignored=(*GPT_BUFFERS, r"transformer\.position_ids"),
    older=WITHOUT_PREFIX,
)

GPT2 = Family(
    architecture="GPT2LMHeadModel",
    fields=Fields(
        "gpt2",
        (*GPT_PAIRS, Pair("activation_function", "activation", "gelu_new", ACTIVATIONS),
         Pair("n_inner", "d_ff", None),
         Pair("scale_attn_weights", "scale_attention", True)),
        ours=LEARNED,
        demands={"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
        to_theirs=_embeddings_drop_too,
    ),
    rules=(
        Rule("transformer.wte.weight", "embedding", TABLE),
        Rule("transformer.wpe.weight", "decoder.positions", TABLE),
        *GPT_BLOCK,
        *norm("transformer.ln_f", "decoder.norm"),
    ),
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=GPT_BUFFERS,
    older=WITHOUT_PREFIX,
)


def _opt(theirs: Settings) -> Settings:
    """Narrow embeddings (350M) are widened before positions are added."""
    narrow = theirs.get("word_embed_proj_dim") not in (None, theirs["hidden_size"])
    return init_std(theirs) | ({"embedding_map": "first"} if narrow else {})


OPT = Family(
    architecture="OPTForCausalLM",
    fields=Fields(
        "opt",
        (
            Pair("vocab_size", "vocab_size"),
            Pair("max_position_embeddings", "context"),
            Pair("hidden_size", "d_model"),
            Pair("num_hidden_layers", "n_layers"),
            Pair("num_attention_heads", "n_heads"),
            Pair("ffn_dim", "d_ff"),
            Pair("word_embed_proj_dim", "d_embedding", None),
            Pair("do_layer_norm_before", "norm_place", True, {True: "pre", False: "post"}),
            Pair("activation_function", "activation", "relu", ACTIVATIONS),
            Pair("dropout", "dropout", 0.1),
            Pair("attention_dropout", "attention_dropout", 0.0),
            Pair("tie_word_embeddings", "tied_head", True),
        ),
        ours={**LEARNED, "position_offset": OFFSET, "norm_epsilon": TORCH_EPSILON},
        demands={"enable_bias": True, "layer_norm_elementwise_affine": True,
                 "_remove_final_layer_norm": False},
        to_ours=_opt,
        to_theirs=init_std_back,
    ),
    rules=(
        Rule("model.decoder.embed_tokens.weight", "embedding", TABLE),
        Rule("model.decoder.embed_positions.weight", "decoder.positions", TABLE),
        *linear("model.decoder.project_in", "decoder.map"),
        *linear("model.decoder.project_out", "heads.lm.map"),
        *linear("model.decoder.layers.{layer}.self_attn.q_proj", f"{ATTENTION}.query"),
        *linear("model.decoder.layers.{layer}.self_attn.k_proj", f"{ATTENTION}.key"),
        *linear("model.decoder.layers.{layer}.self_attn.v_proj", f"{ATTENTION}.value"),
        *linear("model.decoder.layers.{layer}.self_attn.out_proj", f"{ATTENTION}.out",
                LINEAR_FROM_HEADS),
        *linear("model.decoder.layers.{layer}.fc1", f"{BLOCK}.feed_forward.up"),
        *linear("model.decoder.layers.{layer}.fc2", f"{BLOCK}.feed_forward.down"),
        *norm("model.decoder.layers.{layer}.self_attn_layer_norm", f"{BLOCK}.attention_norm"),
        *norm("model.decoder.layers.{layer}.final_layer_norm", f"{BLOCK}.feed_forward_norm"),
        *norm("model.decoder.final_layer_norm", "decoder.norm"),
        OWN_HEAD,
    ),
    copies={"lm_head.weight": "model.decoder.embed_tokens.weight"},
    older={r"^decoder\.": "model.decoder."},
)


def rope(theirs: Settings) -> Settings:
    """What a configuration says of rotary positions, of transformers 5 (`rope_parameters`) or
    before."""
    said = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    kind = said.get("rope_type", said.get("type", "default"))
    if kind != "default":
        raise UserError(f"rope_type is {kind!r}: our rotary wavelengths are never stretched, so "
                        "only 'default' can be converted; choose another model")
    return said


def _llama_rope(theirs: Settings) -> Settings:
    base = rope(theirs).get("rope_theta") or theirs.get("rope_theta")
    return {} if base is None else {"rotary_base": base}


def _llama_rope_back(config: ModelConfig) -> Settings:
    said = {"rope_theta": config.rotary_base}
    return said | {"rope_parameters": {"rope_type": "default", **said}}


LLAMA = Family(
    architecture="LlamaForCausalLM",
    fields=Fields(
        "llama",
        (
            Pair("vocab_size", "vocab_size"),
            Pair("max_position_embeddings", "context"),
            Pair("hidden_size", "d_model"),
            Pair("num_hidden_layers", "n_layers"),
            Pair("num_attention_heads", "n_heads"),
            Pair("num_key_value_heads", "n_kv_heads", None),
            Pair("head_dim", "d_head", None),
            Pair("intermediate_size", "d_ff"),
            Pair("hidden_act", "activation", "silu", {"silu": "swiglu"}),
            Pair("rms_norm_eps", "norm_epsilon", 1e-6),
            Pair("attention_dropout", "attention_dropout", 0.0),
            Pair("tie_word_embeddings", "tied_head", False),
        ),
        ours={**ROTARY, "norm": "rms", "biases": False},
        demands={"attention_bias": False, "mlp_bias": False},
        to_ours=_llama_rope,
        to_theirs=_llama_rope_back,
    ),
    rules=(
        Rule("model.embed_tokens.weight", "embedding", TABLE),
        *linear("model.layers.{layer}.self_attn.q_proj", f"{ATTENTION}.query"),
        *linear("model.layers.{layer}.self_attn.k_proj", f"{ATTENTION}.key"),
        *linear("model.layers.{layer}.self_attn.v_proj", f"{ATTENTION}.value"),
        *linear("model.layers.{layer}.self_attn.o_proj", f"{ATTENTION}.out", LINEAR_FROM_HEADS),
        *linear("model.layers.{layer}.mlp.gate_proj", f"{BLOCK}.feed_forward.gate"),
        *linear("model.layers.{layer}.mlp.up_proj", f"{BLOCK}.feed_forward.up"),
        *linear("model.layers.{layer}.mlp.down_proj", f"{BLOCK}.feed_forward.down"),
        *norm("model.layers.{layer}.input_layernorm", f"{BLOCK}.attention_norm"),
        *norm("model.layers.{layer}.post_attention_layernorm", f"{BLOCK}.feed_forward_norm"),
        *norm("model.norm", "decoder.norm"),
        OWN_HEAD,
    ),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)


def _neox_rope(theirs: Settings) -> Settings:
    said = rope(theirs)
    base = said.get("rope_theta") or theirs.get("rotary_emb_base", 10_000.0)
    part = said.get("partial_rotary_factor") or theirs.get("rotary_pct", 0.25)
    width = int(theirs["hidden_size"] // theirs["num_attention_heads"] * part)
    if width % 2:
        raise UserError(f"GPTNeoXForCausalLM: rotary_pct = {part} turns {width} numbers of each "
                        "head, an odd number, which is no number of pairs; choose another model")
    return {"rotary_base": base, "rotary_fraction": part}


def _neox_rope_back(config: ModelConfig) -> Settings:
    return {
        "rotary_emb_base": config.rotary_base, "rotary_pct": config.rotary_fraction,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": config.rotary_base,
            "partial_rotary_factor": config.rotary_fraction,
        },
    }


NEOX = Family(
    architecture="GPTNeoXForCausalLM",
    fields=Fields(
        "gpt_neox",
        (
            Pair("vocab_size", "vocab_size"),
            Pair("max_position_embeddings", "context"),
            Pair("hidden_size", "d_model"),
            Pair("num_hidden_layers", "n_layers"),
            Pair("num_attention_heads", "n_heads"),
            Pair("intermediate_size", "d_ff"),
            Pair("hidden_act", "activation", "gelu", ACTIVATIONS),
            Pair("layer_norm_eps", "norm_epsilon", TORCH_EPSILON),
            Pair("hidden_dropout", "dropout", 0.0),
            Pair("attention_dropout", "attention_dropout", 0.0),
            Pair("use_parallel_residual", "parallel", True, {True: "two_norms", False: "no"}),
            Pair("tie_word_embeddings", "tied_head", False),
        ),
        ours={**ROTARY, "norm": "layer", "biases": True},
        demands={"attention_bias": True},
        to_ours=_neox_rope,
        to_theirs=_neox_rope_back,
    ),
    rules=(
        Rule("gpt_neox.embed_in.weight", "embedding", TABLE),
        *joint("gpt_neox.layers.{layer}.attention.query_key_value", INTERLEAVED, INTERLEAVED),
        *linear("gpt_neox.layers.{layer}.attention.dense", f"{ATTENTION}.out", LINEAR_FROM_HEADS),
        *linear("gpt_neox.layers.{layer}.mlp.dense_h_to_4h", f"{BLOCK}.feed_forward.up"),
        *linear("gpt_neox.layers.{layer}.mlp.dense_4h_to_h", f"{BLOCK}.feed_forward.down"),
        *norm("gpt_neox.layers.{layer}.input_layernorm", f"{BLOCK}.attention_norm"),
        *norm("gpt_neox.layers.{layer}.post_attention_layernorm", f"{BLOCK}.feed_forward_norm"),
        *norm("gpt_neox.final_layer_norm", "decoder.norm"),
        OWN_HEAD,
    ),
    copies={"lm_head.weight": "gpt_neox.embed_in.weight"},
    ignored=(r"gpt_neox\.layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",),
    older={r"^embed_out\.": "lm_head."},
)

FAMILIES = (GPT, GPT2, OPT, LLAMA, NEOX)
