"""Counts against the models themselves and against XLA's own count of arithmetic."""

from __future__ import annotations

import itertools

import jax
import pytest

from scaling.accounting import count_parameters, flops_6nd, training_flops_per_token
from scaling.accounting.flops import forward_flops_per_token
from scaling.accounting.hardware import peak_flops, peak_flops_of_kind
from scaling.config import ModelConfig
from scaling.errors import UserError
from scaling.models import Transformer

CHOICES = list(itertools.product(
    ("learned", "rotary"), ("layer", "rms"), ("gelu", "swiglu"), (False, True), (False, True)
))


@pytest.mark.parametrize(("positions", "norm", "activation", "biases", "tied"), CHOICES)
def test_parts_are_those_of_the_model(positions, norm, activation, biases, tied):
    config = ModelConfig(
        d_model=24, n_layers=3, n_heads=2, d_head=8, context=10, vocab_size=11,
        positions=positions, norm=norm, activation=activation, biases=biases, tied_head=tied,
    )
    model = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))

    def size(part):
        return sum(leaf.size for leaf in jax.tree.leaves(part))

    counted = count_parameters(config)
    blocks = model.stack.blocks
    assert counted.embedding == size(model.embedding)
    assert counted.positions == size(model.positions)
    assert counted.head == size(model.head)
    assert counted.attention == size(blocks.attention)
    assert counted.feed_forward == size(blocks.feed_forward)
    assert counted.norms == size((blocks.attention_norm, blocks.feed_forward_norm, model.norm))
    assert counted.total == size(model)
    assert counted.non_embedding == size((model.stack, model.norm))


def test_kaplans_formula():
    """12 L d^2 (Kaplan et al. 2020, section 2.1) is attention and feed-forward without biases."""
    counted = count_parameters(
        ModelConfig(d_model=64, n_layers=5, n_heads=4, context=8, vocab_size=10)
    )
    assert counted.attention + counted.feed_forward == 12 * 5 * 64**2


def test_gpt2_small_has_as_many_parameters_as_published():
    gpt2 = ModelConfig(
        d_model=768, n_layers=12, n_heads=12, context=1024, vocab_size=50257,
        positions="learned", norm="layer", biases=True,
    )
    assert count_parameters(gpt2).total == 124_439_808


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_forward_flops_are_what_xla_counts(activation):
    """XLA also counts element-wise work, which is small at this width."""
    config = ModelConfig(
        d_model=512, n_layers=2, n_heads=4, context=128, vocab_size=1024, activation=activation
    )
    model = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((2, 128), "int32")
    cost = jax.jit(lambda m, t: m(t)).lower(model, tokens).compile().cost_analysis()
    ours = 2 * 128 * sum(forward_flops_per_token(config).values())
    assert ours == pytest.approx(cost["flops"], rel=0.01)
    assert training_flops_per_token(config) == 3 * ours / (2 * 128)


def test_six_n_d():
    assert flops_6nd(70_000_000_000, 1_400_000_000_000) == pytest.approx(5.88e23)


def test_hardware():
    assert peak_flops("a100") == peak_flops_of_kind("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops_of_kind("NVIDIA H200") == 989e12
    assert peak_flops_of_kind("TPU v5 lite") == 197e12
    assert peak_flops_of_kind("TPU v5") == 459e12
    assert peak_flops_of_kind("cpu") is None
    with pytest.raises(UserError, match="did you mean A100"):
        peak_flops("A10O")
