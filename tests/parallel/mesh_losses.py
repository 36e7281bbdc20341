"""Losses and parameters after three steps on meshes of eight fake devices; prints JSON.

Arguments are such as 4x2x1/2: the mesh's axes, and the sequences that a device works on at once.

Run by test_mesh.py in a process of its own, since the number of devices is fixed at the start.
"""

from __future__ import annotations

import json
import math
import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)

import numpy as np  # noqa: E402

from scaling.config import MeshConfig, RunConfig, validate  # noqa: E402
from scaling.parallel import batch_sharding, make_mesh  # noqa: E402
from scaling.training.step import init_state, make_train_step  # noqa: E402

RUN = {
    "model": {
        "d_model": 16, "n_layers": 2, "n_heads": 4, "context": 8, "vocab_size": 32,
        "activation": "swiglu", "norm": "layer", "biases": True, "positions": "learned",
        "tied_head": False,
    },
    "data": {"store": "none"}, "tokens": 10_000, "batch_sequences": 16,
    "schedule": {"kind": "wsd", "warmup_steps": 1},
}


def train(shape: tuple[int, int, int], microbatch: int) -> dict[str, object]:
    run = validate(RunConfig, RUN, "test")
    tokens = np.random.default_rng(0).integers(0, 32, (16, 9)).astype(np.int32)
    devices = jax.devices()[: math.prod(shape)]
    data, fsdp, tensor = shape
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), devices)
    losses = []
    with jax.set_mesh(mesh):
        state, step = init_state(run), make_train_step(run.optimizer, microbatch)
        batch = jax.device_put(tokens, batch_sharding(mesh))
        for _ in range(3):
            state, metrics = step(state, batch, np.float32(1e-2))
            losses.append(float(metrics.loss))
    up = state.model.stack.blocks.feed_forward.up.weight[...]
    moment = state.optimizer[1].mu.stack.blocks.feed_forward.up.weight[...]
    return {
        "losses": losses,
        "grad_norm": float(metrics.grad_norm),
        "share": up.addressable_shards[0].data.size / up.size,
        "moment_share": moment.addressable_shards[0].data.size / moment.size,
        "batch_share": batch.addressable_shards[0].data.size / batch.size,
        "checksum": float(np.abs(np.asarray(up)).sum()),
    }


if __name__ == "__main__":
    outcomes = []
    for text in sys.argv[1:]:
        mesh, microbatch = text.split("/")
        data, fsdp, tensor = map(int, mesh.split("x"))
        outcomes.append(train((data, fsdp, tensor), int(microbatch)))
    print(json.dumps(outcomes))
