"""Every bit of a seed counts, and seeds of 32 bits draw what they have always drawn."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from scaling.config.base import LARGEST_INTEGER
from scaling.data.random import sequence_keys
from scaling.objectives import Examples
from scaling.training.step import dropout_seeds, init_state, seed_words, step_seeds

pytestmark = pytest.mark.quick

SEEDS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**62, LARGEST_INTEGER]


def distinct(values) -> bool:
    return len({np.asarray(value).tobytes() for value in values}) == len(values)


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_seed_of_32_bits_has_the_key_that_jax_gives_it(seed):
    assert (seed_words(seed) == jax.random.key_data(jax.random.key(seed))).all()


def test_parameters_differ(make_run):
    assert distinct([max(jax.tree.leaves(init_state(make_run(seed=seed)).model), key=np.size)
                     for seed in SEEDS])


def test_dropout_differs(make_run):
    run = make_run("model.dropout=0.5")
    drawn = [dropout_seeds(run.model, step_seeds(run.model_copy(update={"seed": seed}), step), 3)
             for seed in SEEDS for step in (0, 1)]
    assert distinct(drawn)
    key = jax.random.fold_in(jax.random.key(7), 5)  # as it was for seeds of 32 bits
    seeds = step_seeds(run.model_copy(update={"seed": 7}), 5)
    assert (dropout_seeds(run.model, seeds, 3)
            == jax.random.key_data(jax.random.split(key, 3))).all()


@pytest.mark.parametrize("rates", [{"dropout": 0.5, "attention_dropout": 0},
                                   {"attention_dropout": 0.5}, {"dropout": 0.5}, {}])
def test_whatever_is_dropped_is_seeded(make_run, rates):
    run = make_run(*(f"model.{key}={value}" for key, value in rates.items()))
    drawn = dropout_seeds(run.model, step_seeds(run, 1), 3)
    assert (drawn is None) == (not rates)
    assert drawn is None or (drawn.shape == (3, 2) and distinct(drawn))


def test_order_and_noise_differ(make_run, store):
    runs = [make_run(seed=seed) for seed in SEEDS]
    assert distinct([Examples.of(run, store).at(0)["ids"] for run in runs])
    one = np.arange(3)
    assert distinct([sequence_keys(seed, one, one, "masked") for seed in SEEDS])
