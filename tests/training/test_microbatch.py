"""How a batch is worked on in parts. That the parts' gradients add up to the batch's is tested on
meshes, in tests/parallel."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from scaling.config import MeshConfig, RunConfig, validate
from scaling.errors import UserError
from scaling.parallel import make_mesh, spec
from scaling.training.microbatch import sequences_at_once, value_and_grad
from tests.config.test_objectives import FITTING, content

pytestmark = pytest.mark.quick

LONG = ("tokens=100000000", "data.epochs=2000")  # enough for a few steps of any batch below


def at_once(run):
    with jax.set_mesh(make_mesh(MeshConfig())):
        return sequences_at_once(run)


def test_what_is_asked_for_must_divide_the_batch(make_run):
    assert at_once(make_run("batch_sequences=12", "execution.microbatch_sequences=3")) == 3
    with pytest.raises(UserError, match=r"microbatch_sequences = 5 .* the 12 sequences"):
        at_once(make_run("batch_sequences=12", "execution.microbatch_sequences=5"))


@pytest.mark.parametrize(("batch", "width", "context", "expected"), [
    (32, 128, 128, 4),     # 65,536 activations are 512 tokens
    (16, 64, 128, 8),      # and 1,024, the most
    (16, 256, 256, 2),     # and 256, less than the least
    (2, 64, 128, 2),       # a batch smaller than that stays whole
    (7, 64, 512, 1),       # the divisors of 7 are 1 and 7; a part is 2 sequences
    (4, 64, 1536, 1),      # a sequence is never cut
    (3, 64, 568, 3),       # 1.8 are wanted, and 3 is less times too many than 1 is too few
])
def test_on_a_cpu_a_part_fits_into_cache(make_run, batch, width, context, expected):
    run = make_run(f"batch_sequences={batch}", f"model.d_model={width}", "model.n_heads=2",
                   f"model.context={context}", *LONG)
    assert at_once(run) == expected


def test_the_positions_of_both_sides_count():
    """512 of the encoder and 114 of the decoder: two such sequences are about 1,024 tokens."""
    assert at_once(validate(RunConfig, content(*FITTING["t5"]), "test")) == 2


def test_a_device_has_its_share_of_the_batch(make_run, monkeypatch):
    """Of six, a sixth: the devices along the axis `tensor` work on the same sequences."""
    mesh = jax.sharding.AbstractMesh(
        (2, 3, 4), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Explicit,) * 3)
    run, asked = (make_run("batch_sequences=24", *more, *LONG) for more in (
        (), ("execution.microbatch_sequences=3",)))
    with jax.sharding.use_abstract_mesh(mesh):
        with pytest.raises(UserError, match=r"= 3 .* the 4 sequences .* a divisor of 4"):
            sequences_at_once(asked)
        assert sequences_at_once(run) == 4
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        assert sequences_at_once(run) == 4


def test_an_accelerator_takes_its_whole_share(make_run, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert at_once(make_run("batch_sequences=64", *LONG)) == 64


def scans(jaxpr):
    """The lengths of all loops of a program."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            found.append(equation.params["length"])
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            found += scans(inner) if hasattr(inner, "eqns") else []
    return found


@pytest.mark.parametrize(("axes", "at_once", "expected"), [
    ((2, 2, 2), 2, [2]),     # 16 sequences are 4 on each of 2 x 2 devices
    ((2, 2, 2), 1, [4]),
    ((1, 2, 2), 2, [4]),
    ((4, 1, 1), 1, [4]),
    ((2, 2, 2), 4, []),      # one part needs no loop
    ((2, 2, 2), None, []),
])
def test_a_batch_is_divided_by_devices_and_then_into_parts(axes, at_once, expected):
    names = ("data", "fsdp", "tensor")
    mesh = jax.sharding.AbstractMesh(
        axes, names, axis_types=(jax.sharding.AxisType.Explicit,) * 3)

    def part_loss(model, batch):
        x_BD = batch["x"] * model["w"]
        return x_BD.mean(), ({"mean": x_BD.mean()}, None)

    with jax.sharding.use_abstract_mesh(mesh):
        whole = jax.sharding.NamedSharding(mesh, PartitionSpec())
        rows = jax.sharding.NamedSharding(mesh, spec((16, 3), ("batch", None)))
        model = {"w": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=whole)}
        batch = {"x": jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=rows)}
        traced = jax.make_jaxpr(partial(value_and_grad, part_loss, at_once=at_once))(model, batch)
    assert scans(traced.jaxpr) == expected
