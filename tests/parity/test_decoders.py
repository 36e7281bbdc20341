"""Decoders against transformers: every way in which their shapes and settings differ, once."""

from __future__ import annotations

import pytest

from tests.parity.harness import Case, check

GPTS = {"OpenAIGPTLMHeadModel", "GPT2LMHeadModel"}
GPT = {
    "narrow": {"vocab_size": 29, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 11},
    "deep": {"vocab_size": 37, "n_embd": 8, "n_layer": 3, "n_head": 2, "n_positions": 16,
             "layer_norm_epsilon": 1e-3},
    "untied": {"vocab_size": 19, "n_embd": 10, "n_layer": 1, "n_head": 1, "n_positions": 12,
               "tie_word_embeddings": False},
}
SIZES = {
    "narrow": {"vocab_size": 29, "hidden_size": 24, "num_hidden_layers": 2,
               "num_attention_heads": 3, "max_position_embeddings": 11},
    "deep": {"vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 3,
             "num_attention_heads": 4, "max_position_embeddings": 16},
    "one_head": {"vocab_size": 19, "hidden_size": 8, "num_hidden_layers": 1,
                 "num_attention_heads": 1, "max_position_embeddings": 12},
}
CHANGES = {
    "OpenAIGPTLMHeadModel": {
        "narrow": {}, "deep": {"afn": "relu"}, "untied": {}},
    "GPT2LMHeadModel": {
        "narrow": {"n_inner": 20}, "deep": {"activation_function": "gelu"},
        "untied": {"scale_attn_weights": False, "activation_function": "relu"}},
    "OPTForCausalLM": {
        "narrow": {"ffn_dim": 20},
        # OPT-350M: narrow embeddings, and norms after the branches.
        "deep": {"ffn_dim": 40, "word_embed_proj_dim": 10, "do_layer_norm_before": False},
        "one_head": {"ffn_dim": 14, "activation_function": "gelu", "tie_word_embeddings": False,
                     "word_embed_proj_dim": 6}},
    "LlamaForCausalLM": {
        "narrow": {"intermediate_size": 20, "num_key_value_heads": 1, "tie_word_embeddings": True},
        "deep": {"intermediate_size": 40, "num_key_value_heads": 2, "rms_norm_eps": 1e-3,
                 "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        "one_head": {"intermediate_size": 14, "head_dim": 6}},
    "GPTNeoXForCausalLM": {
        # Four numbers of each head turn: with two, both orders of rotary pairs were the same.
        "narrow": {"intermediate_size": 20, "rotary_pct": 0.5},
        "deep": {"intermediate_size": 40, "use_parallel_residual": False, "rotary_pct": 1.0,
                 "rotary_emb_base": 100.0, "hidden_act": "gelu_new"},
        "one_head": {"intermediate_size": 14, "tie_word_embeddings": True,
                     "layer_norm_eps": 1e-3}},
}

WIDE = {"initializer_range": 0.5}
"""Numbers large enough to tell the two forms of GELU apart, which OpenAIGPT names its own way."""

CASES = {
    f"{architecture}-{shape}": Case(
        architecture, (GPT[shape] | WIDE if architecture in GPTS else SIZES[shape]) | changes)
    for architecture, shapes in CHANGES.items()
    for shape, changes in shapes.items()
}


@pytest.mark.parametrize("name", CASES)
def test_same_numbers(name, tmp_path):
    check(CASES[name], tmp_path, seed=len(name))


def test_names_of_older_files(tmp_path):
    """GPT-2's own files are of the class without a head; transformers opens them, and so do we."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from scaling.interop import from_hf
    from tests.parity.harness import made

    model = made(CASES["GPT2LMHeadModel-narrow"])
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    bare = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    bare["h.0.attn.bias"] = np.ones((1, 1, 11, 11), np.float32)
    save_file(bare, path, metadata={"format": "pt"})
    opened, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    for ours in (from_hf(tmp_path)[0], from_hf(opened)[0]):
        np.testing.assert_array_equal(
            ours.embedding[...], model.transformer.wte.weight.detach().numpy())
