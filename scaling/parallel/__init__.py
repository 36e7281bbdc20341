"""Device meshes, sharding, CPU devices, and coordination of the processes of a run.

    mesh.py         the mesh, and the table that maps logical axis names to mesh axes
    cpu_devices.py  presents the cores of a CPU to JAX as several devices
    process.py      set-up of a process before JAX computes, and agreement between processes

Models name the axes of their arrays ("batch", "heads"); only `mesh.py` decides how these are
divided over devices.
"""

from scaling.parallel.mesh import (
    AXES,
    batch_sharding,
    batch_shards,
    check_batch,
    make_mesh,
    out_sharding,
    shard,
    spec,
)

__all__ = ["AXES", "batch_sharding", "batch_shards", "check_batch", "make_mesh", "out_sharding",
           "shard", "spec"]
