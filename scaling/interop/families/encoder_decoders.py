"""Encoder-decoder classes of transformers: T5, Switch and BART."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scaling.config import ModelConfig
from scaling.errors import UserError
from scaling.interop.families.common import (
    HEAD,
    LEARNED,
    OFFSET,
    OWN_HEAD,
    TORCH_EPSILON,
    init_std,
    init_std_back,
)
from scaling.interop.family import Family, Rule, linear, norm
from scaling.interop.fields import ACTIVATIONS, Fields, Pair, Settings
from scaling.interop.layouts import LINEAR, LINEAR_FROM_HEADS, TABLE, Tensor, beside, per_expert

SIDES = ("encoder", "decoder")
TABLE_OF_TOKENS = "shared.weight"
SHARED = {
    f"{side}.embed_tokens.weight": TABLE_OF_TOKENS for side in SIDES
} | {HEAD: TABLE_OF_TOKENS}


def _attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    """T5's queries, keys, values and output."""
    return (
        *linear(f"{theirs}.q", f"{ours}.query"), *linear(f"{theirs}.k", f"{ours}.key"),
        *linear(f"{theirs}.v", f"{ours}.value"),
        *linear(f"{theirs}.o", f"{ours}.out", LINEAR_FROM_HEADS),
    )


def _t5_block(side: str, feed_forward: str) -> tuple[Rule, ...]:
    """What T5 and Switch have in each layer of one side, where branches are numbered."""
    theirs, ours = f"{side}.block.{{layer}}.layer", f"{side}.stack.{{layer}}"
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
        # One for all layers, which theirs keep in the first.
        Rule(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
             f"{side}.bias.table", TABLE),
        *norm(f"{side}.final_layer_norm", f"{side}.norm"),
    )


def _t5_up(side: str) -> tuple[Rule, ...]:
    """Where it is gated wi_0 is the gate, and wi_1 what plain models call wi."""
    last = 2 if side == "decoder" else 1
    theirs = f"{side}.block.{{layer}}.layer.{last}.DenseReluDense"
    gate, up = (f"{side}.stack.{{layer}}.feed_forward.{part}.weight" for part in ("gate", "up"))
    return (
        Rule(f"{theirs}.wi.weight", up, unless=gate),
        Rule((f"{theirs}.wi_0.weight", f"{theirs}.wi_1.weight"), (gate, up), beside(LINEAR)),
    )


T5_PAIRS = (
    Pair("vocab_size", "vocab_size"),
    Pair("d_model", "d_model"),
    Pair("d_kv", "d_head"),
    Pair("d_ff", "d_ff"),
    Pair("num_heads", "n_heads"),
    Pair("num_layers", "n_encoder_layers"),
    Pair("relative_attention_num_buckets", "relative_buckets", 32),
    Pair("relative_attention_max_distance", "relative_max_distance", 128),
    Pair("dropout_rate", "dropout", 0.1),
    Pair("layer_norm_epsilon", "norm_epsilon", 1e-6),
    # Relative positions set no limit; this one is where pretraining stopped.
    Pair("n_positions", "context", 512),
    Pair("tie_word_embeddings", "tied_head", True),
)
T5_OURS = {
    "mode": "encoder-decoder", "positions": "relative", "norm": "rms", "biases": False,
    "scale_embedding": False, "scale_attention": False,
}


def _t5_layers(theirs: Settings) -> Settings:
    """Layers of the decoder, by default as many as the encoder's."""
    return {"n_layers": theirs.get("num_decoder_layers") or theirs["num_layers"]}


def _t5(theirs: Settings) -> Settings:
    """Whether hidden states are scaled before the vocabulary: where the head is tied, unless the
    configuration says something of it (transformers 5)."""
    tied = theirs.get("tie_word_embeddings")
    scaled = theirs.get("scale_decoder_outputs")
    scaled = tied is not False if scaled is None else scaled
    return _t5_layers(theirs) | {"scale_output": scaled}


def _t5_by_weights(theirs: Settings, tensors: Mapping[str, Tensor]) -> Settings:
    """transformers 5 says of every T5 that its head is tied, and leaves a file's own output matrix
    (v1.1) where it is; only scale_decoder_outputs tells that it wrote the configuration."""
    head, table = tensors.get(HEAD), tensors.get(TABLE_OF_TOKENS)
    parted = head is not None and table is not None and not np.array_equal(head, table)
    if parted and theirs.get("scale_decoder_outputs") is not None:
        return theirs | {"tie_word_embeddings": False}
    return theirs


def _t5_back(config: ModelConfig) -> Settings:
    return {"num_decoder_layers": config.decoder_layers, "is_encoder_decoder": True,
            "scale_decoder_outputs": config.scale_output}


T5 = Family(
    architecture="T5ForConditionalGeneration",
    fields=Fields(
        "t5",
        (*T5_PAIRS, Pair("feed_forward_proj", "activation", "relu", {
            "relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu", "gelu_new": "gelu",
            "gelu": "gelu_exact"})),
        ours=T5_OURS,
        to_ours=_t5,
        to_theirs=_t5_back,
    ),
    rules=(
        Rule(TABLE_OF_TOKENS, "embedding", TABLE),
        *(rule for side in SIDES for rule in _t5_block(side, "DenseReluDense")),
        *(rule for side in SIDES for rule in _t5_up(side)),
        OWN_HEAD,
    ),
    copies=SHARED,
    # Of no effect, as every decoder reads the bias of its first layer's self-attention.
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    amended=_t5_by_weights,
)


