"""Settings of decoders and encoder-decoders: how they are converted, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scaling.errors import UserError
from scaling.interop.convert import arrays_by_path
from scaling.interop.families import ARCHITECTURES
from scaling.interop.hf import from_tensors, to_hf
from scaling.interop.settings import to_model_config, to_settings
from tests.interop.test_goldens import GOLDENS, golden

pytestmark = pytest.mark.quick


def saved(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings and weights of a golden file, as in transformers."""
    (path,) = (path for path in GOLDENS if path.stem == name)
    it = golden(path)
    return it.settings, dict(it.weights)


def converted(architecture: str, **changes):
    settings, _ = saved(architecture)
    return to_model_config(ARCHITECTURES[architecture].settings, architecture, settings | changes)


T5, SWITCH, BART = "T5", "SwitchTransformers", "Bart"


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("LlamaForCausalLM", {"attention_bias": True}, "attention_bias is True"),
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}},
         "rope_type is 'llama3'"),
        ("LlamaForCausalLM", {"rope_parameters": None,
                              "rope_scaling": {"type": "linear", "factor": 2.0}},
         "rope_type is 'linear'"),
        ("GPTNeoXForCausalLM", {"rope_parameters": None, "rotary_pct": 0.4}, "an odd number"),
        ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx is True"),
        ("OPTForCausalLM", {"enable_bias": False}, "enable_bias is False"),
        (f"{SWITCH}ForConditionalGeneration", {"num_sparse_encoder_layers": 0},
         "every second layer"),
        (f"{SWITCH}ForConditionalGeneration", {"router_bias": True}, "router_bias is True"),
        (f"{BART}ForConditionalGeneration", {"decoder_ffn_dim": 999}, "decoder_ffn_dim is 999"),
        (f"{T5}ForConditionalGeneration", {"feed_forward_proj": "tanh"}, "feed_forward_proj"),
    ],
)
def test_unsupported_settings_are_refused(architecture, changes, message):
    with pytest.raises(UserError, match=message):
        converted(architecture, **changes)


def test_rotary_bases_are_read_from_old_and_new_files():
    old = converted("LlamaForCausalLM", rope_parameters=None, rope_theta=77.0)
    new = converted(
        "LlamaForCausalLM", rope_parameters={"rope_type": "default", "rope_theta": 77.0})
    assert old.rotary_base == new.rotary_base == 77
    neox = converted("GPTNeoXForCausalLM", rope_parameters=None, rotary_pct=0.5,
                     rotary_emb_base=55)
    assert (neox.rotary_fraction, neox.rotary_base) == (0.5, 55)


@pytest.mark.parametrize(
    ("settings", "tied", "scaled"),
    [
        ({}, True, True),  # T5
        ({"tie_word_embeddings": False}, False, False),  # T5 v1.1, as published
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, True, False),
    ],
)
def test_t5_scales_hidden_states_where_its_head_is_tied(settings, tied, scaled):
    architecture = "T5ForConditionalGeneration"
    bare = {name: value for name, value in saved(architecture)[0].items()
            if name not in ("tie_word_embeddings", "scale_decoder_outputs")}
    fields = ARCHITECTURES[architecture].settings
    ours = to_model_config(fields, architecture, bare | settings)
    assert (ours.tied_head, ours.scale_output) == (tied, scaled)
    theirs = to_settings(fields, architecture, ours)
    assert (theirs["tie_word_embeddings"], theirs["scale_decoder_outputs"]) == (tied, scaled)


def test_a_t5_of_transformers_5_is_untied_by_its_weights():
    """Version 5 writes tie_word_embeddings: true for every T5; files of version 4 are correct."""
    architecture = "T5ForConditionalGeneration"
    settings, weights = saved(f"{architecture}-v1.1")
    tied = settings | {"tie_word_embeddings": True}
    model, config = from_tensors(architecture, tied, weights)
    assert (config.tied_head, config.scale_output) == (False, False)
    np.testing.assert_array_equal(arrays_by_path(model)["heads.lm.vocabulary.weight"],
                                  weights["lm_head.weight"])
    one = weights | {"lm_head.weight": weights["shared.weight"]}
    assert from_tensors(architecture, tied, one)[1].tied_head
    del tied["scale_decoder_outputs"]
    with pytest.raises(UserError, match="tie_word_embeddings: false"):
        from_tensors(architecture, tied, weights)


@pytest.mark.parametrize(("architecture", "table"), [
    ("BartForConditionalGeneration", "model.encoder.embed_tokens.weight"),
    ("SwitchTransformersForConditionalGeneration", "decoder.embed_tokens.weight"),
])
def test_two_tables_of_embeddings_are_refused_with_what_can_be_done(architecture, table):
    """In transformers 5 an untied model has a table for encoder and decoder; ours shares one."""
    settings, weights = saved(architecture)
    untied = settings | {"tie_word_embeddings": False}
    assert not from_tensors(architecture, untied, weights)[1].tied_head
    with pytest.raises(UserError, match=f"{table} and .* our model has one parameter for both"):
        from_tensors(architecture, untied, weights | {table: weights[table] + 1})


def test_a_bias_on_barts_logits_is_refused():
    architecture = "BartForConditionalGeneration"
    settings, weights = saved(architecture)
    weights["final_logits_bias"] = np.ones_like(weights["final_logits_bias"])
    with pytest.raises(UserError, match="final_logits_bias is not zero"):
        from_tensors(architecture, settings, weights)


@pytest.mark.parametrize(
    ("architecture", "old"),
    [
        ("GPT2LMHeadModel", lambda name: name.removeprefix("transformer.")),
        ("GPTNeoXForCausalLM", lambda name: name.replace("lm_head.", "embed_out.")),
        ("OPTForCausalLM", lambda name: name.removeprefix("model.")),
        ("BartForConditionalGeneration", lambda name: name.removeprefix("model.")),
    ],
)
def test_names_of_older_files_are_known(architecture, old):
    settings, weights = saved(architecture)
    older = {old(name): tensor for name, tensor in weights.items()}
    assert older.keys() != weights.keys()
    model, config = from_tensors(architecture, settings, older)
    again, _ = to_hf(model, config, architecture)
    assert again.keys() == weights.keys()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)
