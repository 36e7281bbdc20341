"""The device mesh, and the table that maps logical axis names to mesh axes.

The mesh has Explicit axis types: the sharding of an array is part of its type, and JAX refuses a
program with ambiguous sharding. `jax.jit` over such arrays replaces `pjit`.

Other code names the axes of its arrays by their meaning ("batch", "heads"). A mesh axis of size
one, or one that does not divide the array axis, is dropped here, so that one device or no mesh is
not a special case elsewhere.
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
    "embed": ("fsdp",),  # the d_model axis of stored parameters; that of activations is not divided
    "heads": ("tensor",),
    "ff": ("tensor",),
    "vocab": ("tensor",),
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the given devices, by default all, with the configured shape.

    Raises:
        UserError: the product of the axes is not the number of devices.
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
    """The partition spec of an array on the current mesh (`jax.set_mesh`), without mesh axes that
    are under manual control (`jax.shard_map`).

    Args:
        shape: the array's shape.
        names: for each axis a key of RULES, or None for an axis that is never divided.
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
    """The array resharded by the names of its axes; unchanged without a current mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    sharded: jax.Array = jax.sharding.reshard(x, spec(x.shape, names))
    return sharded


def out_sharding(shape: Sequence[int], *names: str | None) -> PartitionSpec | None:
    """The `out_sharding` of an einsum that sums over a divided axis; None without a current
    mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    return spec(shape, names)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of an array whose first axis is the batch."""
    with jax.set_mesh(mesh):
        axes = spec((math.prod(mesh.devices.shape),), ("batch",))
    return NamedSharding(mesh, axes)


def batch_shards(mesh: Mesh | None = None) -> int:
    """Number of shards of a batch on a mesh, by default the current one."""
    sizes = (jax.sharding.get_abstract_mesh() if mesh is None else mesh).shape
    return math.prod(sizes.get(axis, 1) for axis in RULES["batch"])


def check_batch(mesh: Mesh, sequences: int) -> None:
    """Check that a batch divides evenly over the data axes of a mesh.

    Raises:
        UserError: it does not; the message has both numbers.
    """
    shards = batch_shards(mesh)
    if sequences % shards:
        raise UserError(
            f"batch_sequences = {sequences} does not divide evenly over {shards} devices (mesh "
            f"axes data x fsdp); choose a multiple of {shards}"
        )
