"""The mesh of devices, and the one table that says which array axis lies along which mesh axis.

The mesh has Explicit axes: the sharding of an array is part of its type, and JAX refuses a
program that leaves it open. `jax.jit` over such arrays is what `pjit` used to be.

Code names the axes of its arrays by what they mean ("batch", "heads"); only this file knows
devices. A mesh axis of size one, or one that does not divide the array, is dropped here, so that
one device, or no mesh at all, is no special case anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scaling.config import MeshConfig
from scaling.errors import UserError

AXES = ("data", "fsdp", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),  # the d_model axis of a parameter at rest; activations keep theirs whole
    "heads": ("tensor",),
    "ff": ("tensor",),
    "vocab": ("tensor",),
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices (or those given), shaped as configured.

    Raises:
        UserError: the devices do not come out even.
    """
    devices = jax.devices() if devices is None else devices
    inner = config.fsdp * config.tensor
    data = config.data or max(1, len(devices) // inner)
    if data * inner != len(devices):
        raise UserError(
            f"execution.mesh: data {data} x fsdp {config.fsdp} x tensor {config.tensor} makes "
            f"{data * inner} devices, and there are {len(devices)}; choose axes whose product is "
            f"{len(devices)}, or leave data out"
        )
    return jax.make_mesh(
        (data, config.fsdp, config.tensor), AXES,
        axis_types=(AxisType.Explicit,) * len(AXES), devices=devices,
    )


def spec(shape: Sequence[int], names: Sequence[str | None]) -> PartitionSpec:
    """Where an array lies on the mesh in force (`jax.set_mesh`), along the axes that are not
    already divided by hand (`jax.shard_map`).

    Args:
        shape: the array's shape.
        names: for each axis a key of RULES, or None for one that is never divided.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {axis: size for axis, size in mesh.shape.items() if axis not in mesh.manual_axes}
    parts: list[tuple[str, ...] | str | None] = []
    for length, name in zip(shape, names, strict=True):
        axes = tuple(a for a in RULES.get(name or "", ()) if sizes.get(a, 1) > 1)
        if length % math.prod(sizes[a] for a in axes):
            axes = ()
        parts.append(axes[0] if len(axes) == 1 else axes or None)
    return PartitionSpec(*parts)


def shard(x: jax.Array, *names: str | None) -> jax.Array:
    """The array laid out as its axes' names say; itself where no mesh is in force."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.sharding.reshard(x, spec(x.shape, names))


def out_sharding(shape: Sequence[int], *names: str | None) -> PartitionSpec | None:
    """What an einsum that sums over a divided axis must be told; None where no mesh is in force."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    return spec(shape, names)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of an array whose first axis is the sequence."""
    with jax.set_mesh(mesh):
        axes = spec((math.prod(mesh.devices.shape),), ("batch",))
    return NamedSharding(mesh, axes)


def batch_shares(mesh: Mesh | None = None) -> int:
    """How many devices of a mesh, by default the one in force, divide a batch among them."""
    sizes = (jax.sharding.get_abstract_mesh() if mesh is None else mesh).shape
    return math.prod(sizes.get(axis, 1) for axis in RULES["batch"])


def check_batch(mesh: Mesh, sequences: int) -> None:
    """Refuse a batch that the data axes cannot share out evenly.

    Raises:
        UserError: naming both numbers.
    """
    shares = batch_shares(mesh)
    if sequences % shares:
        raise UserError(
            f"batch_sequences = {sequences} cannot be shared evenly by {shares} devices (mesh axes "
            f"data x fsdp); choose a multiple of {shares}"
        )
