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
from scaling.parallel import check_batch, make_mesh

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


@pytest.fixture(scope="module", params=[
    *SHAPES.items(), *(pytest.param(item, marks=pytest.mark.slow) for item in FURTHER.items())
], ids=lambda item: item[0])
def outcomes(request):
    """The results on each mesh, one device first."""
    model, shapes = request.param
    script = Path(__file__).with_name("mesh_losses.py")
    command = [sys.executable, str(script), *(f"{model}/{shape}" for shape in [ONE, *shapes])]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert result.returncode == 0, result.stderr
    return dict(zip([ONE, *shapes], json.loads(result.stdout), strict=True))


def test_losses_are_those_of_one_device(outcomes):
    one = outcomes[ONE]
    assert len(set(one["losses"])) == len(one["losses"]) >= 3
    for shape, many in outcomes.items():
        assert many["losses"] == pytest.approx(one["losses"], rel=2e-6), shape
        assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5), shape
        assert many["checksum"] == pytest.approx(one["checksum"], rel=1e-5), shape


def test_parameters_moments_and_batch_are_divided(outcomes):
    for shape, outcome in outcomes.items():
        data, fsdp, tensor = map(int, shape.split("/")[0].split("x"))
        assert outcome["share"] == 1 / (fsdp * tensor), shape
        assert outcome["moment_share"] == 1 / (fsdp * tensor), shape
        assert outcome["batch_share"] == 1 / (data * fsdp), shape


def test_a_mesh_with_the_wrong_number_of_devices_is_refused():
    with pytest.raises(UserError, match="makes 4 devices, and there are 1"):
        make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:1])


def test_a_batch_that_does_not_divide_is_refused():
    mesh = jax.sharding.AbstractMesh((2, 2, 1), ("data", "fsdp", "tensor"))
    check_batch(mesh, 8)
    with pytest.raises(UserError, match=r"batch_sequences = 6 .* multiple of 4"):
        check_batch(mesh, 6)
