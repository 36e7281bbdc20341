"""Decoder-only classes of transformers: GPT, GPT-2, OPT, Llama and GPT-NeoX."""

from __future__ import annotations

from typing import Any

from scaling.config import ModelConfig
from scaling.errors import UserError
from scaling.interop.architecture import HFArchitecture, Rule, linear, norm
from scaling.interop.families.common import (
    LEARNED,
    OFFSET,
    OWN_HEAD,
    TORCH_EPSILON,
    init_from_std,
    init_std_setting,
)
from scaling.interop.layouts import (
    CONV1D,
    CONV1D_FROM_HEADS,
    INTERLEAVED,
    LINEAR_FROM_HEADS,
    TABLE,
    VECTOR,
    fused,
)
from scaling.interop.settings import (
    ACTIVATIONS,
    HFSetting,
    Settings,
    SettingsTable,
    number,
    positive_integer,
)

ROTARY = {"positions": "rotary", "rotary_pairs": "halves", "scale_embedding": False}

BLOCK = "decoder.layers.{layer}"
ATTENTION = f"{BLOCK}.attention"
QUERY_KEY_VALUE = tuple(f"{ATTENTION}.{part}" for part in ("query", "key", "value"))


def joint(theirs: str, weight: Any, bias: Any) -> tuple[Rule, Rule]:
    """Rules for a weight and a bias that have queries, keys and values in one tensor."""
    return (Rule(f"{theirs}.weight", tuple(f"{part}.weight" for part in QUERY_KEY_VALUE), weight),
            Rule(f"{theirs}.bias", tuple(f"{part}.bias" for part in QUERY_KEY_VALUE), bias))


# GPT and GPT-2 have the same names, except for the embeddings and the final norm.
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
    HFSetting("vocab_size", "vocab_size"),
    HFSetting("n_positions", "context"),
    HFSetting("n_embd", "d_model"),
    HFSetting("n_layer", "n_layers"),
    HFSetting("n_head", "n_heads"),
    HFSetting("layer_norm_epsilon", "norm_epsilon", TORCH_EPSILON),
    HFSetting("resid_pdrop", "dropout", 0.1),
    HFSetting("attn_pdrop", "attention_dropout", 0.1),
    HFSetting("tie_word_embeddings", "tied_head", True),
)
GPT_BUFFERS = (r"transformer\.h\.\d+\.attn\.(masked_)?bias",)
"""Causal masks in older files."""
WITHOUT_PREFIX = {r"^(?!transformer\.|lm_head\.)": "transformer."}
"""Names in files of the class without head, which have no prefix."""


def _embeddings_drop_too(config: ModelConfig) -> Settings:
    return {"embd_pdrop": config.dropout}


GPT = HFArchitecture(
    name="OpenAIGPTLMHeadModel",
    settings=SettingsTable(
        "openai-gpt",
        # In this class "gelu" is what others call "gelu_new".
        (*GPT_PAIRS, HFSetting("afn", "activation", "gelu",
                               {"gelu": "gelu", "gelu_new": "gelu", "relu": "relu"})),
        fixed={**LEARNED, "norm_place": "post"},
        extra_settings=_embeddings_drop_too,
    ),
    rules=(
        Rule("transformer.tokens_embed.weight", "embedding", TABLE),
        Rule("transformer.positions_embed.weight", "decoder.positions", TABLE),
        *GPT_BLOCK,
    ),
    aliases={"lm_head.weight": "transformer.tokens_embed.weight"},
    ignored=(*GPT_BUFFERS, r"transformer\.position_ids"),
    renamed=WITHOUT_PREFIX,
)

