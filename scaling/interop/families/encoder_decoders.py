"""Encoder-decoder classes of transformers: T5, Switch and BART."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scaling.config import ModelConfig
from scaling.errors import UserError
from scaling.interop.architecture import HFArchitecture, Rule, linear, norm
from scaling.interop.families.common import (
    HEAD,
    LEARNED,
    OFFSET,
    OWN_HEAD,
    TORCH_EPSILON,
    init_from_std,
    init_std_setting,
)
from scaling.interop.layouts import (
    LINEAR,
    LINEAR_FROM_HEADS,
    TABLE,
    NumpyArray,
    one_to_one,
    per_expert,
)
from scaling.interop.settings import (
    ACTIVATIONS,
    HFSetting,
    Settings,
    SettingsTable,
    flag,
    number,
    positive_integer,
)

SIDES = ("encoder", "decoder")
TABLE_OF_TOKENS = "shared.weight"
SHARED = {
    f"{side}.embed_tokens.weight": TABLE_OF_TOKENS for side in SIDES
} | {HEAD: TABLE_OF_TOKENS}


def _attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Rules for T5's query, key, value and output projections."""
    return (
        *linear(f"{theirs}.q", f"{ours}.query"), *linear(f"{theirs}.k", f"{ours}.key"),
        *linear(f"{theirs}.v", f"{ours}.value"),
        *linear(f"{theirs}.o", f"{ours}.out", LINEAR_FROM_HEADS),
    )


def _t5_block(side: str, feed_forward: str) -> tuple[Rule, ...]:
    """Rules for what T5 and Switch have in each layer of an encoder or decoder, where branches are
    numbered."""
    theirs, ours = f"{side}.block.{{layer}}.layer", f"{side}.layers.{{layer}}"
    last = 2 if side == "decoder" else 1
    cross = (
        *_attention(f"{theirs}.1.EncDecAttention", f"{ours}.cross"),
        *norm(f"{theirs}.1.layer_norm", f"{ours}.cross_norm"),
    )
    inner, wide = f"{theirs}.{last}.{feed_forward}", f"{ours}.feed_forward"
    return (
        *_attention(f"{theirs}.0.SelfAttention", f"{ours}.attention"),
        *norm(f"{theirs}.0.layer_norm", f"{ours}.attention_norm"),
        *(cross if side == "decoder" else ()),
        *norm(f"{theirs}.{last}.layer_norm", f"{ours}.feed_forward_norm"),
        *linear(f"{inner}.wo", f"{wide}.down"),
        # One table for all layers, which they save in the first layer.
        Rule(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
             f"{side}.relative_bias.table", TABLE),
        *norm(f"{side}.final_layer_norm", f"{side}.norm"),
    )


def _t5_up(side: str) -> tuple[Rule, ...]:
    """Rules for the input projections of the feed-forward layer. In gated models wi_0 is the gate,
    and wi_1 corresponds to wi of other models."""
    last = 2 if side == "decoder" else 1
    theirs = f"{side}.block.{{layer}}.layer.{last}.DenseReluDense"
    gate, up = (f"{side}.layers.{{layer}}.feed_forward.{part}.weight" for part in ("gate", "up"))
    return (
        Rule(f"{theirs}.wi.weight", up, unless=gate),
        Rule((f"{theirs}.wi_0.weight", f"{theirs}.wi_1.weight"), (gate, up), one_to_one(LINEAR)),
    )


T5_PAIRS = (
    HFSetting("vocab_size", "vocab_size"),
    HFSetting("d_model", "d_model"),
    HFSetting("d_kv", "d_head"),
    HFSetting("d_ff", "d_ff"),
    HFSetting("num_heads", "n_heads"),
    HFSetting("num_layers", "n_encoder_layers"),
    HFSetting("relative_attention_num_buckets", "relative_buckets", 32),
    HFSetting("relative_attention_max_distance", "relative_max_distance", 128),
    HFSetting("dropout_rate", "dropout", 0.1),
    HFSetting("layer_norm_epsilon", "norm_epsilon", 1e-6),
    # Relative positions have no limit; this is the length in pretraining.
    HFSetting("n_positions", "context", 512),
    HFSetting("tie_word_embeddings", "tied_head", True),
)
T5_OURS = {
    "mode": "encoder-decoder", "positions": "relative", "norm": "rms", "use_bias": False,
    "scale_embedding": False, "scale_attention": False,
}


def _t5_layers(theirs: Settings) -> Settings:
    """Number of decoder layers, by default that of encoder layers."""
    return {"n_layers": number(theirs, "num_decoder_layers", 0) or number(theirs, "num_layers")}


