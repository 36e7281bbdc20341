"""Heads: the shapes of what they say, and which hidden states they read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import ModelConfig
from scaling.models import States, Tokens
from scaling.models.heads import last_token
from tests.models import plain
from tests.models.variants import SMALL, filled, random_ids

pytestmark = pytest.mark.quick

B, T, D, V = 3, 12, SMALL["d_model"], SMALL["vocab_size"]
LENGTHS = (12, 7, 1)
SPANS = np.array([[[0, 3, 0], [4, 8, 2]], [[1, 4, 1], [2, 6, 2]], [[0, 2, 0], [3, 5, 0]]])
ENCODER = [
    {"kind": "masked_lm"}, {"kind": "next_sentence"}, {"kind": "sentence_order"},
    {"kind": "replaced_token"}, {"kind": "span_boundary", "max_span": 4, "d_position": 6},
    {"kind": "token", "classes": 5}, {"kind": "sequence", "classes": 7}, {"kind": "span"},
    {"kind": "choice"},
]
DECODER = [
    {"kind": "lm"}, {"kind": "token", "classes": 5}, {"kind": "sequence", "classes": 7},
    {"kind": "choice"},
]
SHAPES = {
    "masked_lm": (B, T, V), "lm": (B, T, V), "next_sentence": (B, 2), "sentence_order": (B, 2),
    "replaced_token": (B, T), "span_boundary": (B, 2, V), "token": (B, T, 5), "sequence": (B, 7),
    "span": (B, T, 2), "choice": (B,),
}

TOKENS = Tokens(random_ids(B, T), np.array([[1] * n + [0] * (T - n) for n in LENGTHS]))
STATES = np.random.default_rng(0).standard_normal((B, T, D)).astype(np.float32)


@pytest.fixture(scope="module", params=["encoder-only", "decoder-only"])
def read(request):
    """What each head says, and the size of the gradient of the sum of all that it says of row 1 (of
    a token head, of its position 4) by each hidden state."""
    encoder = request.param == "encoder-only"
    heads = ENCODER if encoder else DECODER
    model = filled(ModelConfig(**SMALL, mode=request.param, heads=heads, use_bias=True))

    @jax.jit
    def run(model, x):
        def say(kind, x):
            spans = SPANS if kind == "span_boundary" else None
            y = model.head(kind, States(x, TOKENS, None), spans)
            of_tokens = y.shape[:2] == (B, T)
            return (y[1, 4] if of_tokens else y[1]).sum() + jnp.square(y[1]).sum() * (
                not of_tokens), y

        pull = jax.value_and_grad(say, argnums=1, has_aux=True)
        said = {head["kind"]: pull(head["kind"], x) for head in heads}
        return {kind: (y, jnp.abs(gradient).sum(-1)) for kind, ((_, y), gradient) in said.items()}

    return encoder, model, run(model, STATES)


def test_what_heads_say_has_the_shapes_that_they_promise(read):
    for kind, (y, _) in read[2].items():
        assert y.shape == SHAPES[kind], kind
        assert y.dtype == jnp.float32
        assert np.isfinite(y).all()


def test_heads_read_the_states_that_they_should_and_no_others(read):
    encoder, _, said = read
    whole = 0 if encoder else LENGTHS[1] - 1  # the pooled first token, or the last real one
    places = {
        "masked_lm": [4], "lm": [4], "replaced_token": [4], "token": [4], "span": [4],
        "next_sentence": [0], "sentence_order": [0], "choice": [whole], "sequence": [whole],
        "span_boundary": [1, 2, 4, 6],
    }
    for kind, (_, reach) in said.items():
        expected = np.zeros((B, T), bool)
        expected[1, places[kind]] = True
        np.testing.assert_array_equal(np.asarray(reach) > 0, expected, err_msg=kind)


def test_pooled_heads_share_one_pooler(read):
    """With a pooler that says nothing they say their biases, and all others what they said."""
    encoder, model, said = read
    if not encoder:
        assert model.pooler is None
        return
    quiet = jax.tree.map(lambda leaf: leaf, model)
    quiet.pooler = jax.tree.map(jnp.zeros_like, model.pooler)
    pooled = {"next_sentence", "sentence_order", "sequence", "choice"}
    states = States(jnp.asarray(STATES), TOKENS, None)
    for kind in said.keys() - {"span_boundary"}:
        y = quiet.head(kind, states)
        if kind in pooled:
            np.testing.assert_allclose(
                y, np.broadcast_to(quiet.heads[kind].out.bias[...].squeeze(), y.shape), atol=1e-6)
        else:
            np.testing.assert_allclose(y, said[kind][0], rtol=1e-4, atol=1e-4)


def test_a_span_s_token_depends_on_its_place_in_the_span(read):
    encoder, model, _ = read
    if not encoder:
        return
    x = np.ones((B, T, D), np.float32)
    say = jax.jit(lambda model, x: model.head("span_boundary", States(x, None, None), SPANS))
    logits = say(model, x)
    assert np.abs(logits[1, 0] - logits[1, 1]).max() > 1e-3  # places 1 and 2, equal neighbours
    np.testing.assert_allclose(logits[0, 1], logits[1, 1], atol=1e-5)  # places 2 and 2


@pytest.mark.parametrize(("mode", "pool", "place"), [
    ("encoder-only", "last", 6), ("encoder-only", "first", 0), ("encoder-decoder", None, 6),
])
def test_a_sequence_is_read_at_its_first_or_its_last_token(mode, pool, place):
    head = {"kind": "sequence", "classes": 1, "pool": pool}
    model = filled(ModelConfig(**SMALL, mode=mode, heads=[head]))
    tokens = Tokens(random_ids(1, T), np.array([[1] * 7 + [0] * 5]))
    x = np.random.default_rng(0).standard_normal((1, T, D)).astype(np.float32)
    reach = jax.grad(lambda x: model.head("sequence", States(x, tokens, None)).sum())(jnp.array(x))
    assert np.flatnonzero(np.abs(reach[0]).sum(-1)).tolist() == [place]


def test_heads_say_what_their_formulas_say(read):
    """Every head written down in numpy, from the states and the parameters."""
    encoder, model, said = read
    config, x = model.config, STATES.astype(np.float64)
    gelu, exact = plain.ACTIVATIONS["gelu"], plain.ACTIVATIONS["gelu_exact"]
    table, heads = plain.value(model.embedding), model.heads

    def logits(head, features):
        y = features @ table.T
        return y if head.vocabulary.bias is None else y + plain.value(head.vocabulary.bias)

    if encoder:
        pooled = np.tanh(plain.linear(model.pooler, x[:, 0]))
        head, rows = heads["span_boundary"], np.arange(B)[:, None]
        left, right, place = np.moveaxis(SPANS, -1, 0)
        h = np.concatenate([x[rows, left], x[rows, right], plain.value(head.positions)[place]], -1)
        h = plain.norm(config, head.first_norm, exact(plain.linear(head.first, h)))
        h = plain.norm(config, head.second_norm, exact(plain.linear(head.second, h)))
        masked, replaced = heads["masked_lm"], heads["replaced_token"]
        expected = {
            "span_boundary": logits(head, h),
            "masked_lm": logits(masked, plain.norm(
                config, masked.norm, gelu(plain.linear(masked.dense, x)))),
            "replaced_token": plain.linear(
                replaced.out, gelu(plain.linear(replaced.dense, x)))[..., 0],
            "span": plain.linear(heads["span"].out, x),
        } | {kind: plain.linear(heads[kind].out, pooled)
             for kind in ("next_sentence", "sentence_order")}
    else:
        pooled = x[np.arange(B), np.array(LENGTHS) - 1]
        expected = {"lm": logits(heads["lm"], x)}
        assert heads["sequence"].out.bias is heads["choice"].out.bias is None  # as in GPT
    expected["token"] = plain.linear(heads["token"].out, x)
    expected["sequence"] = plain.linear(heads["sequence"].out, pooled)
    expected["choice"] = plain.linear(heads["choice"].out, pooled)[..., 0]
    assert expected.keys() == said.keys()
    for kind, y in expected.items():
        np.testing.assert_allclose(said[kind][0], y, rtol=1e-4, atol=1e-4, err_msg=kind)


def test_the_last_token_of_bare_ids_is_the_last_of_all():
    ids = np.zeros((3, 5), np.int32)
    assert last_token(Tokens(ids)).tolist() == [4, 4, 4]
    documents = np.array([[1, 2, 2, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    assert last_token(Tokens(ids, documents)).tolist() == [2, 4, 0]


def test_a_language_model_s_bias_is_there_if_asked_for_and_is_added():
    def head(bias):
        config = ModelConfig(**SMALL, use_bias=not bias, heads=[{"kind": "lm", "bias": bias}])
        return filled(config)

    assert head(False).heads["lm"].vocabulary.bias is None
    model = head(True)
    states, bias = States(jnp.asarray(STATES), TOKENS, None), model.heads["lm"].vocabulary.bias
    expected = STATES @ np.asarray(model.embedding[...]).T + np.asarray(bias[...])
    np.testing.assert_allclose(model.head("lm", states), expected, rtol=1e-4, atol=1e-4)
