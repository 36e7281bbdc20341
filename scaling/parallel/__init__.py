"""Meshes of devices, and how arrays lie on them."""

from scaling.parallel.mesh import (
    AXES,
    batch_sharding,
    batch_shares,
    check_batch,
    make_mesh,
    out_sharding,
    shard,
    spec,
)

__all__ = ["AXES", "batch_sharding", "batch_shares", "check_batch", "make_mesh", "out_sharding",
           "shard", "spec"]