def _t5(theirs: Settings) -> Settings:
    """Whether hidden states are scaled before the output matrix: if the head is tied, unless the
    configuration has a setting for it (transformers 5)."""
    tied = flag(theirs, "tie_word_embeddings") is not False
    return _t5_layers(theirs) | {"scale_output": flag(theirs, "scale_decoder_outputs", tied)}


def _t5_by_weights(theirs: Settings, tensors: Mapping[str, NumpyArray]) -> Settings:
    """Correct tie_word_embeddings from the tensors. transformers 5 sets it for every T5, also if
    the file has an output matrix of its own (v1.1); only scale_decoder_outputs shows that
    transformers 5 wrote the configuration."""
    head, table = tensors.get(HEAD), tensors.get(TABLE_OF_TOKENS)
    parted = head is not None and table is not None and not np.array_equal(head, table)
    if parted and theirs.get("scale_decoder_outputs") is not None:
        return theirs | {"tie_word_embeddings": False}
    return theirs


def _t5_back(config: ModelConfig) -> Settings:
    return {"num_decoder_layers": config.decoder_layers, "is_encoder_decoder": True,
            "scale_decoder_outputs": config.scale_output}


T5 = HFArchitecture(
    name="T5ForConditionalGeneration",
    settings=SettingsTable(
        "t5",
        (*T5_PAIRS, HFSetting("feed_forward_proj", "activation", "relu", {
            "relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu", "gelu_new": "gelu",
            "gelu": "gelu_exact"})),
        fixed=T5_OURS,
        extra_config=_t5,
        extra_settings=_t5_back,
    ),
    rules=(
        Rule(TABLE_OF_TOKENS, "embedding", TABLE),
        *(rule for side in SIDES for rule in _t5_block(side, "DenseReluDense")),
        *(rule for side in SIDES for rule in _t5_up(side)),
        OWN_HEAD,
    ),
    aliases=SHARED,
    # Without effect: decoders use the bias of the self-attention of their first layer.
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    adjust_settings=_t5_by_weights,
)


def _switch(theirs: Settings) -> Settings:
    """Convert the number of layers with experts, which are evenly spaced, to our interval."""
    ours = _t5_layers(theirs)
    layers = {"encoder": number(theirs, "num_layers"), "decoder": ours["n_layers"]}
    every = {layers[side] // sparse
             if (sparse := number(theirs, f"num_sparse_{side}_layers", 3)) else 0
             for side in SIDES}
    if every not in ({1}, {2}):
        raise UserError(
            "only experts in every layer or in every second layer, the same in encoder and "
            "decoder, can be converted; here num_layers over num_sparse_encoder_layers and the "
            f"decoder's give {sorted(every)}; choose another model")
    experts = {
        "count": positive_integer(theirs, "num_experts"),
        "capacity": positive_integer(theirs, "expert_capacity"),
        "every": int(every.pop()),
        "balance_weight": number(theirs, "router_aux_loss_coef", 0.001),
        "z_weight": number(theirs, "router_z_loss_coef", 0.001),
    }
    tied = flag(theirs, "tie_word_embeddings") is not False
    return ours | {"experts": experts, "scale_output": tied}


def _switch_back(config: ModelConfig) -> Settings:
    experts = config.experts
    if experts is None or experts.capacity is None:
        raise UserError("SwitchTransformersForConditionalGeneration needs experts with a capacity "
                        "in tokens; set experts.capacity, or choose another architecture")
    return {
        "num_decoder_layers": config.decoder_layers, "is_encoder_decoder": True,
        "num_experts": experts.count, "expert_capacity": experts.capacity,
        "num_sparse_encoder_layers": config.encoder_layers // experts.every,
        "num_sparse_decoder_layers": config.decoder_layers // experts.every,
        "router_aux_loss_coef": experts.balance_weight, "router_z_loss_coef": experts.z_weight,
    }


def _switch_experts(side: str) -> tuple[Rule, ...]:
    """Rules for the feed-forward layers, experts and routers of an encoder or decoder."""
    theirs = f"{side}.block.{{layer}}.layer.{2 if side == 'decoder' else 1}.mlp"
    ours = f"{side}.layers.{{layer}}.feed_forward"
    expert = f"{theirs}.experts.expert_{{expert}}"
    return (
        Rule(f"{theirs}.wi.weight", f"{ours}.up.weight"),
        Rule(f"{theirs}.router.classifier.weight", f"{ours}.router.weight"),
        Rule(f"{expert}.wi.weight", f"{ours}.up", per_expert(LINEAR)),
        Rule(f"{expert}.wo.weight", f"{ours}.down", per_expert(LINEAR)),
    )


