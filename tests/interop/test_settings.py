"""What each setting of transformers' configurations means, one name at a time and by hand.

The logits of the goldens depend on none of the settings that only training reads (dropout,
initialisation, weights of the routers' losses), and a configuration that was saved with a model
leaves nothing out. Here a configuration has its sizes only.
"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from scaling.config import ModelConfig
from scaling.errors import UserError
from scaling.interop.families import ARCHITECTURES
from scaling.interop.settings import to_model_config, to_settings

pytestmark = pytest.mark.quick

_BERT = {
    "vocab_size": 11,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 9,
}
_GPT = {"vocab_size": 11, "n_positions": 9, "n_embd": 12, "n_layer": 2, "n_head": 3}
_T5 = {"vocab_size": 11, "d_model": 12, "d_kv": 6, "d_ff": 20, "num_heads": 3, "num_layers": 6}
SIZES: dict[str, dict[str, Any]] = {
    "BertForPreTraining": _BERT,
    "BertForMaskedLM": _BERT,
    "BertModel": _BERT,
    "RobertaForMaskedLM": _BERT,
    "AlbertForPreTraining": _BERT,
    "AlbertForMaskedLM": _BERT,
    "ElectraForPreTraining": _BERT,
    "ElectraForMaskedLM": _BERT,
    "DistilBertForMaskedLM": {
        "vocab_size": 11,
        "dim": 12,
        "n_layers": 2,
        "n_heads": 3,
        "hidden_dim": 20,
        "max_position_embeddings": 9,
    },
    "OpenAIGPTLMHeadModel": _GPT,
    "GPT2LMHeadModel": _GPT,
    "OPTForCausalLM": {
        "vocab_size": 11,
        "max_position_embeddings": 9,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "ffn_dim": 20,
    },
    "LlamaForCausalLM": _BERT,
    "GPTNeoXForCausalLM": _BERT | {"hidden_size": 24},
    "T5ForConditionalGeneration": _T5,
    "SwitchTransformersForConditionalGeneration": _T5 | {"num_experts": 4, "expert_capacity": 5},
    "BartForConditionalGeneration": {
        "vocab_size": 11,
        "max_position_embeddings": 9,
        "d_model": 12,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 3,
        "encoder_ffn_dim": 20,
        "decoder_attention_heads": 3,
        "decoder_ffn_dim": 20,
    },
}

_BERTS = {
    "n_token_types": 2,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "norm_epsilon": 1e-12,
    "activation": "gelu_exact",
    "tied_head": True,
    "position_offset": 0,
}
_ALBERTS = _BERTS | {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation": "gelu",
    "embedding_width": 128,
}
_GPTS = {
    "norm_epsilon": 1e-5,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "tied_head": True,
    "activation": "gelu",
    "ff_width": 48,
}
_T5S = {
    "relative_buckets": 32,
    "relative_max_distance": 128,
    "dropout": 0.1,
    "context": 512,
    "norm_epsilon": 1e-6,
    "tied_head": True,
    "activation": "relu",
    "decoder_layers": 6,
    "scale_output": True,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "BertForPreTraining": _BERTS,
    "BertForMaskedLM": _BERTS,
    "BertModel": _BERTS,
    "RobertaForMaskedLM": _BERTS | {"position_offset": 2, "context": 7},
    "AlbertForPreTraining": _ALBERTS,
    "AlbertForMaskedLM": _ALBERTS,
    "ElectraForPreTraining": _BERTS | {"embedding_width": 128},
    "ElectraForMaskedLM": _BERTS | {"embedding_width": 128, "embedding_projection_bias": True},
    "DistilBertForMaskedLM": _BERTS | {"n_token_types": 0},
    "OpenAIGPTLMHeadModel": _GPTS | {"norm_place": "post"},
    "GPT2LMHeadModel": _GPTS | {"norm_place": "pre", "scale_attention": True},
    "OPTForCausalLM": {
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation": "relu",
        "norm_place": "pre",
        "tied_head": True,
        "norm_epsilon": 1e-5,
        "position_offset": 2,
        "embedding_width": 12,
    },
    "LlamaForCausalLM": {
        "norm_epsilon": 1e-6,
        "attention_dropout": 0.0,
        "tied_head": False,
        "activation": "swiglu",
        "rotary_base": 10_000.0,
        "kv_heads": 3,
        "head_width": 4,
        "rotary_fraction": 1.0,
    },
    "GPTNeoXForCausalLM": {
        "norm_epsilon": 1e-5,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "parallel": "two_norms",
        "tied_head": False,
        "rotary_fraction": 0.25,
        "rotary_base": 10_000.0,
        "activation": "gelu_exact",
    },
    "T5ForConditionalGeneration": _T5S,
    "SwitchTransformersForConditionalGeneration": _T5S,
    "BartForConditionalGeneration": {
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation": "gelu_exact",
        "tied_head": True,
        "scale_embedding": False,
        "norm_epsilon": 1e-5,
        "position_offset": 2,
        "context": 9,
        "source_length": 9,
        "encoder_layers": 1,
        "decoder_layers": 2,
    },
}
"""The defaults of the classes' configurations in transformers."""

