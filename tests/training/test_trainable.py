"""Frozen parameters stay bit for bit, have no optimizer state, and change nothing of the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import EVERYTHING, ParamSelection
from scaling.errors import UserError
from scaling.models.params import params_by_path
from scaling.models.trainable import take_rows, trained_of, with_trained
from scaling.objectives import Examples
from scaling.optim.optimizers import init_optimizer, optimizer_numbers
from scaling.parallel import make_mesh
from scaling.runs.record import describe_run
from scaling.training.checkpoint import Checkpoints
from scaling.training.loop import Stopped, train
from scaling.training.microbatch import value_and_grad
from scaling.training.step import TrainState, init_state, make_train_step, step_seeds

BIASED = ("model.use_bias=true", "model.norm=layer", "model.n_layers=3", "model.tied_head=false")

FILTERS = {
    "biases and head": [{"roles": ["bias"]}, {"parts": ["head"]}],
    "all but embeddings": [{"roles": ["hidden", "readout", "gain", "bias"]}],
    "some layers": [{"layers": [0, 2]}, {"parts": ["head"]}],
    "biases of the last layers": [{"roles": ["bias"], "layers": "last 2"}],
}


def is_chosen(name, info, layer):
    """The filters in other words."""
    return {
        "biases and head": info.role == "bias" or info.part == "head",
        "all but embeddings": info.role not in ("embedding", "position"),
        "some layers": layer in (0, 2) or info.part == "head",
        "biases of the last layers": info.role == "bias" and layer in (1, 2),
    }[name]


@pytest.fixture
def drawn(make_run):
    """A model, the same for every filter, so that it is compiled once."""
    return init_state(make_run(*BIASED)).model


def stepped(run, store, model, microbatch=None):
    """The state after two steps."""
    state = TrainState(jax.tree.map(jnp.copy, model), init_optimizer(
        run.optimizer.kind, trained_of(model, run.model, run.trainable)))
    step = make_train_step(run.objective, microbatch, trainable=run.trainable)
    examples = Examples.of(run, store)
    for number in range(2):
        numbers = optimizer_numbers(run.optimizer, 1e-2)
        state, _ = step(state, examples.at(number), numbers, step_seeds(run, number))
    return state


@pytest.mark.parametrize("name", FILTERS)
def test_only_the_chosen_parameters_change(name, make_run, store, drawn):
    run = make_run(*BIASED, trainable=FILTERS[name])
    after = stepped(run, store, drawn)
    old, new = params_by_path(drawn), params_by_path(after.model)
    changed = 0
    for path, param in new.items():
        layers = param.info.layers
        ours, theirs = (np.asarray(p[...]) if layers else np.asarray(p[...])[None]
                        for p in (old[path], param))
        for layer, one, other in zip(layers or (None,), ours, theirs, strict=True):
            if is_chosen(name, param.info, layer):
                assert not np.array_equal(one, other), (path, layer)
                changed += one.size
            else:
                assert one.tobytes() == other.tobytes(), (path, layer)
    sizes = [leaf.size for leaf in jax.tree.leaves(after.optimizer) if leaf.ndim]
    assert sum(sizes) == 2 * changed


def test_a_gradient_is_that_of_all_parameters(make_run, store, drawn):
    """That of a trained parameter does not depend on which others are trained."""
    run = make_run(*BIASED, trainable=FILTERS["some layers"])
    batch = Examples.of(run, store).at(0)

    def loss(model, batch):
        return model(batch["ids"])[..., 1:].mean(), ((), None)

    @jax.jit
    def gradients(model, batch):
        trained = trained_of(model, run.model, run.trainable)
        return (value_and_grad(loss, model, batch, None)[1],
                value_and_grad(loss, model, batch, None, trained=trained)[1])

    whole, part = gradients(drawn, {"ids": batch["ids"]})
    expected = trained_of(whole, run.model, run.trainable)
    assert jax.tree.structure(part) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(part), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-8)


def test_microbatches_change_nothing(make_run, store, drawn):
    run = make_run(*BIASED, trainable=FILTERS["some layers"])
    whole, parts = stepped(run, store, drawn), stepped(run, store, drawn, microbatch=2)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_stopped_run_goes_on(make_run, store, tmp_path):
    run = make_run(*BIASED, trainable=FILTERS["some layers"])
    whole = train(run, store, tmp_path / "whole")
    steps = iter(range(100))
    assert isinstance(
        train(run, store, tmp_path / "parts", asked_to_stop=lambda: next(steps) == 5), Stopped)
    assert train(run, store, tmp_path / "parts")["loss"] == whole["loss"]
    every = describe_run(make_run(*BIASED), store)
    assert whole["params_total"] == every["params_total"] > whole["params_trained"] > 0
    assert every["flops_counted"] / 3 < whole["flops_counted"] < every["flops_counted"]
    with (
        jax.set_mesh(make_mesh(run.execution.mesh)),
        Checkpoints(tmp_path / "parts" / "checkpoints", to_read=True) as checkpoints,
    ):
        first = init_state(run)
        state, _ = checkpoints.restore(first)
    np.testing.assert_array_equal(state.model.embedding[...], first.model.embedding[...])


@pytest.mark.parametrize(("changes", "words"), [
    ({"trainable": {"parts": ["head"]}}, "the model has no parameters with {parts: [head]}"),
    ({"trainable": [{"parts": ["decoder"]}, {"roles": ["bias"]}]}, "with {roles: [bias]}"),
    ({"trainable": {"layers": "last 3"}}, "the decoder has 2 layers, from 0 to 1"),
    ({"trainable": {"parts": ["encoder"]}}, "a decoder-only model has none"),
    ({"trainable": {"roles": ["norm"]}}, "'gain'"),
    ({"trainable": []}, "nothing would be trained"),
    ({"trainable": {"layers": [0]}, "execution": {"scan_layers": True}},
     "execution.scan_layers: one program serves all scanned layers"),
])
def test_what_selects_nothing_is_refused(make_run, changes, words):
    with pytest.raises(UserError) as error:
        make_run(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_are_taken_and_put_back(make_run, drawn):
    x_LX = jnp.arange(12).reshape(6, 2)
    for rows in ([0, 2, 4], [1, 2, 5], [3, 1, 1], [5]):
        np.testing.assert_array_equal(take_rows(x_LX, rows), np.asarray(x_LX)[rows])
    model = make_run(*BIASED).model
    for layers in ((0, 2), (1,), (0, 1)):
        trained = trained_of(drawn, model, (ParamSelection(layers=layers),))
        same = with_trained(drawn, trained)
        assert jax.tree.structure(same) == jax.tree.structure(drawn)
        jax.tree.map(np.testing.assert_array_equal, same, drawn)
    assert trained_of(drawn, model, EVERYTHING) is drawn
