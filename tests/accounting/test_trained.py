"""Parameters and FLOPs of partly frozen models, against the modules and XLA's cost analysis."""

from __future__ import annotations

import math
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from scaling.accounting import count_parameters, trained_parameters, training_memory
from scaling.accounting.flops import forward_flops_per_sequence
from scaling.accounting.trained import param_groups, training_flops_per_sequence
from scaling.config import EVERYTHING, ModelConfig, ParamSelection
from scaling.models import Transformer
from scaling.models.params import params_by_path
from scaling.models.trainable import trained_of, with_trained
from tests.accounting.test_flops import BERT, FORWARD, SEQUENCES, WIDE
from tests.accounting.test_params import MODELS


def selections(*each: dict[str, object]) -> tuple[ParamSelection, ...]:
    return tuple(ParamSelection(**given) for given in each)


@pytest.mark.parametrize("name", MODELS)
def test_groups_are_those_of_the_model(name):
    config = ModelConfig(**MODELS[name])
    model = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))
    expected: Counter[tuple[object, ...]] = Counter()
    for param in params_by_path(model).values():
        info = param.info
        for layer in info.layers or (None,):
            size = math.prod(param.shape) // len(info.layers or (None,))
            expected[info.part, info.role, layer] += size
    found: Counter[tuple[object, ...]] = Counter()
    for group in param_groups(config):
        found[group[:3]] += group.size
    assert found == expected
    assert trained_parameters(config, EVERYTHING) == count_parameters(config).total


TRAINED = {
    "head": (WIDE | {"tied_head": False}, [{"parts": ["head"]}]),
    "head and last layer": (WIDE | {"n_layers": 4, "tied_head": False},
                            [{"parts": ["head"]}, {"layers": "last 1"}]),
    "first layer": (WIDE | {"n_layers": 3}, [{"layers": [0]}]),
    "a layer in the middle": (WIDE | {"n_layers": 3}, [{"layers": [1]}]),
    "embedding": (WIDE, [{"parts": ["embedding"]}]),
    "all but embeddings": (WIDE | {"positions": "learned"},
                           [{"roles": ["hidden", "readout", "gain", "bias"]}]),
    "biases": (WIDE | BERT, [{"roles": ["bias"]}, {"parts": ["head"]}]),
    "shared": (WIDE | FORWARD["albert"], [{"roles": ["hidden"]}]),
    "decoder": (WIDE | FORWARD["t5"], [{"parts": ["decoder"]}]),
    "encoder": (WIDE | FORWARD["t5"], [{"parts": ["encoder"]}]),
    "experts": (WIDE | FORWARD["experts"] | {"n_layers": 4}, [{"layers": "last 2"}]),
}


@pytest.mark.parametrize("name", TRAINED)
def test_flops_are_what_xla_counts(name):
    """The bound is exact up to the gradient of the input of the lowest block."""
    values, given = TRAINED[name]
    config, trainable = ModelConfig(**values), selections(*given)
    model = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((SEQUENCES, config.context), "int32")
    source = (jax.ShapeDtypeStruct((SEQUENCES, config.source_length), "int32")
              if config.mode == "encoder-decoder" else None)

    def gradient(model, tokens, source):
        def loss(trained):
            whole = with_trained(model, trained)
            states = whole.states(tokens, source)
            return sum(jnp.square(whole.head(h.kind, states)).sum() for h in config.outputs)

        return jax.grad(loss)(trained_of(model, config, trainable))

    program = jax.jit(gradient).lower(model, tokens, source)
    counted = program.compile().cost_analysis()["flops"] / SEQUENCES
    ours = training_flops_per_sequence(config, trainable)
    assert 0.99 < ours / counted < 1.06
    assert ours < training_flops_per_sequence(config, EVERYTHING)


TOKENS, D, LAYERS, V = 5, 8, 3, 7
WEIGHTS = 2 * TOKENS * 12 * D**2  # FLOPs of the matrices of a layer, forwards
PRODUCTS = 2 * 2 * TOKENS**2 * D  # of its scores and sums of values
HEAD = 2 * TOKENS * V * D
ABOVE = WEIGHTS + 2 * PRODUCTS  # gradients of the activations of a layer


@pytest.mark.parametrize(("changes", "given", "added"), [
    ({}, {"layers": [1]}, WEIGHTS + 2 * ABOVE + HEAD),
    ({}, {"layers": "last 1"}, WEIGHTS + ABOVE + HEAD),
    ({}, {"layers": "last 1", "roles": ["gain"]}, ABOVE + HEAD),
    ({}, {"parts": ["embedding"]}, 3 * ABOVE + 2 * HEAD),  # the table is that of the head too
    ({"tied_head": False}, {"parts": ["embedding"]}, 3 * ABOVE + HEAD),
    ({"tied_head": False}, {"parts": ["head"]}, HEAD),
    ({"tied_head": False}, {"roles": ["readout"]}, HEAD),
    ({"use_bias": True}, {"roles": ["bias"]}, 3 * ABOVE + HEAD),
    ({"positions": "learned"}, {"roles": ["position"]}, 3 * ABOVE + HEAD),
    ({}, {"roles": ["hidden"]}, 3 * (WEIGHTS + ABOVE) + HEAD),
    ({"share_layers": "all"}, {"roles": ["hidden"]}, 3 * (WEIGHTS + ABOVE) + HEAD),
    # A projection of the embeddings to the layers, and another of the states before the table.
    ({"d_embedding": 4}, {"roles": ["hidden"]},
     3 * (WEIGHTS + ABOVE) + 2 * TOKENS * 4 * D + 2 * (2 * TOKENS * D * 4) + HEAD // 2),
    # Which is trained by a gradient that comes through the table.
    ({"d_embedding": 4}, {"parts": ["head"]}, 2 * TOKENS * D * 4 + HEAD // 2),
])
def test_what_training_a_part_adds_by_hand(changes, given, added):
    """Gradients of the trained matrices, and of all activations from the lowest trained layer on;
    of attention's products twice the forward pass."""
    config = ModelConfig(d_model=D, n_layers=LAYERS, n_heads=2, context=TOKENS, vocab_size=V,
                         **changes)
    forward = sum(forward_flops_per_sequence(config).values())
    assert training_flops_per_sequence(config, selections(given)) == forward + added


def test_all_parameters_take_three_forward_passes():
    everything = selections({"roles": ["embedding", "position", "hidden", "readout", "gain",
                                       "bias"]})
    for name, changes in FORWARD.items():
        config = ModelConfig(**WIDE | changes)
        assert training_flops_per_sequence(config, everything) == (
            training_flops_per_sequence(config, EVERYTHING)), name


def test_memory_of_frozen_parameters():
    config = ModelConfig(**WIDE)
    trainable = selections({"layers": "last 1"})
    memory = training_memory(config, sequences=4, trainable=trainable)
    trained = trained_parameters(config, trainable)
    assert memory["parameters"] == 4 * count_parameters(config).total
    assert (memory["gradients"], memory["moments"]) == (4 * trained, 8 * trained)
