"""The mesh changes where numbers are, not what they are."""

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

SHAPES = [
    f"dense/{shape}" for shape in (
        "1x1x1/16", "1x1x1/4", "8x1x1/1", "4x2x1/2", "2x4x1/1", "2x2x2/2")
] + [f"routed/{shape}" for shape in ("1x1x1/16", "4x2x1/1", "2x2x2/2")] + [
    "bert/1x1x1/16", "bert/2x2x1/2", "ul2/1x1x1/16", "ul2/2x1x1/2",
    "electra/1x1x1/16", "electra/2x2x1/2",
]
"""The model, the mesh's axes, and of a batch's 16 sequences those that a device has at once."""


@pytest.fixture(scope="module")
def outcomes():
    script = Path(__file__).with_name("mesh_losses.py")
    command = [sys.executable, str(script), *SHAPES]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert result.returncode == 0, result.stderr
    return dict(zip(SHAPES, json.loads(result.stdout), strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_losses_are_those_of_one_device(outcomes, shape):
    one, many = outcomes[shape.split("/")[0] + "/1x1x1/16"], outcomes[shape]
    assert len(set(one["losses"])) == len(one["losses"]) >= 3
    assert many["losses"] == pytest.approx(one["losses"], rel=2e-6)
    assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    assert many["checksum"] == pytest.approx(one["checksum"], rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_moments_and_batch_are_really_divided(outcomes, shape):
    data, fsdp, tensor = map(int, shape.split("/")[1].split("x"))
    assert outcomes[shape]["share"] == 1 / (fsdp * tensor)
    assert outcomes[shape]["moment_share"] == 1 / (fsdp * tensor)
    assert outcomes[shape]["batch_share"] == 1 / (data * fsdp)


def test_a_mesh_that_does_not_come_out_even_is_refused():
    with pytest.raises(UserError, match="makes 4 devices, and there are 1"):
        make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:1])


def test_a_batch_that_cannot_be_shared_is_refused():
    mesh = jax.sharding.AbstractMesh((2, 2, 1), ("data", "fsdp", "tensor"))
    check_batch(mesh, 8)
    with pytest.raises(UserError, match=r"batch_sequences = 6 .* multiple of 4"):
        check_batch(mesh, 6)
