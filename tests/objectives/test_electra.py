"""ELECTRA: a generator that fills in, and a discriminator that looks for what was filled in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models import Tokens
from scaling.objectives import FUNCTIONS, Examples, normalised
from scaling.training.step import init_state
from tests.objectives.cases import run_of

TOKEN = ord("e")
TERMS = FUNCTIONS["replaced_tokens"].terms


def certain(model):
    """A model whose generator is sure of one token."""
    bias = model.generator.heads["masked_lm"].vocabulary.bias
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.at[TOKEN].set(1e4)
        if leaf.shape == bias[...].shape and "generator" in str(path[0]) else leaf, model)


@pytest.fixture(scope="module")
def electra(special_store):
    run = run_of("electra", special_store, batch_sequences=8)
    batch = Examples.of(run, special_store).at(0)
    # Not all rows have as many hidden tokens as there is room for: ends of documents are text's.
    counts = batch["weights"]["generator"].sum(axis=1)
    assert counts.min() < batch["positions"].shape[1]
    return run, batch, init_state(run).model


@pytest.fixture(scope="module")
def losses(electra):
    run, *_ = electra
    return jax.jit(lambda model, batch: TERMS(run.objective, model, batch, None).losses)


def softplus(x):
    return np.logaddexp(0, x.astype(np.float64))


def test_both_losses_written_down(electra, losses):
    _, batch, model = electra
    model = certain(model)
    seen = batch["original"].copy()
    for row in range(8):
        for place, real in zip(batch["positions"][row], batch["weights"]["generator"][row],
                               strict=True):
            if real:
                seen[row, place] = TOKEN
    replaced = seen != batch["original"]
    assert 0 < replaced.sum() < batch["weights"]["generator"].sum()  # some were right

    @jax.jit
    def say(model, masked, seen):
        table = model.discriminator.embedding[...]
        states = model.generator.states(Tokens(masked), table_VP=table)
        odds = model.discriminator.head(
            "replaced_token", model.discriminator.states(Tokens(seen)))
        return model.generator.head("masked_lm", states, table_VP=table), odds

    logits, odds = jax.device_get(say(model, batch["ids"], seen))
    said = np.where(replaced, softplus(-odds), softplus(odds))
    is_text = batch["original"] < 256
    found = losses(model, batch)
    np.testing.assert_allclose(found["discriminator"], (said * is_text).sum(axis=1), rtol=1e-4)
    logits = logits.astype(np.float64)
    logs = logits - np.log(np.exp(logits - 1e4).sum(-1, keepdims=True)) - 1e4
    for row in range(8):
        expected = sum(
            -logs[row, place, target]
            for place, target, real in zip(
                batch["positions"][row], batch["targets"][row], batch["weights"]["generator"][row],
                strict=True) if real)
        np.testing.assert_allclose(found["generator"][row], expected, rtol=1e-4)


def test_samples_follow_the_seeds_alone(electra, losses):
    _, batch, model = electra
    once, again = losses(model, batch), losses(model, batch)
    other = losses(model, batch | {"seeds": batch["seeds"] + np.uint32(1)})
    for part in ("generator", "discriminator"):
        np.testing.assert_array_equal(once[part], again[part])
    np.testing.assert_array_equal(once["generator"], other["generator"])
    assert (np.asarray(once["discriminator"]) != np.asarray(other["discriminator"])).all()


def sizes(gradient) -> dict[str, float]:
    return {jax.tree_util.keystr(path): float(jnp.abs(leaf).max())
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)}


def test_each_part_trains_its_own_model_and_both_the_embedding(electra):
    run, batch, model = electra
    batch = normalised(batch)

    @jax.jit
    def gradients(model, batch):
        def part(name):
            return lambda m: TERMS(run.objective, m, batch, None).losses[name].mean()

        return [jax.grad(part(name))(model) for name in ("generator", "discriminator")]

    by_generator, by_discriminator = gradients(model, batch)
    for path, size in sizes(by_discriminator).items():
        assert (size > 0) == ("generator" not in path), path
    for path, size in sizes(by_generator).items():
        # The softmax is the same if all logits are higher: biases of what comes before count.
        assert (size > 0) == ("generator" in path or "embedding" in path), path
    assert model.generator.embedding is None