SWITCH = HFArchitecture(
    name="SwitchTransformersForConditionalGeneration",
    settings=SettingsTable(
        "switch_transformers",
        (*T5_PAIRS, HFSetting("dense_act_fn", "activation", "relu", ACTIVATIONS)),
        fixed=T5_OURS,
        # Files of transformers 4 also have feed_forward_proj, which must not be gated.
        required={"router_bias": False, "router_ignore_padding_tokens": False,
                 "is_gated_act": False},
        extra_config=_switch,
        extra_settings=_switch_back,
    ),
    rules=(
        Rule(TABLE_OF_TOKENS, "embedding", TABLE),
        *(rule for side in SIDES for rule in _t5_block(side, "mlp")),
        *(rule for side in SIDES for rule in _switch_experts(side)),
        OWN_HEAD,
    ),
    aliases=SHARED,
)


def _bart(theirs: Settings) -> Settings:
    """Check that encoder and decoder have equal numbers of heads and feed-forward widths."""
    for part in ("attention_heads", "ffn_dim"):
        sides = [number(theirs, f"{side}_{part}") for side in SIDES]
        if sides[0] != sides[1]:
            raise UserError(f"encoder_{part} is {sides[0]} and decoder_{part} is {sides[1]}, and "
                            "only equal values are supported; choose another model")
    return init_from_std(theirs)


def _bart_back(config: ModelConfig) -> Settings:
    return init_std_setting(config) | {
        "decoder_attention_heads": config.n_heads, "decoder_ffn_dim": config.ff_width,
        "is_encoder_decoder": True,
    }


def _bart_side(side: str) -> tuple[Rule, ...]:
    """Rules for the embeddings and layers of an encoder or decoder."""
    theirs, ours = f"model.{side}.layers.{{layer}}", f"{side}.layers.{{layer}}"
    attentions = [("self_attn", "attention"), ("encoder_attn", "cross")]
    rules = [
        Rule(f"model.{side}.embed_positions.weight", f"{side}.positions", TABLE),
        *norm(f"model.{side}.layernorm_embedding", f"{side}.embedding_norm"),
        *linear(f"{theirs}.fc1", f"{ours}.feed_forward.up"),
        *linear(f"{theirs}.fc2", f"{ours}.feed_forward.down"),
        *norm(f"{theirs}.final_layer_norm", f"{ours}.feed_forward_norm"),
    ]
    for name, attention in attentions:
        for part in ("query", "key", "value"):
            rules += linear(f"{theirs}.{name}.{part[0]}_proj", f"{ours}.{attention}.{part}")
        rules += linear(f"{theirs}.{name}.out_proj", f"{ours}.{attention}.out", LINEAR_FROM_HEADS)
        rules += norm(f"{theirs}.{name}_layer_norm", f"{ours}.{attention}_norm")
    return tuple(rules)


BART = HFArchitecture(
    name="BartForConditionalGeneration",
    settings=SettingsTable(
        "bart",
        (
            HFSetting("vocab_size", "vocab_size"),
            HFSetting("max_position_embeddings", "context"),
            HFSetting("d_model", "d_model"),
            HFSetting("encoder_layers", "n_encoder_layers"),
            HFSetting("decoder_layers", "n_layers"),
            HFSetting("encoder_attention_heads", "n_heads"),
            HFSetting("encoder_ffn_dim", "d_ff"),
            HFSetting("activation_function", "activation", "gelu", ACTIVATIONS),
            HFSetting("dropout", "dropout", 0.1),
            HFSetting("attention_dropout", "attention_dropout", 0.0),
            HFSetting("scale_embedding", "scale_embedding", False),
            HFSetting("tie_word_embeddings", "tied_head", True),
        ),
        fixed={**LEARNED, "mode": "encoder-decoder", "position_offset": OFFSET,
              "norm_place": "post", "norm_epsilon": TORCH_EPSILON, "embedding_norm": True},
        # Settings of older files.
        required={"normalize_before": False, "add_final_layer_norm": False,
                 "normalize_embedding": True},
        extra_config=_bart,
        extra_settings=_bart_back,
    ),
    rules=(
        Rule("model.shared.weight", "embedding", TABLE),
        *(rule for side in SIDES for rule in _bart_side(side)),
        OWN_HEAD,
    ),
    aliases={
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        HEAD: "model.shared.weight",
    },
    zeros={"final_logits_bias": lambda config: (1, config.vocabulary)},
    ignored=(r"model\.(encoder|decoder)\.version",),
    renamed={r"^(?!model\.|lm_head\.|final_logits_bias)": "model."},
)

ARCHITECTURES = (T5, SWITCH, BART)
