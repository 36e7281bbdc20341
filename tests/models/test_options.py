"""What a model is told beside its configuration reaches every part: precision, kernels, dropout."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models import Electra, Tokens, Transformer, block, encoder
from scaling.models.attention import Attention
from scaling.models.block import Layers
from scaling.models.heads import VocabularyHead
from scaling.models.kernels import attention
from scaling.models.tokens import AttentionMask
from tests.models import plain
from tests.models.variants import SMALL, VARIANTS, config_of, filled, random_ids

BERT = VARIANTS["bert"] | {"n_token_types": 0}
DISCRIMINATOR = ModelConfig(**SMALL | BERT | {"heads": [{"kind": "replaced_token"}]})
GENERATOR = ModelConfig(**SMALL | BERT | {"heads": [{"kind": "masked_lm"}]})


def electra(**options):
    return jax.eval_shape(
        lambda: Electra(DISCRIMINATOR, GENERATOR, jax.random.key(0), **options))


def products(jaxpr, found):
    """Types of operands and result of every matrix product of a program, and of what is computed
    in bfloat16 other than products."""
    moved = {"convert_element_type", "reshape", "transpose", "broadcast_in_dim", "squeeze", "split",
             "pjit", "jit", "custom_jvp_call", "slice", "pad", "concatenate"}
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        out = {variable.aval.dtype.name for variable in equation.outvars}
        if name == "dot_general":
            found[tuple(variable.aval.dtype.name for variable in equation.invars), *out] += 1
        elif "bfloat16" in out and name not in moved:
            found[name] += 1
        for inner in jax.core.jaxprs_in_params(equation.params):
            products(inner, found)
    return found


@pytest.mark.parametrize(("name", "exact"), [
    ("experts", 2),  # the router of each layer, which stays in float32
    ("transformer-xl", 2),  # projections of distances
    ("t5", 4),  # looking up the biases of distances
    ("electra", 0),
])
def test_products_read_bfloat16_and_sum_in_float32(name, exact):
    """All others; norms, softmax and activations stay in float32."""
    ids = random_ids(2, 12)
    if name == "electra":
        def call(model):
            table = model.discriminator.table()
            states = model.generator.states(ids, table_VP=table)
            said = model.generator.head("masked_lm", states, table_VP=table)
            return said, model.discriminator.head(
                "replaced_token", model.discriminator.states(ids))

        model = electra(precision="bfloat16")
    else:
        config = config_of(name)
        source = ids if config.mode == "encoder-decoder" else None
        model = jax.eval_shape(
            lambda: Transformer(config, jax.random.key(0), precision="bfloat16"))

        def call(model):
            return model(ids, source)

    found = products(jax.make_jaxpr(call)(model).jaxpr, Counter())
    narrow = found.pop((("bfloat16", "bfloat16"), "float32"))
    assert narrow > 10
    assert found.pop((("float32", "float32"), "float32"), 0) == exact
    assert not found


@pytest.mark.parametrize("name", ["t5", "electra"])
def test_the_execution_is_that_of_every_part(name):
    execution = ExecutionConfig(
        scan_layers=True, remat="full", attention="blocked", cross_entropy="blocked")
    if name == "electra":
        model = electra(execution=execution)
    else:
        model = jax.eval_shape(
            lambda: Transformer(config_of(name), jax.random.key(0), execution=execution))
    modules = [module for _, module in nnx.iter_modules(model)]
    for kind, names in ((Layers, {"scan": True, "remat": "full"}), (Attention, {
            "kernel": "blocked"}), (VocabularyHead, {"kernel": "blocked"})):
        found = [module for module in modules if isinstance(module, kind)]
        assert len(found) == {"t5": {Layers: 2, Attention: 3, VocabularyHead: 1},
                              "electra": {Layers: 2, Attention: 2, VocabularyHead: 1}}[name][kind]
        for module in found:
            assert {option: getattr(module, option) for option in names} == names


@pytest.mark.parametrize("changes", [
    {}, {"norm_place": "post"}, {"parallel": "two_norms"}, {"mode": "encoder-decoder"}])
def test_dropout_is_of_what_branches_add_not_of_the_stream(monkeypatch, changes):
    """With all of it dropped, only the norms of the stream are left."""
    config = ModelConfig(**SMALL | {"dropout": 0.3, "attention_dropout": 0.2} | changes)
    model, rates = filled(config), []

    def nothing(x, rate, keys):
        rates.append(rate)
        return jnp.zeros_like(x)

    monkeypatch.setattr(block, "dropout", nothing)
    x = np.random.default_rng(0).standard_normal((1, 3, 8)).astype(np.float32)
    tokens = Tokens(np.zeros((1, 3), np.int32))
    memory = (jnp.asarray(x), tokens) if "mode" in changes else (None, None)
    found = jax.jit(lambda decoder: decoder(jnp.asarray(x), tokens, *memory)[0])(model.decoder)
    if config.norm_place == "post":
        for layer in range(2):
            for name in ("attention_norm", "feed_forward_norm"):
                x = plain.norm(config, getattr(model.decoder.layers.kinds[0], name), x, layer)
    np.testing.assert_allclose(
        found, plain.norm(config, model.decoder.norm, x), rtol=1e-4, atol=1e-4)
    assert set(rates) == {0.3}


def test_the_whole_input_of_the_first_block_is_dropped(monkeypatch):
    """Tokens with their positions, types and norm, before they are projected to the width of the
    stream."""
    rates = []

    def nothing(x, rate, keys):
        rates.append(rate)
        return jnp.zeros_like(x)

    monkeypatch.setattr(encoder, "dropout", nothing)
    model = filled(config_of("albert", dropout=0.3, attention_dropout=0.2, n_token_types=2))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 6)), jnp.float32)
    found = model.encoder.embed_positions(x, Tokens(np.zeros((1, 3), np.int32)))
    bias = np.asarray(model.encoder.projection.bias[...])
    np.testing.assert_allclose(found, np.broadcast_to(bias, (1, 3, 8)), atol=1e-6)
    assert rates == [0.3]


def test_dropped_weights_of_attention_are_not_made_up_for(monkeypatch):
    """The softmax divides by the sum of all weights, also of those that are dropped: doubled ones
    double the output."""
    draw = np.random.default_rng(0).standard_normal((3, 1, 2, 4, 5))
    q, k, v = (jnp.asarray(x, jnp.float32) for x in draw)
    inputs = attention.AttentionInputs(AttentionMask(5, 5, "causal"), dropout=0.2)
    once = attention.plain(q, k, v, inputs, jnp.dtype("float32"))
    seen = []

    def double(x, rate, keys):
        seen.append((rate, keys))
        return 2 * x

    monkeypatch.setattr(attention, "dropout", double)
    twice = attention.plain(q, k, v, inputs, jnp.dtype("float32"))
    np.testing.assert_allclose(twice, 2 * np.asarray(once), rtol=1e-5)
    assert seen == [(0.2, None)]


def test_weights_of_attention_have_a_rate_of_their_own():
    for name, rate in (("attention_dropout", 0.2), ("dropout", 0.3)):
        config = ModelConfig(**SMALL | {"dropout": 0.3} | {name: rate})
        layer = jax.eval_shape(lambda c=config: Attention(
            c, jnp.dtype("float32"), jax.random.key(0)))
        assert layer.dropout == rate


@pytest.mark.parametrize(("name", "side", "width"), [
    ("bert", "encoder", 8), ("opt", "decoder", 6), ("transformer", "decoder", 8)])
def test_what_tokens_leave_out_is_what_they_say(name, side, width):
    """Positions count from 0, and types are 0; other ones give other vectors."""
    config = config_of(name)
    part = getattr(filled(config), side)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, width)), jnp.float32)
    ids, places = np.zeros((1, 4), np.int32), np.arange(4, dtype=np.int32)[None]
    typed = {"types_BT": np.zeros((1, 4), np.int32)} if config.n_token_types else {}
    bare = np.asarray(part.embed_positions(x, Tokens(ids)))
    said = part.embed_positions(x, Tokens(ids, positions_BT=places, **typed))
    np.testing.assert_allclose(bare, said, rtol=1e-5, atol=1e-6)
    others = [Tokens(ids, positions_BT=places + 1)]
    others += [Tokens(ids, types_BT=np.ones((1, 4), np.int32))] if typed else []
    for other in others:
        assert np.abs(bare - part.embed_positions(x, other)).max() > 1e-2


def test_each_side_has_a_row_for_every_position_of_its_own_sequence():
    config = ModelConfig(**SMALL, mode="encoder-decoder", positions="learned", source_context=10,
                         position_offset=2)
    model = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))
    assert model.encoder.positions.shape == (10 + 2, 8)
    assert model.decoder.positions.shape == (12 + 2, 8)
    assert model.embedding.shape == (19, 8)
