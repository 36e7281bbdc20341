"""How weights are spread at the start, as InitConfig says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import ExecutionConfig, ModelConfig
from scaling.config.parts import InitConfig
from scaling.models import Electra, Transformer
from scaling.models.attention import Attention
from scaling.models.block import EVERYTHING, Block
from scaling.models.experts import Experts
from scaling.models.feed_forward import FeedForward
from scaling.models.heads import Vocabulary
from scaling.models.layers import Linear, Norm, embedding
from scaling.models.params import (
    ParamInfo,
    constant_param,
    count_by_role,
    init_param,
    params_by_path,
    with_info,
    with_value,
)
from scaling.models.positions import RelativeBias
from tests.models.variants import SMALL, VARIANTS, random_ids

SIZES = {"d_model": 64, "n_layers": 8, "n_heads": 4, "context": 8, "vocab_size": 300,
         "d_ff": 192}
RESIDUAL = (2 * 8) ** -0.5
SCAN = ExecutionConfig(scan_layers=True)


def spread(part):
    return float(np.std(part[...]))


@pytest.mark.parametrize(("init", "up", "down"), [
    # By default 1 / sqrt(in), and into the stream that by the root of its 16 writers.
    ({}, 64**-0.5, 192**-0.5 * RESIDUAL),
    ({"gain": 2.0, "residual": "plain"}, 2 * 64**-0.5, 2 * 192**-0.5),
    ({"fan": "average", "residual": "plain"}, 128**-0.5, 128**-0.5),
    ({"fan": "average", "distribution": "uniform", "residual": "plain"}, 128**-0.5, 128**-0.5),
    ({"distribution": "truncated", "residual": "plain"}, 64**-0.5, 192**-0.5),
    ({"std": 0.02}, 0.02, 0.02 * RESIDUAL),
    # A std is that of the normal distribution before it is cut (BERT's 0.02).
    ({"std": 0.02, "distribution": "truncated", "residual": "plain"}, 0.0176, 0.0176),
])
def test_matrices_are_spread_as_configured(init, up, down):
    config = ModelConfig(**SIZES, init=init, use_bias=True)
    layer = FeedForward(config, jnp.dtype("float32"), jax.random.key(0))
    assert spread(layer.up.weight) == pytest.approx(up, rel=0.03)
    assert spread(layer.down.weight) == pytest.approx(down, rel=0.03)
    assert not np.asarray(layer.up.bias[...]).any()
    largest = np.abs(layer.up.weight[...]).max() / spread(layer.up.weight)
    if init.get("distribution") == "uniform":  # Glorot & Bengio 2010, eq. 16: sqrt(6 / (in + out))
        assert np.abs(layer.up.weight[...]).max() == pytest.approx((6 / 256) ** 0.5, rel=0.01)
    elif init.get("distribution") == "truncated":
        assert 2.2 < largest < 2 / 0.8796 + 1e-3
    else:
        assert largest > 3.3


def test_experts_are_spread_as_dense_layers_are():
    """Each is a layer of its own: the fans are those of one expert."""
    config = ModelConfig(**SIZES, activation="swiglu", experts={"count": 4})
    layer = Experts(config, jnp.dtype("float32"), jax.random.key(0))
    for part, std in ((layer.up, 64**-0.5), (layer.gate, 64**-0.5),
                      (layer.down, 192**-0.5 * RESIDUAL)):
        for expert in part[...]:
            assert float(np.std(expert)) == pytest.approx(std, rel=0.03)


HEADS = [{"kind": "masked_lm"}, {"kind": "next_sentence"}, {"kind": "sentence_order"},
         {"kind": "span_boundary", "d_position": 4}, {"kind": "replaced_token"}]


@pytest.mark.parametrize("changes", [
    VARIANTS["bert"] | {"heads": HEADS, "d_embedding": 6, "tied_head": False},
    VARIANTS["transformer-xl"] | {"mode": "decoder-only"},
    {"mode": "encoder-decoder", "positions": "relative", "activation": "swiglu",
     "share_layers": "attention"},
    {"experts": {"count": 2, "every": 2}, "activation": "swiglu"},
    None,
])
def test_no_two_parameters_are_drawn_by_one_key(monkeypatch, changes):
    """Nor two layers. None is ELECTRA, whose generator has keys of its own."""
    drawn = []

    def watch(key, *rest):
        jax.debug.callback(lambda data: drawn.append(tuple(np.ravel(data))),
                           jax.random.key_data(key))
        return jnp.zeros(next(each for each in rest if isinstance(each, tuple)))

    for name in ("normal", "truncated_normal", "uniform"):
        monkeypatch.setattr(jax.random, name, watch)
    config = ModelConfig(**SMALL | (changes or VARIANTS["bert"] | {"heads": HEADS[-1:]}))
    make = Transformer if changes else lambda config, key: Electra(
        config, config.model_copy(update={"heads": ModelConfig(
            **SMALL | VARIANTS["bert"] | {"heads": HEADS[:1]}).heads}), key)
    model = make(config, jax.random.key(0))
    jax.effects_barrier()
    assert len(drawn) > 10
    assert len(set(drawn)) == len(drawn)
    # What is not drawn starts at one, if it is a gain, or at zero.
    for path, param in params_by_path(model).items():
        assert (np.asarray(param[...]) == (param.info.role == "gain")).all(), path


def test_attention_starts_so_that_its_logits_are_of_order_one():
    """Where queries are not divided by sqrt(d_head) = 4, their weights are (T5)."""
    for scaled, query in ((True, 64**-0.5), (False, 64**-0.5 / 4)):
        config = ModelConfig(**SIZES, scale_attention=scaled)
        layer = Attention(config, jnp.dtype("float32"), jax.random.key(0))
        assert spread(layer.query.weight) == pytest.approx(query, rel=0.04)
        assert spread(layer.key.weight) == pytest.approx(64**-0.5, rel=0.04)
        assert spread(layer.out.weight) == pytest.approx(64**-0.5 * RESIDUAL, rel=0.04)
    config = ModelConfig(**SIZES, scale_attention=False, init={"std": 0.05})
    layer = Attention(config, jnp.dtype("float32"), jax.random.key(0))
    assert spread(layer.query.weight) == pytest.approx(0.05, rel=0.04)  # a std is taken as it is


@pytest.mark.parametrize(("init", "std", "bias"), [
    ({}, 16**-0.5, 64**-0.5), ({"std": 0.02, "embedding_std": 1.0}, 0.02, 0.02)])
def test_an_output_matrix_and_biases_of_distances_are_spread_as_configured(init, std, bias):
    """Logits are of order one at the start; `embedding_std` is of tables that tokens look up."""
    config = ModelConfig(**SIZES | {"n_heads": 64, "d_head": 2}, d_embedding=16, tied_head=False,
                         positions="relative", relative_buckets=100, init=init)
    head = Vocabulary(config, jnp.dtype("float32"), jax.random.key(0), bias=False)
    assert spread(head.weight) == pytest.approx(std, rel=0.04)
    table = RelativeBias(config, jax.random.key(0), both_ways=True).table
    assert table.shape == (100, 64)
    assert spread(table) == pytest.approx(bias, rel=0.04)


def test_three_branches_of_a_block_that_looks_at_an_encoder_write_into_the_stream():
    config = ModelConfig(**SIZES, mode="encoder-decoder")
    gain = (3 * 8) ** -0.5
    block = Block(config, jnp.dtype("float32"), jax.random.key(0), layer=0, cross=True,
                  parts=EVERYTHING, kernel="plain")
    for writer, fan_in in ((block.attention.out, 64), (block.cross.out, 64),
                           (block.feed_forward.down, 192)):
        assert spread(writer.weight) == pytest.approx(fan_in**-0.5 * gain, rel=0.04)


@pytest.mark.parametrize(("init", "std"), [
    ({}, 64**-0.5), ({"std": 0.02}, 0.02), ({"embedding_std": 1.0}, 1.0),
    ({"std": 0.02, "embedding_std": 0.5}, 0.5), ({"distribution": "truncated"}, 64**-0.5),
    ({"std": 0.02, "distribution": "truncated"}, 0.0176), ({"gain": 3.0}, 64**-0.5),
])
def test_embeddings_are_spread_as_configured(init, std):
    table = embedding(jax.random.key(0), ModelConfig(**SIZES, init=init).init, 300, 64)
    assert spread(table) == pytest.approx(std, rel=0.03)


def test_logits_and_the_stream_are_of_order_one_at_every_width_and_depth():
    for d_model, n_layers in ((16, 1), (128, 4)):
        config = ModelConfig(**SMALL | {"d_model": d_model, "n_layers": n_layers,
                                        "vocab_size": 200})
        spread = jax.jit(lambda key, config=config: Transformer(config, key, execution=SCAN)(
            random_ids(2, 12)).std())(jax.random.key(0))
        assert 0.5 < spread < 2.0


@pytest.mark.parametrize(("distribution", "std", "largest"), [
    ("normal", 0.5, 2.5), ("truncated", 0.5 * 0.8796, 1.0), ("uniform", 0.5, 0.5 * 3**0.5)])
def test_distributions_have_their_spread_and_their_ends(distribution, std, largest):
    """The truncated one is cut at two standard deviations, after which .8796 of one is left."""
    info = ParamInfo("hidden", (None, None), (0,), (1,))
    param = init_param(jax.random.key(3), (100, 300), info, 0.5, distribution)
    x = np.asarray(param[...])
    assert param.info == info
    assert x.std() == pytest.approx(std, rel=0.02)
    assert abs(x.mean()) < 0.01
    if distribution == "normal":
        assert np.abs(x).max() > 1.5
    else:
        assert 0.99 * largest < np.abs(x).max() <= largest
    table = embedding(jax.random.key(0), InitConfig(distribution=distribution), 300, 64)
    assert spread(table) == pytest.approx(64**-0.5, rel=0.02)
    assert (np.abs(table[...]).max() * 8 < 2.3) == (distribution != "normal")
    assert (table.info.role, table.info.fan_in, table.info.fan_out) == ("embedding", (0,), (1,))


def test_constants_have_the_role_that_they_are_given():
    gain, bias = constant_param(1.5, (3,), ("embed",), "gain"), constant_param(0.0, (2,), ("ff",))
    assert (gain.info.role, gain.info.axes) == ("gain", ("embed",))
    assert (bias.info.role, bias.info.axes) == ("bias", ("ff",))
    np.testing.assert_array_equal(gain[...], [1.5] * 3)
    assert gain[...].dtype == jnp.float32
    assert count_by_role({"a": gain, "b": bias, "c": gain}) == {"gain": 6, "bias": 2}
    changed = with_info({"a": gain}, role="bias", part="head")["a"].info
    assert (changed.role, changed.part, changed.axes) == ("bias", "head", ("embed",))


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_by_hand(kind):
    """With an epsilon as large as the variance, a gain and a bias."""
    rng = np.random.default_rng(0)
    for use_bias in (True, False):
        norm = Norm(ModelConfig(**SIZES, norm=kind, norm_epsilon=0.5, use_bias=use_bias), width=6)
        assert (norm.bias is None) == (kind == "rms" or not use_bias)
        gain, bias = rng.standard_normal((2, 6)).astype(np.float32)
        norm.gain = with_value(norm.gain, jnp.asarray(gain))
        if norm.bias is not None:
            norm.bias = with_value(norm.bias, jnp.asarray(bias))
        x = rng.standard_normal((2, 3, 6)).astype(np.float32) + 1
        centred = x - x.mean(-1, keepdims=True) if kind == "layer" else x
        by_hand = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.5) * gain
        by_hand += 0 if norm.bias is None else bias
        np.testing.assert_allclose(norm(jnp.asarray(x)), by_hand, rtol=1e-5, atol=1e-6)


def test_a_linear_layer_reads_both_operands_in_its_type():
    """In float32 a sum over two axes, and in bfloat16 that of rounded operands, added exactly."""
    config = ModelConfig(**SIZES, use_bias=True)
    rng = np.random.default_rng(1)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 4, 5), (4, 5, 6)))
    bias = rng.standard_normal(6).astype(np.float32)
    for dtype in ("float32", "bfloat16"):
        layer = Linear(config, jax.random.key(0), (4, 5), (6,), ("heads", None, "embed"),
                       jnp.dtype(dtype))
        assert (layer.weight.info.fan_in, layer.weight.info.fan_out) == ((0, 1), (2,))
        layer.weight = with_value(layer.weight, jnp.asarray(weight))
        layer.bias = with_value(layer.bias, jnp.asarray(bias))
        read = [np.asarray(jnp.asarray(a).astype(dtype), np.float64) for a in (x, weight)]
        y = layer(jnp.asarray(x))
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, np.einsum("btij,ijo->bto", *read) + bias, rtol=1e-5,
                                   atol=1e-5)
    none = Linear(config, jax.random.key(0), (4,), (6,), ("embed", "ff"), jnp.dtype("float32"),
                  bias=False)
    assert none.bias is None