DROPOUT = {
    "Bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "Roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "Albert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "Electra": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "DistilBert": ("dropout", "attention_dropout"),
    "OpenAIGPT": ("resid_pdrop", "attn_pdrop"),
    "GPT2": ("resid_pdrop", "attn_pdrop"),
    "OPT": ("dropout", "attention_dropout"),
    "Llama": (None, "attention_dropout"),
    "GPTNeoX": ("hidden_dropout", "attention_dropout"),
    "T5": ("dropout_rate", None),
    "SwitchTransformers": ("dropout_rate", None),
    "Bart": ("dropout", "attention_dropout"),
}
"""By the first part of a class's name, the rate of the residual stream and that of attention."""


def ours(architecture: str, **theirs: Any) -> Any:
    return to_model_config(
        ARCHITECTURES[architecture].settings, architecture, SIZES[architecture] | theirs
    )


def back(architecture: str, config: Any) -> dict[str, Any]:
    return to_settings(ARCHITECTURES[architecture].settings, architecture, config)


def family(architecture: str) -> str:
    """The first part of a class's name."""
    return max((name for name in DROPOUT if architecture.startswith(name)), key=len)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_left_out_is_what_transformers_takes_then(architecture):
    config = ours(architecture)
    for name, value in DEFAULTS[architecture].items():
        assert getattr(config, name) == value, name
    assert (config.init.std, config.init.residual) == (None, "scaled")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_rate_of_dropout_goes_to_its_place_and_back(architecture):
    stream, attention = DROPOUT[family(architecture)]
    given = {name: rate for name, rate in ((stream, 0.3), (attention, 0.2)) if name}
    config = ours(architecture, **given)
    assert config.dropout == (0.3 if stream else 0)
    assert config.attention_dropout_rate == (0.2 if attention else 0.3)
    theirs = back(architecture, config)
    assert {name: theirs[name] for name in given} == given
    if "GPT" in architecture and "Neo" not in architecture:
        assert theirs["embd_pdrop"] == 0.3  # our embedded input has the rate of the stream


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_standard_deviation_at_the_start_goes_there_and_back(architecture):
    name = "init_std" if family(architecture) in ("OPT", "Bart") else "initializer_range"
    config = ours(architecture, **{name: 0.03})
    assert config.init.std == 0.03
    assert config.init.residual == "plain"
    assert back(architecture, config)[name] == 0.03


def test_each_setting_of_switchs_experts_goes_to_its_place_and_back():
    architecture = "SwitchTransformersForConditionalGeneration"
    default = ours(architecture).experts
    assert (default.every, default.balance_weight, default.z_weight) == (2, 0.001, 0.001)
    assert (default.top_k, default.renormalise) == (1, False)
    theirs = {
        "num_experts": 4,
        "expert_capacity": 5,
        "router_aux_loss_coef": 0.3,
        "router_z_loss_coef": 0.2,
        "num_decoder_layers": 4,
        "num_sparse_encoder_layers": 3,
        "num_sparse_decoder_layers": 2,
    }
    config = ours(architecture, **theirs)
    experts = config.experts
    assert (config.encoder_layers, config.decoder_layers) == (6, 4)
    assert (experts.count, experts.capacity, experts.every) == (4, 5, 2)
    assert (experts.balance_weight, experts.z_weight) == (0.3, 0.2)
    found = back(architecture, config)
    assert {name: found[name] for name in theirs} == theirs


