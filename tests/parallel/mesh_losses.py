"""Losses and parameters after three steps on meshes of eight fake devices; prints JSON.

Arguments are such as dense/4x2x1/2: the model, the mesh's axes, and the sequences that a device
works on at once.

Run by test_mesh.py in a process of its own, since the number of devices is fixed at the start.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 8)
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np  # noqa: E402

from scaling.config import MeshConfig, RunConfig, validate  # noqa: E402
from scaling.data.batches import Batches  # noqa: E402
from scaling.data.run_data import sequences_of  # noqa: E402
from scaling.data.tokenizers.special import SpecialTokens  # noqa: E402
from scaling.models.kernels import attention, cross_entropy  # noqa: E402
from scaling.objectives import FUNCTIONS  # noqa: E402
from scaling.objectives.base import ExampleContext  # noqa: E402
from scaling.optim.optimizers import optimizer_numbers  # noqa: E402
from scaling.parallel import batch_sharding, make_mesh  # noqa: E402
from scaling.training.step import (  # noqa: E402
    init_state,
    make_train_step,
    step_seeds,
)
from tests.data.memory import documents  # noqa: E402
from tests.training.contrastive import CONTRASTIVE  # noqa: E402

TEXT = 20
SPECIAL = SpecialTokens(eos=20, pad=21, cls=22, sep=23, mask=24,
                        sentinels=(31, 30, 29, 28, 27, 26, 25))

attention.ATTENTION_BLOCK, cross_entropy.CROSS_ENTROPY_CHUNK = 3, 48

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 4, "context": 8, "vocab_size": 32}
MODELS = {
    "dense": {
        "activation": "swiglu", "norm": "layer", "use_bias": True, "positions": "learned",
        "tied_head": False,
    },
    "routed": {  # and with random draws, gathers, repeats and shifts
        "experts": {"count": 4, "top_k": 2, "every": 2}, "dropout": 0.1, "n_kv_heads": 2,
        "positions": "transformer_xl",
    },
    # Objectives whose sequences have different numbers of predictions.
    "bert": {"mode": "encoder-only", "n_layers": 1, "n_token_types": 2, "context": 16,
             "heads": [{"kind": "masked_lm"}, {"kind": "next_sentence"}]},
    "ul2": {"mode": "encoder-decoder", "n_layers": 1, "source_context": 18, "context": 14},
    "electra": {"mode": "encoder-only", "n_layers": 1, "context": 16,
                "heads": [{"kind": "replaced_token"}]},
    # A loss that compares all sequences of the batch.
    "contrastive": {"n_layers": 1, "dropout": 0.1},
    "blocked": {"n_layers": 1, "n_kv_heads": 2, "positions": "relative", "tied_head": False},
    # Some layers are trained.
    "frozen": {"n_layers": 3, "use_bias": True, "tied_head": False},
}
TRAINABLE = {"frozen": [{"layers": [0, 2]}, {"roles": ["bias"]}]}
EXECUTION = {"blocked": {"attention": "blocked", "cross_entropy": "blocked"}}
OBJECTIVES = {
    "bert": {"kind": "masked", "pairs": "next_sentence", "rate": 0.3},
    "ul2": {"kind": "mixture"},
    "electra": {"kind": "replaced_tokens", "rate": 0.5, "generator_size": 0.5},
}
RUN = {
    "data": {"store": "none"}, "tokens": 10_000, "batch_sequences": 16,
    "schedule": {"kind": "wsd", "warmup_steps": 1},
}


def batch_of(run: RunConfig) -> dict[str, object]:
    """A batch of random documents for the run's objective."""
    draw = np.random.default_rng(0)
    if run.objective.kind == "causal":
        return {"ids": draw.integers(0, 32, (16, 9)).astype(np.int32)}
    texts = [draw.integers(0, TEXT, size).tolist() for size in draw.integers(2, 40, 100)]
    sequences = sequences_of(run, documents(texts, SPECIAL.eos))
    context = ExampleContext(run.objective, run.model, SPECIAL, SIZES["vocab_size"], run.seed)
    drawn = Batches(sequences, run.batch_sequences, run.seed).at(0)
    batch = FUNCTIONS[run.objective.kind].examples(context, sequences, drawn)
    predictions = next(iter(batch["weights"].values())).sum(axis=1)
    assert len(set(predictions.tolist())) > 1
    return batch


def train(model: str, shape: tuple[int, int, int], microbatch: int) -> dict[str, object]:
    objective = OBJECTIVES.get(model, {"kind": "causal"})
    content = RUN | {"model": SIZES | MODELS[model], "objective": objective,
                     "execution": EXECUTION.get(model, {}),
                     "trainable": TRAINABLE.get(model, "all")}
    if model == "contrastive":
        FUNCTIONS["causal"] = CONTRASTIVE
    run = validate(RunConfig, content, "test")
    devices = jax.devices()[: math.prod(shape)]
    data, fsdp, tensor = shape
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), devices)
    losses = []
    with jax.set_mesh(mesh):
        state = init_state(run)
        step = make_train_step(run.objective, microbatch, trainable=run.trainable)
        numbers = optimizer_numbers(run.optimizer, 1e-2)
        batch = jax.device_put(batch_of(run), batch_sharding(mesh))
        for number in range(3):
            seeds = step_seeds(run, number)
            state, metrics = step(state, batch, numbers, seeds)
            losses += [float(loss) for loss in metrics.losses.values()]
    up, moment = (first_up(tree) for tree in (state.model, state.optimizer[1].mu))
    ids = batch["ids"]
    return {
        "losses": losses,
        "grad_norm": float(metrics.grad_norm),
        "share": up.addressable_shards[0].data.size / up.size,
        "moment_share": moment.addressable_shards[0].data.size / moment.size,
        "batch_share": ids.addressable_shards[0].data.size / ids.size,
        "checksum": float(np.abs(np.asarray(up)).sum()),
    }


def first_up(model) -> jax.Array:
    """The widening matrix of the first kind of block."""
    model = getattr(model, "discriminator", model)
    tower = model.decoder or model.encoder
    return tower.layers.kinds[0].feed_forward.up.weight[...]


if __name__ == "__main__":
    outcomes = []
    for text in sys.argv[1:]:
        model, mesh, microbatch = text.split("/")
        data, fsdp, tensor = map(int, mesh.split("x"))
        outcomes.append(train(model, (data, fsdp, tensor), int(microbatch)))
    print(json.dumps(outcomes))