def _switch(theirs: Settings) -> Settings:
    """Theirs counts layers with experts on each side, and sets them evenly; ours says how often."""
    ours = _t5_layers(theirs)
    layers = {"encoder": theirs["num_layers"], "decoder": ours["n_layers"]}
    every = {layers[side] // sparse if (sparse := theirs.get(f"num_sparse_{side}_layers", 3))
             else 0 for side in SIDES}
    if every not in ({1}, {2}):
        raise UserError(
            "SwitchTransformersForConditionalGeneration: experts in every layer or in every other, "
            "on both sides alike, can be converted; here num_layers over num_sparse_encoder_layers "
            f"and the decoder's give {sorted(every)}")
    experts = {
        "count": theirs["num_experts"], "capacity": theirs["expert_capacity"],
        "every": every.pop(), "balance_weight": theirs.get("router_aux_loss_coef", 0.001),
        "z_weight": theirs.get("router_z_loss_coef", 0.001),
    }
    tied = theirs.get("tie_word_embeddings") is not False
    return ours | {"experts": experts, "scale_output": tied}


def _switch_back(config: ModelConfig) -> Settings:
    experts = config.experts
    if experts is None or experts.capacity is None:
        raise UserError("SwitchTransformersForConditionalGeneration needs experts with a capacity "
                        "in tokens; set experts.capacity, or name another architecture")
    return {
        "num_decoder_layers": config.decoder_layers, "is_encoder_decoder": True,
        "num_experts": experts.count, "expert_capacity": experts.capacity,
        "num_sparse_encoder_layers": config.encoder_layers // experts.every,
        "num_sparse_decoder_layers": config.decoder_layers // experts.every,
        "router_aux_loss_coef": experts.balance_weight, "router_z_loss_coef": experts.z_weight,
    }


def _switch_experts(side: str) -> tuple[Rule, ...]:
    """The feed-forward layers and the router of one side."""
    theirs = f"{side}.block.{{layer}}.layer.{2 if side == 'decoder' else 1}.mlp"
    ours = f"{side}.stack.{{layer}}.feed_forward"
    expert = f"{theirs}.experts.expert_{{expert}}"
    return (
        Rule(f"{theirs}.wi.weight", f"{ours}.up.weight"),
        Rule(f"{theirs}.router.classifier.weight", f"{ours}.router.weight"),
        Rule(f"{expert}.wi.weight", f"{ours}.up", per_expert(LINEAR)),
        Rule(f"{expert}.wo.weight", f"{ours}.down", per_expert(LINEAR)),
    )


SWITCH = Family(
    architecture="SwitchTransformersForConditionalGeneration",
    fields=Fields(
        "switch_transformers",
        (*T5_PAIRS, Pair("dense_act_fn", "activation", "relu", ACTIVATIONS)),
        ours=T5_OURS,
        # Files of transformers 4 have feed_forward_proj too: it must not be gated.
        demands={"router_bias": False, "router_ignore_padding_tokens": False,
                 "is_gated_act": False},
        to_ours=_switch,
        to_theirs=_switch_back,
    ),
    rules=(
        Rule(TABLE_OF_TOKENS, "embedding", TABLE),
        *(rule for side in SIDES for rule in _t5_block(side, "mlp")),
        *(rule for side in SIDES for rule in _switch_experts(side)),
        OWN_HEAD,
    ),
    copies=SHARED,
)


def _bart(theirs: Settings) -> Settings:
    """One number of heads and one width for both sides."""
    for part in ("attention_heads", "ffn_dim"):
        sides = [theirs[f"{side}_{part}"] for side in SIDES]
        if sides[0] != sides[1]:
            raise UserError(f"BartForConditionalGeneration: encoder_{part} is {sides[0]} and "
                            f"decoder_{part} {sides[1]}; our two sides have one shape, so choose "
                            "another model")
    return init_std(theirs)


def _bart_back(config: ModelConfig) -> Settings:
    return init_std_back(config) | {
        "decoder_attention_heads": config.n_heads, "decoder_ffn_dim": config.ff_width,
        "is_encoder_decoder": True,
    }


def _bart_side(side: str) -> tuple[Rule, ...]:
    """Embeddings and layers of one side."""
    theirs, ours = f"model.{side}.layers.{{layer}}", f"{side}.stack.{{layer}}"
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


BART = Family(
    architecture="BartForConditionalGeneration",
    fields=Fields(
        "bart",
        (
            Pair("vocab_size", "vocab_size"),
            Pair("max_position_embeddings", "context"),
            Pair("d_model", "d_model"),
            Pair("encoder_layers", "n_encoder_layers"),
            Pair("decoder_layers", "n_layers"),
            Pair("encoder_attention_heads", "n_heads"),
            Pair("encoder_ffn_dim", "d_ff"),
            Pair("activation_function", "activation", "gelu", ACTIVATIONS),
            Pair("dropout", "dropout", 0.1),
            Pair("attention_dropout", "attention_dropout", 0.0),
            Pair("scale_embedding", "scale_embedding", False),
            Pair("tie_word_embeddings", "tied_head", True),
        ),
        ours={**LEARNED, "mode": "encoder-decoder", "position_offset": OFFSET,
              "norm_place": "post", "norm_epsilon": TORCH_EPSILON, "embedding_norm": True},
        # Of older files, whose class had these as settings.
        demands={"normalize_before": False, "add_final_layer_norm": False,
                 "normalize_embedding": True},
        to_ours=_bart,
        to_theirs=_bart_back,
    ),
    rules=(
        Rule("model.shared.weight", "embedding", TABLE),
        *(rule for side in SIDES for rule in _bart_side(side)),
        OWN_HEAD,
    ),
    copies={
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        HEAD: "model.shared.weight",
    },
    noughts={"final_logits_bias": lambda config: (1, config.vocabulary)},
    ignored=(r"model\.(encoder|decoder)\.version",),
    older={r"^(?!model\.|lm_head\.|final_logits_bias)": "model."},
)

FAMILIES = (T5, SWITCH, BART)
