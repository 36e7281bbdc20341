"""Losses and parameters after three steps on meshes of eight fake devices; prints JSON.

Arguments are such as dense/4x2x1/2: the model, the mesh's axes, and the sequences that a device
works on at once.

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
from scaling.training.step import init_state, make_train_step, step_seeds  # noqa: E402

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 4, "context": 8, "vocab_size": 32}
MODELS = {
    "dense": {
        "activation": "swiglu", "norm": "layer", "biases": True, "positions": "learned",
        "tied_head": False,
    },
    "routed": {  # and with what is drawn, gathered, repeated or shifted
        "experts": {"count": 4, "top_k": 2, "every": 2}, "dropout": 0.1, "n_kv_heads": 2,
        "positions": "transformer_xl",
    },
}
RUN = {
    "data": {"store": "none"}, "tokens": 10_000, "batch_sequences": 16,
    "schedule": {"kind": "wsd", "warmup_steps": 1},
}


def train(model: str, shape: tuple[int, int, int], microbatch: int) -> dict[str, object]:
    run = validate(RunConfig, RUN | {"model": SIZES | MODELS[model]}, "test")
    tokens = np.random.default_rng(0).integers(0, 32, (16, 9)).astype(np.int32)
    devices = jax.devices()[: math.prod(shape)]
    data, fsdp, tensor = shape
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), devices)
    losses = []
    with jax.set_mesh(mesh):
        state, step = init_state(run), make_train_step(run.optimizer, microbatch)
        batch = jax.device_put(tokens, batch_sharding(mesh))
        for number in range(3):
            seeds = step_seeds(run, number)
            state, metrics = step(state, batch, np.float32(1e-2), seeds)
            losses.append(float(metrics.loss))
    up = state.model.decoder.stack.kinds[0].feed_forward.up.weight[...]
    moment = state.optimizer[1].mu.decoder.stack.kinds[0].feed_forward.up.weight[...]
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
        model, mesh, microbatch = text.split("/")
        data, fsdp, tensor = map(int, mesh.split("x"))
        outcomes.append(train(model, (data, fsdp, tensor), int(microbatch)))
    print(json.dumps(outcomes))
