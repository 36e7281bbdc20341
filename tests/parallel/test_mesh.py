"""Results do not depend on the mesh."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from scaling.config import MeshConfig
from scaling.errors import UserError
from scaling.parallel import batch_shards, check_batch, make_mesh, out_sharding, spec

ONE = "1x1x1/16"
SHAPES = {
    "dense": ["1x1x1/4", "2x2x2/2"],
    "routed": ["2x2x2/2"],
    "bert": ["2x2x1/2"],
    "contrastive": ["2x2x1/2"],
    "blocked": ["2x2x2/2"],
    "frozen": ["2x2x2/2"],
}
"""For each model the axes of the mesh, and the sequences of a microbatch, of 16 in a batch."""
FURTHER = {
    "dense": ["8x1x1/1", "4x2x1/2", "2x4x1/1"],
    "routed": ["4x2x1/1"],
    "ul2": ["2x1x1/2"],
    "electra": ["2x2x1/2"],
}


TOGETHER = [("dense", "frozen"), ("routed", "blocked"), ("bert", "contrastive")]
"""Models that one process trains, the one with an objective of its own last."""


def test_every_model_is_trained():
    assert sorted(model for group in TOGETHER for model in group) == sorted(SHAPES)


@pytest.fixture(scope="module", params=[
    *({model: SHAPES[model] for model in group} for group in TOGETHER),
    *(pytest.param({model: shapes}, marks=pytest.mark.slow) for model, shapes in FURTHER.items()),
], ids=" ".join)
def outcomes(request):
    """By model the results on each mesh, one device first."""
    asked = {model: [ONE, *shapes] for model, shapes in request.param.items()}
    script = Path(__file__).with_name("mesh_losses.py")
    command = [sys.executable, str(script),
               *(f"{model}/{shape}" for model, shapes in asked.items() for shape in shapes)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert result.returncode == 0, result.stderr
    found = iter(json.loads(result.stdout))
    return {model: {shape: next(found) for shape in shapes} for model, shapes in asked.items()}


def test_losses_are_those_of_one_device(outcomes):
    for model, by_shape in outcomes.items():
        one = by_shape[ONE]
        assert len(set(one["losses"])) == len(one["losses"]) >= 3
        for shape, many in by_shape.items():
            place = f"{model}/{shape}"
            assert many["losses"] == pytest.approx(one["losses"], rel=2e-6), place
            assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5), place
            assert many["checksum"] == pytest.approx(one["checksum"], rel=1e-5), place


def test_parameters_moments_and_batch_are_divided(outcomes):
    for model, by_shape in outcomes.items():
        for shape, outcome in by_shape.items():
            data, fsdp, tensor = map(int, shape.split("/")[0].split("x"))
            place = f"{model}/{shape}"
            assert outcome["share"] == 1 / (fsdp * tensor), place
            assert outcome["moment_share"] == 1 / (fsdp * tensor), place
            assert outcome["batch_share"] == 1 / (data * fsdp), place


def test_a_mesh_with_the_wrong_number_of_devices_is_refused():
    with pytest.raises(UserError, match="makes 4 devices, and there are 1"):
        make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:1])


def test_a_batch_that_does_not_divide_is_refused():
    mesh = jax.sharding.AbstractMesh((2, 2, 1), ("data", "fsdp", "tensor"))
    check_batch(mesh, 8)
    with pytest.raises(UserError, match=r"batch_sequences = 6 .* multiple of 4"):
        check_batch(mesh, 6)


def test_an_axis_is_divided_by_its_name_where_the_mesh_divides_it():
    """A mesh axis that is of size one, that is under manual control, or whose size does not divide
    the array's axis is left out."""
    mesh = jax.sharding.AbstractMesh(
        (2, 3, 4), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Explicit,) * 3)
    names = ("batch", "embed", "heads", "ff", "vocab", None)
    with jax.sharding.use_abstract_mesh(mesh):
        assert tuple(spec((12, 9, 8, 12, 16, 24), names)) == (
            ("data", "fsdp"), "fsdp", "tensor", "tensor", "tensor", None)
        # Of 8 rows, 2 x 3 divide none; nor do 3 and 4 what is no multiple of them.
        assert tuple(spec((8, 8, 6, 10, 2, 24), names)) == (None,) * 6
        assert tuple(out_sharding((12, 8), "batch", "heads")) == (("data", "fsdp"), "tensor")
        assert batch_shards() == 6
        with pytest.raises(ValueError, match="zip"):
            spec((12, 8), ("batch",))
    assert batch_shards(mesh) == 6
    flat = jax.sharding.AbstractMesh(
        (2, 1, 1), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Explicit,) * 3)
    with jax.sharding.use_abstract_mesh(flat):
        assert tuple(spec((12, 9, 8), ("batch", "embed", "heads"))) == ("data", None, None)
    assert out_sharding((12, 8), "batch", "heads") is None


def test_a_mesh_has_its_axes_in_order_and_by_default_all_devices():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    with pytest.raises(UserError, match="data 1 x fsdp 2 x tensor 3 makes 6"):
        make_mesh(MeshConfig(fsdp=2, tensor=3), jax.devices()[:1])