GPT2 = HFArchitecture(
    name="GPT2LMHeadModel",
    settings=SettingsTable(
        "gpt2",
        (*GPT_PAIRS, HFSetting("activation_function", "activation", "gelu_new", ACTIVATIONS),
         HFSetting("n_inner", "d_ff", None),
         HFSetting("scale_attn_weights", "scale_attention", True)),
        fixed=LEARNED,
        required={"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
        extra_settings=_embeddings_drop_too,
    ),
    rules=(
        Rule("transformer.wte.weight", "embedding", TABLE),
        Rule("transformer.wpe.weight", "decoder.positions", TABLE),
        *GPT_BLOCK,
        *norm("transformer.ln_f", "decoder.norm"),
    ),
    aliases={"lm_head.weight": "transformer.wte.weight"},
    ignored=GPT_BUFFERS,
    renamed=WITHOUT_PREFIX,
)


def _opt(theirs: Settings) -> Settings:
    """Narrow embeddings (350M) are projected before positions are added."""
    width = number(theirs, "hidden_size")
    narrow = number(theirs, "word_embed_proj_dim", width) != width
    return init_from_std(theirs) | ({"embedding_projection": "first"} if narrow else {})


OPT = HFArchitecture(
    name="OPTForCausalLM",
    settings=SettingsTable(
        "opt",
        (
            HFSetting("vocab_size", "vocab_size"),
            HFSetting("max_position_embeddings", "context"),
            HFSetting("hidden_size", "d_model"),
            HFSetting("num_hidden_layers", "n_layers"),
            HFSetting("num_attention_heads", "n_heads"),
            HFSetting("ffn_dim", "d_ff"),
            HFSetting("word_embed_proj_dim", "d_embedding", None),
            HFSetting("do_layer_norm_before", "norm_place", True, {True: "pre", False: "post"}),
            HFSetting("activation_function", "activation", "relu", ACTIVATIONS),
            HFSetting("dropout", "dropout", 0.1),
            HFSetting("attention_dropout", "attention_dropout", 0.0),
            HFSetting("tie_word_embeddings", "tied_head", True),
        ),
        fixed={**LEARNED, "position_offset": OFFSET, "norm_epsilon": TORCH_EPSILON},
        required={"enable_bias": True, "layer_norm_elementwise_affine": True,
                 "_remove_final_layer_norm": False},
        extra_config=_opt,
        extra_settings=init_std_setting,
    ),
    rules=(
        Rule("model.decoder.embed_tokens.weight", "embedding", TABLE),
        Rule("model.decoder.embed_positions.weight", "decoder.positions", TABLE),
        *linear("model.decoder.project_in", "decoder.projection"),
        *linear("model.decoder.project_out", "heads.lm.projection"),
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
    aliases={"lm_head.weight": "model.decoder.embed_tokens.weight"},
    renamed={r"^decoder\.": "model.decoder."},
)


def rope(theirs: Settings) -> Settings:
    """The rotary settings of transformers 5 (`rope_parameters`) or earlier (`rope_scaling`)."""
    rotary = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if not isinstance(rotary, dict):
        raise UserError(f"rope_parameters is {rotary!r:.40}, where an object is expected; give "
                        "config.json as it was saved with the model")
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind != "default":
        raise UserError(f"rope_type is {kind!r:.40}, and only 'default' can be converted, since "
                        "scaled rotary wavelengths are not supported; choose another model")
    return rotary


def _rope_base(rotary: Settings, name: str, default: float = 0) -> Any:
    """The base of the rotary wavelengths, whose bound is higher than that of other settings."""
    return number(rotary, name, default, largest=1e30)


def _llama_rope(theirs: Settings) -> Settings:
    base = _rope_base(rope(theirs), "rope_theta") or _rope_base(theirs, "rope_theta")
    return {"rotary_base": base} if base else {}


def _llama_rope_back(config: ModelConfig) -> Settings:
    rotary = {"rope_theta": config.rotary_base}
    return rotary | {"rope_parameters": {"rope_type": "default", **rotary}}


LLAMA = HFArchitecture(
    name="LlamaForCausalLM",
    settings=SettingsTable(
        "llama",
        (
            HFSetting("vocab_size", "vocab_size"),
            HFSetting("max_position_embeddings", "context"),
            HFSetting("hidden_size", "d_model"),
            HFSetting("num_hidden_layers", "n_layers"),
            HFSetting("num_attention_heads", "n_heads"),
            HFSetting("num_key_value_heads", "n_kv_heads", None),
            HFSetting("head_dim", "d_head", None),
            HFSetting("intermediate_size", "d_ff"),
            HFSetting("hidden_act", "activation", "silu", {"silu": "swiglu"}),
            HFSetting("rms_norm_eps", "norm_epsilon", 1e-6),
            HFSetting("attention_dropout", "attention_dropout", 0.0),
            HFSetting("tie_word_embeddings", "tied_head", False),
        ),
        fixed={**ROTARY, "norm": "rms", "use_bias": False},
        required={"attention_bias": False, "mlp_bias": False},
        extra_config=_llama_rope,
        extra_settings=_llama_rope_back,
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
    aliases={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)


def _neox_rope(theirs: Settings) -> Settings:
    rotary = rope(theirs)
    base = _rope_base(rotary, "rope_theta") or _rope_base(theirs, "rotary_emb_base", 10_000.0)
    part = number(rotary, "partial_rotary_factor", 0) or number(theirs, "rotary_pct", 0.25)
    hidden, heads = (
        positive_integer(theirs, name) for name in ("hidden_size", "num_attention_heads"))
    width = int(hidden // heads * part)
    if width % 2:
        raise UserError(f"rotary_pct = {part} rotates {width} dimensions of each head, an odd "
                        "number, which cannot be divided into pairs; choose another model")
    return {"rotary_base": base, "rotary_fraction": part}


def _neox_rope_back(config: ModelConfig) -> Settings:
    return {
        "rotary_emb_base": config.rotary_base, "rotary_pct": config.rotary_fraction,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": config.rotary_base,
            "partial_rotary_factor": config.rotary_fraction,
        },
    }


NEOX = HFArchitecture(
    name="GPTNeoXForCausalLM",
    settings=SettingsTable(
        "gpt_neox",
        (
            HFSetting("vocab_size", "vocab_size"),
            HFSetting("max_position_embeddings", "context"),
            HFSetting("hidden_size", "d_model"),
            HFSetting("num_hidden_layers", "n_layers"),
            HFSetting("num_attention_heads", "n_heads"),
            HFSetting("intermediate_size", "d_ff"),
            HFSetting("hidden_act", "activation", "gelu", ACTIVATIONS),
            HFSetting("layer_norm_eps", "norm_epsilon", TORCH_EPSILON),
            HFSetting("hidden_dropout", "dropout", 0.0),
            HFSetting("attention_dropout", "attention_dropout", 0.0),
            HFSetting("use_parallel_residual", "parallel", True, {True: "two_norms", False: "no"}),
            HFSetting("tie_word_embeddings", "tied_head", False),
        ),
        fixed={**ROTARY, "norm": "layer", "use_bias": True},
        required={"attention_bias": True},
        extra_config=_neox_rope,
        extra_settings=_neox_rope_back,
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
    aliases={"lm_head.weight": "gpt_neox.embed_in.weight"},
    ignored=(r"gpt_neox\.layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",),
    renamed={r"^embed_out\.": "lm_head."},
)

ARCHITECTURES = (GPT, GPT2, OPT, LLAMA, NEOX)
