"""Kernels compute what the plain one computes, and never hold what they are there to avoid."""

from __future__ import annotations

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import ExecutionConfig, ModelConfig, RunConfig, override, validate
from scaling.config.kernels import (
    ATTENTION_TRAITS,
    CROSS_ENTROPY_TRAITS,
    AttentionName,
    CrossEntropyName,
)
from scaling.errors import UserError
from scaling.models import Transformer
from scaling.models.kernels import attention, cross_entropy
from scaling.models.tokens import AttentionMask
from tests.conftest import run_content
from tests.models.variants import batch_for, config_of, filled

BLOCKED = ExecutionConfig(attention="blocked", cross_entropy="blocked")
PATTERNS = ("bert", "local encoder", "relative encoder", "gpt3", "llama", "alibi", "prefix", "t5")
"""Variants that differ in masks, biases, heads or cross-attention."""


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks that divide no length evenly."""
    monkeypatch.setattr(attention, "ATTENTION_BLOCK", 3)
    monkeypatch.setattr(cross_entropy, "CROSS_ENTROPY_CHUNK", 7)


def losses_and_gradients(config, execution):
    model = filled(config, execution)
    tokens, source = batch_for(config)
    targets = jnp.asarray(tokens.ids_BT)[:, ::-1]
    kind = config.outputs[0].kind

    @jax.jit
    @jax.value_and_grad
    def loss(model):
        states = model.states(tokens, source)
        if kind in ("lm", "masked_lm"):
            return (model.losses(kind, states, targets) * jnp.cos(targets)).sum()
        return jnp.square(model.head(kind, states)).sum()

    return loss(model)


@pytest.mark.parametrize("name", PATTERNS)
def test_blocked_kernels_equal_the_plain_ones(name, small_blocks):
    config = config_of(name)
    expected, gradient = losses_and_gradients(config, ExecutionConfig())
    blocked, its_gradient = losses_and_gradients(config, BLOCKED)
    assert blocked == pytest.approx(float(expected), rel=1e-5)
    # Some gradients, such as that of the keys' biases, are zero but for rounding.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    for ours, theirs in zip(jax.tree.leaves(its_gradient), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * largest)


def shapes_of(jaxpr):
    """Shapes of all intermediate arrays of a program, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for value in jax.tree.leaves(
                equation.params, is_leaf=lambda x: isinstance(x, jax.extend.core.ClosedJaxpr)):
            inner = getattr(value, "jaxpr", value)
            if isinstance(inner, jax.extend.core.Jaxpr):
                yield from shapes_of(inner)


@pytest.mark.parametrize(("changes", "execution", "held"), [
    ({}, ExecutionConfig(), True),
    ({}, BLOCKED, False),
    ({"positions": "relative", "attention_pattern": "local", "window": 9}, BLOCKED, False),
])
def test_no_array_grows_with_the_square_of_the_length(monkeypatch, changes, execution, held):
    monkeypatch.setattr(attention, "ATTENTION_BLOCK", 16)
    monkeypatch.setattr(cross_entropy, "CROSS_ENTROPY_CHUNK", 32)
    B, T, V = 2, 96, 80
    config = ModelConfig(d_model=16, n_layers=2, n_heads=2, context=T, vocab_size=V, **changes)
    model = Transformer(config, jax.random.key(0), execution=execution)
    ids = jnp.zeros((B, T), jnp.int32)
    program = jax.make_jaxpr(
        jax.grad(lambda model: model.losses("lm", model.states(ids), ids).sum()))(model)
    shapes = list(shapes_of(program.jaxpr))
    assert len(shapes) > 100
    assert any(shape[-2:] == (T, T) for shape in shapes) == held
    assert any(shape[-1:] == (V,) and np.prod(shape, dtype=int) >= B * T * V
               for shape in shapes) == held


def test_every_kernel_has_its_traits():
    assert set(attention.ATTENTION) == set(ATTENTION_TRAITS) == set(get_args(AttentionName))
    assert set(cross_entropy.CROSS_ENTROPY) == set(CROSS_ENTROPY_TRAITS)
    assert set(CROSS_ENTROPY_TRAITS) == set(get_args(CrossEntropyName))


@pytest.mark.parametrize("name", ATTENTION_TRAITS)
@pytest.mark.parametrize("needs", ["drops_weights", "adds_scores"])
def test_a_kernel_computes_what_its_traits_say(name, needs):
    q, k, v = jnp.ones((3, 2, 1, 4, 5))
    inputs = attention.AttentionInputs(AttentionMask(5, 5))
    if needs == "adds_scores":
        # Scores that select key 3, of which the values alone are 2.
        inputs = inputs._replace(
            scores_BHTS=jnp.where(jnp.arange(5) == 3, 0.0, -1e9)[None, None, None].repeat(5, 2))
        v, expected = v.at[..., 3].set(2.0), 2.0
    else:
        inputs = inputs._replace(dropout=1.0 - 1e-6, keys_B=jax.random.split(jax.random.key(0), 2))
        expected = 0.0
    compute = partial(attention.ATTENTION[name], q, k, v, inputs, jnp.dtype("float32"))
    if getattr(ATTENTION_TRAITS[name], needs):
        np.testing.assert_allclose(compute(), expected, atol=1e-5)
    else:
        with pytest.raises(NotImplementedError):
            compute()


@pytest.mark.parametrize(("changes", "words"), [
    (["model.dropout=0.1"], "cannot drop attention weights"),
    (["model.positions=transformer_xl"], "scores of transformer_xl"),
])
def test_a_kernel_that_cannot_is_refused(tmp_path, changes, words):
    content = override(run_content(tmp_path), ["execution.attention=blocked", *changes])
    with pytest.raises(UserError, match=words):
        validate(RunConfig, content, "run")


def test_dropout_outside_attention_is_no_obstacle(tmp_path):
    content = override(run_content(tmp_path), [
        "execution.attention=blocked", "model.dropout=0.1", "model.attention_dropout=0"])
    assert validate(RunConfig, content, "run").execution.attention == "blocked"
