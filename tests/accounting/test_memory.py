"""Estimated memory against XLA's memory analysis of a compiled step."""

from __future__ import annotations

import jax
import pytest

from scaling.accounting import count_parameters, training_memory
from scaling.config import ExecutionConfig, ModelConfig
from scaling.models import Transformer

SMALL = {"d_model": 128, "n_layers": 2, "n_heads": 4, "context": 128, "vocab_size": 512}
SEQUENCES = 16
FACTOR = 1.5
"""Largest relative error of the estimate of activations."""

# The models, and how they are trained. Scanned, layers that are computed again really are: XLA on a
# CPU would make one of the two computations of unrolled ones.
STEPS = {
    "gpt2": ({"norm": "layer", "use_bias": True, "positions": "learned"}, {}),
    "llama": ({"activation": "swiglu", "n_kv_heads": 2}, {"precision": "bfloat16"}),
    "bert": ({"mode": "encoder-only", "norm_place": "post", "norm": "layer", "use_bias": True,
              "positions": "learned", "embedding_norm": True, "vocab_size": 2048}, {}),
    "t5": ({"mode": "encoder-decoder", "positions": "relative", "activation": "relu",
            "source_context": 256, "n_layers": 1}, {}),
    "experts": ({"experts": {"count": 4, "top_k": 2, "every": 1}}, {"remat": "full"}),
    "deep": ({"n_layers": 6}, {"remat": "dots"}),
    "blocked": ({"context": 2048, "n_layers": 1, "vocab_size": 4096},
                {"attention": "blocked", "cross_entropy": "blocked"}),
}


def xla_bytes(
    config: ModelConfig, precision: str = "float32", remat: str = "none", **kernels: str
) -> int:
    """Temporary memory of a compiled gradient: neither parameters nor their gradients."""
    execution = ExecutionConfig(remat=remat, scan_layers=remat != "none", **kernels)
    model = jax.eval_shape(lambda: Transformer(
        config, jax.random.key(0), precision=precision, execution=execution))
    tokens = jax.ShapeDtypeStruct((SEQUENCES, config.context), "int32")
    source = None
    if config.mode == "encoder-decoder":
        source = jax.ShapeDtypeStruct((SEQUENCES, config.source_length), "int32")

    def loss(model, tokens, source):
        states = model.states(tokens, source)
        return model.losses(config.outputs[0].kind, states, tokens).mean()

    compiled = jax.jit(jax.grad(loss)).lower(model, tokens, source).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", STEPS)
def test_activations_match_xlas_memory_analysis(name):
    changes, how = STEPS[name]
    config = ModelConfig(**SMALL | changes)
    estimate = training_memory(config, sequences=SEQUENCES, **how)["activations"]
    assert 1 / FACTOR < estimate / xla_bytes(config, **how) < FACTOR


def test_state_is_sixteen_bytes_a_parameter():
    config = ModelConfig(**SMALL)
    total = count_parameters(config).total
    memory = training_memory(config, sequences=4)
    assert memory["parameters"] == memory["gradients"] == 4 * total
    assert memory["moments"] == 8 * total


def test_microbatches_hold_one_set_of_activations_and_two_of_gradients():
    config = ModelConfig(**SMALL)
    whole, parts = (training_memory(config, sequences=8, microbatch=at_once)
                    for at_once in (None, 2))
    assert whole["activations"] == 4 * parts["activations"]
    assert parts["gradients"] == 2 * whole["gradients"]
    assert training_memory(config, sequences=8, microbatch=8) == whole


def test_rematerialised_activations_are_not_kept():
    config = ModelConfig(**SMALL | {"n_layers": 12})
    full, dots, none = (
        training_memory(config, sequences=1, remat=remat)["activations"]
        for remat in ("full", "dots", "none")
    )
    assert full < dots < none
    # For one more layer, full rematerialisation keeps only the residual stream: T D float32 values.
    deeper = training_memory(
        ModelConfig(**SMALL | {"n_layers": 13}), sequences=1, remat="full")["activations"]
    assert deeper - full == 4 * 128 * 128