def test_a_roberta_without_padding_begins_at_its_first_row():
    config = ours("RobertaForMaskedLM", pad_token_id=4)
    assert (config.position_offset, config.context) == (5, 4)
    theirs = back("RobertaForMaskedLM", config)
    assert (theirs["pad_token_id"], theirs["max_position_embeddings"]) == (4, 9)


_ENCODER = {"position_embedding_type": "relative_key", "is_decoder": True,
            "add_cross_attention": True}
UNSUPPORTED: dict[str, dict[str, Any]] = {
    "Bert": _ENCODER, "Roberta": _ENCODER, "Electra": _ENCODER,
    "Albert": _ENCODER | {"num_hidden_groups": 2, "inner_group_num": 2},
    "DistilBert": {"is_decoder": True, "add_cross_attention": True}, "OpenAIGPT": {},
    "GPT2": {"scale_attn_by_inverse_layer_idx": True, "add_cross_attention": True},
    "OPT": {"enable_bias": False, "layer_norm_elementwise_affine": False,
            "_remove_final_layer_norm": True},
    "Llama": {"attention_bias": True, "mlp_bias": True}, "GPTNeoX": {"attention_bias": False},
    "T5": {}, "SwitchTransformers": {"router_bias": True, "router_ignore_padding_tokens": True,
                                     "is_gated_act": True},
    "Bart": {"normalize_before": True, "add_final_layer_norm": True, "normalize_embedding": False,
             "decoder_attention_heads": 6, "decoder_ffn_dim": 24},
}
"""By the first part of a class's name, settings with which a model computes what ours cannot."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_our_models_cannot_compute_is_refused(architecture):
    for name, value in UNSUPPORTED[family(architecture)].items():
        with pytest.raises(UserError, match=name):
            ours(architecture, **{name: value})
        if isinstance(value, bool):
            ours(architecture, **{name: not value})


_ANY = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_exact", "relu": "relu",
        "relu2": "squared_relu"}
ACTIVATION: dict[str, tuple[str, dict[str, str]]] = {
    "BertForPreTraining": ("hidden_act", _ANY), "AlbertForPreTraining": ("hidden_act", _ANY),
    "ElectraForPreTraining": ("hidden_act", _ANY), "DistilBertForMaskedLM": ("activation", _ANY),
    # Heads that are always the exact one.
    "RobertaForMaskedLM": ("hidden_act", {"gelu": "gelu_exact"}),
    "ElectraForMaskedLM": ("hidden_act", {"gelu": "gelu_exact"}),
    "OpenAIGPTLMHeadModel": ("afn", {"gelu": "gelu", "gelu_new": "gelu", "relu": "relu"}),
    "GPT2LMHeadModel": ("activation_function", _ANY),
    "OPTForCausalLM": ("activation_function", _ANY), "LlamaForCausalLM": ("hidden_act", {
        "silu": "swiglu"}), "GPTNeoXForCausalLM": ("hidden_act", _ANY),
    "T5ForConditionalGeneration": ("feed_forward_proj", {
        "relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu", "gelu_new": "gelu",
        "gelu": "gelu_exact"}),
    "SwitchTransformersForConditionalGeneration": ("dense_act_fn", _ANY),
    "BartForConditionalGeneration": ("activation_function", _ANY),
}
"""The setting of the activation, and what its values mean: "gelu" is the exact one, but in GPT."""


@pytest.mark.parametrize("architecture", ACTIVATION)
def test_activations_are_those_of_the_same_formula(architecture):
    name, values = ACTIVATION[architecture]
    for theirs, activation in values.items():
        config = ours(architecture, **{name: theirs})
        assert config.activation == activation
        assert values[back(architecture, config)[name]] == activation
    for other in {*_ANY, "tanh", "silu"} - values.keys():
        with pytest.raises(UserError, match=name):
            ours(architecture, **{name: other})


CHOICES: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "OPTForCausalLM": [
        ({"do_layer_norm_before": False}, {"norm_place": "post"}),
        ({"word_embed_proj_dim": 6}, {"embedding_width": 6, "embedding_projection": "first"})],
    "GPT2LMHeadModel": [({"scale_attn_weights": False}, {"scale_attention": False}),
                        ({"n_inner": 30}, {"ff_width": 30}),
                        ({"tie_word_embeddings": False}, {"tied_head": False})],
    "GPTNeoXForCausalLM": [
        ({"use_parallel_residual": False}, {"parallel": "no"}),
        ({"tie_word_embeddings": True}, {"tied_head": True})],
    "LlamaForCausalLM": [
        ({"num_key_value_heads": 1, "head_dim": 6}, {"kv_heads": 1, "head_width": 6}),
        ({"tie_word_embeddings": True}, {"tied_head": True})],
    "BartForConditionalGeneration": [({"scale_embedding": True}, {"scale_embedding": True})],
    "T5ForConditionalGeneration": [
        ({"num_decoder_layers": 3}, {"decoder_layers": 3, "encoder_layers": 6}),
        ({"relative_attention_num_buckets": 16, "relative_attention_max_distance": 64},
         {"relative_buckets": 16, "relative_max_distance": 64})],
    "BertForPreTraining": [({"type_vocab_size": 3}, {"n_token_types": 3}),
                           ({"layer_norm_eps": 1e-3}, {"norm_epsilon": 1e-3})],
    "AlbertForPreTraining": [({"embedding_size": 6}, {"embedding_width": 6,
                                                      "embedding_projection_bias": True})],
    "ElectraForPreTraining": [({"embedding_size": 12}, {"embedding_width": 12,
                                                        "embedding_projection_bias": False})],
}
"""Choices of the classes, as their settings and as ours."""


@pytest.mark.parametrize("architecture", CHOICES)
def test_choices_go_there_and_back(architecture):
    for theirs, expected in CHOICES[architecture]:
        config = ours(architecture, **theirs)
        assert {name: getattr(config, name) for name in expected} == expected
        found = back(architecture, config)
        assert {name: found[name] for name in theirs} == theirs


CHANGES: list[dict[str, Any]] = [
    {"norm": "rms"}, {"norm": "layer"}, {"norm_epsilon": 0.5}, {"norm_place": "post"},
    {"norm_place": "pre"}, {"final_norm": True}, {"final_norm": False}, {"embedding_norm": True},
    {"embedding_norm": False}, {"activation": "squared_relu"}, {"activation": "geglu"},
    {"parallel": "two_norms"}, {"parallel": "one_norm"}, {"use_bias": True}, {"use_bias": False},
    {"scale_attention": False}, {"share_layers": "all"}, {"share_layers": "attention"},
    {"tied_head": False}, {"tied_head": True}, {"scale_embedding": True},
    {"scale_embedding": False}, {"scale_output": True}, {"n_token_types": 5},
    {"positions": "rotary"}, {"positions": "alibi"}, {"positions": "learned"},
    {"position_offset": 7}, {"n_kv_heads": 1}, {"d_head": 10}, {"d_ff": 33}, {"d_embedding": 10},
    {"attention_pattern": "local", "window": 3}, {"rotary_pairs": "adjacent"},
    {"rotary_fraction": 0.5}, {"rotary_base": 77.0}, {"relative_buckets": 8},
    {"relative_max_distance": 99}, {"context": 13}, {"attention": "prefix"},
    {"n_encoder_layers": 4}, {"source_context": 8}, {"embedding_projection_bias": True},
    {"embedding_projection": "first"}, {"heads": [{"kind": "token", "classes": 3}]},
    {"experts": {"count": 3, "every": 1, "capacity": 4}},
    {"experts": {"count": 3, "every": 1, "capacity": 4, "top_k": 2}},
    {"experts": {"count": 3, "every": 1, "capacity": 4, "renormalise": True}},
    {"experts": {"count": 3, "every": 1}},
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_that_a_model_computes_is_lost_in_a_configuration(architecture):
    """A change of ours either comes back or is refused."""
    whole = ours(architecture)
    came_back, refused = 0, 0
    for change in CHANGES:
        try:
            config = ModelConfig(**whole.model_dump() | change)
        except ValidationError:
            continue
        try:
            theirs = back(architecture, config)
        except UserError:
            refused += 1
            continue
        again = to_model_config(ARCHITECTURES[architecture].settings, architecture, theirs)
        for name in change:
            value, other = getattr(config, name), getattr(again, name)
            # Only a table of learned positions limits a length; defaults are resolved.
            free = {"final_norm", "heads"} | (
                {"context", "source_context"} if config.positions != "learned" else set())
            assert value == other or name in free, change
        assert again.has_final_norm == config.has_final_norm
        assert again.outputs == config.outputs
        came_back += 1
    assert came_back > 3
    assert refused > 10
