"""T5, Switch and BART against transformers, with padded sources and targets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity.harness import LOGITS, Case, check


def own_head(model: Any) -> None:
    """T5 v1.1's output matrix is its own, and hidden states are not scaled before it;
    transformers 5 ties it when it makes a model, whatever its settings say."""
    import torch

    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    model.config.tie_word_embeddings = False
    # Theirs decides it when the configuration is made.
    model.config.scale_decoder_outputs = False


def one_table(model: Any) -> None:
    """An untied BART or Switch of transformers 5 has a table of embeddings for each side, which
    ours has not: here they are one, as in the published models."""
    inner = getattr(model, "model", model)
    inner.encoder.embed_tokens = inner.decoder.embed_tokens = inner.shared


T5_SHAPES = {
    "narrow": {"vocab_size": 29, "d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 2,
               "num_heads": 3, "relative_attention_num_buckets": 8,
               "relative_attention_max_distance": 5},
    "uneven": {"vocab_size": 37, "d_model": 8, "d_kv": 6, "d_ff": 24, "num_layers": 2,
               "num_decoder_layers": 4, "num_heads": 2, "layer_norm_epsilon": 1e-3},
    "one_head": {"vocab_size": 19, "d_model": 10, "d_kv": 10, "d_ff": 14, "num_layers": 4,
                 "num_decoder_layers": 2, "num_heads": 1},
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
# Rooms of one token drop some, and rooms of 9 none; experts stand in every layer or every other.
EXPERTS = {
    "narrow": {"num_experts": 3, "expert_capacity": 2, "num_sparse_encoder_layers": 1,
               "num_sparse_decoder_layers": 1, "num_decoder_layers": 2},
    "uneven": {"num_experts": 4, "expert_capacity": 9, "num_sparse_encoder_layers": 2,
               "num_sparse_decoder_layers": 4, "dense_act_fn": "gelu_new"},
    "one_head": {"num_experts": 2, "expert_capacity": 1, "num_sparse_encoder_layers": 2,
                 "num_sparse_decoder_layers": 1, "tie_word_embeddings": False},
}
BART_SHAPES = {
    "narrow": {"vocab_size": 29, "d_model": 12, "encoder_layers": 2, "decoder_layers": 1,
               "encoder_attention_heads": 3, "encoder_ffn_dim": 20},
    "uneven": {"vocab_size": 37, "d_model": 8, "encoder_layers": 1, "decoder_layers": 3,
               "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "scale_embedding": True},
    "one_head": {"vocab_size": 19, "d_model": 10, "encoder_layers": 3, "decoder_layers": 1,
                 "encoder_attention_heads": 1, "encoder_ffn_dim": 14,
                 "activation_function": "relu", "tie_word_embeddings": False},
}


def cases() -> dict[str, Case]:
    found = {}
    for shape, sizes in T5_SHAPES.items():
        found[f"T5-{shape}"] = Case("T5ForConditionalGeneration", sizes, source=True)
    for shape, sizes in T5_SHAPES.items():
        found[f"T5_v1.1-{shape}"] = Case(
            "T5ForConditionalGeneration", sizes | GATED, source=True, prepare=own_head)
    for shape, sizes in T5_SHAPES.items():
        found[f"Switch-{shape}"] = Case(
            "SwitchTransformersForConditionalGeneration", sizes | EXPERTS[shape], source=True,
            prepare=one_table)
    for shape, sizes in BART_SHAPES.items():
        both = {"decoder_attention_heads": sizes["encoder_attention_heads"],
                "decoder_ffn_dim": sizes["encoder_ffn_dim"], "max_position_embeddings": 9}
        found[f"BART-{shape}"] = Case(
            "BartForConditionalGeneration", sizes | both, source=True, prepare=one_table)
    return found


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_same_numbers(name, tmp_path):
    check(CASES[name], tmp_path, seed=len(name))


def test_a_t5_v1_1_that_transformers_5_opened_and_saved(tmp_path):
    """Its configuration then says that the head is tied; the weights know better."""
    import json

    import numpy as np

    from scaling.interop import from_hf
    from tests.parity.harness import batch_for, made, our_outputs_jit, their_outputs

    case = CASES["T5_v1.1-narrow"]
    published = made(case)
    published.save_pretrained(tmp_path / "published")
    opened = type(published).from_pretrained(
        tmp_path / "published", attn_implementation="eager").eval()
    assert opened.config.tie_word_embeddings
    opened.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"]
    batch = batch_for(case, opened)
    wanted = their_outputs(case, published, batch)["lm"].detach().numpy()
    for source in (opened, tmp_path / "again"):
        ours, config = from_hf(source)
        assert (config.tied_head, config.scale_output) == (False, False)
        got = our_outputs_jit(ours, batch, ("lm",))["lm"]
        assert np.abs(got - wanted)[0].max() < LOGITS


def test_tables_of_the_two_sides_that_differ_are_refused():
    from scaling.errors import UserError
    from scaling.interop import from_hf
    from tests.parity.harness import made

    for name in ("BART-one_head", "Switch-one_head"):
        model = made(CASES[name]._replace(prepare=lambda model: None))
        with pytest.raises(UserError, match="our model has one parameter for both"):
            from_hf(model)


def test_tokens_beyond_an_experts_room_are_dropped_as_theirs_are():
    """The comparison above is of models that do drop."""
    import jax

    from scaling.interop import from_hf
    from tests.parity.harness import batch_for, made

    case = CASES["Switch-one_head"]
    model = made(case)
    ours, _ = from_hf(model)
    states = jax.jit(lambda ours, batch: ours.states(*batch.tokens()))(ours, batch_for(case, model))
    assert states.routing.dropped > 0.3
