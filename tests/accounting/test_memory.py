"""Estimated memory against XLA's memory analysis of a compiled step."""

from __future__ import annotations

import jax
import pytest

from scaling.accounting import count_parameters, run_memory, training_memory
from scaling.accounting.run_memory import device_bytes, estimate_run_bytes
from scaling.config import ExecutionConfig, ModelConfig, RunConfig, validate
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


D, T, H, F, V, LAYERS = 32, 16, 4, 128, 50, 2
NARROW = {"d_model": D, "n_layers": LAYERS, "n_heads": H, "context": T, "vocab_size": V}
FORMS, BRANCHES = 3, 2  # the residual stream, normalised before and after gains; of each branch
BLOCK = FORMS * BRANCHES * T * D + 5 * T * D + H * T * T + 3 * T * F
"""Values that a block keeps: queries, two attention outputs, keys and values; attention weights;
and the input, derivative and output of a GELU."""
ENDS = 2 * T * D + T * F + 2 * T * V
"""Gradients that enter the last block, and logits with theirs."""
WHOLE = 4 * (LAYERS * BLOCK + ENDS)

# Bytes that a change adds to those of the plain model, for one sequence.
ADDED = {
    "relu": ({"activation": "relu"}, {}, -4 * LAYERS * T * F),
    "squared relu": ({"activation": "squared_relu"}, {}, -4 * LAYERS * T * F),
    "exact gelu": ({"activation": "gelu_exact"}, {}, 0),
    "gate": ({"activation": "geglu", "d_ff": F}, {}, 4 * LAYERS * 2 * T * F),
    "other gate": ({"activation": "swiglu", "d_ff": F}, {}, 4 * LAYERS * 2 * T * F),
    "layer norm": ({"norm": "layer"}, {}, 4 * LAYERS * BRANCHES * T * D),
    "no norm": ({"norm_place": "none"}, {}, -4 * LAYERS * BRANCHES * 2 * T * D),
    "one norm": ({"parallel": "one_norm"}, {}, -4 * LAYERS * FORMS * T * D),
    "two norms": ({"parallel": "two_norms"}, {}, 0),
    "distances": ({"positions": "transformer_xl"}, {}, 4 * LAYERS * 2 * T * D),
    "repeated keys": ({"n_kv_heads": 1}, {}, 0),
    "wide heads": ({"d_head": 16}, {}, 4 * LAYERS * 5 * T * D),
    "two heads": ({"heads": [{"kind": "lm"}, {"kind": "sequence", "classes": 9}]}, {}, 0),
    "bfloat16": ({}, {"precision": "bfloat16"}, 2 * LAYERS * (H * T * T + T * F)),
    "blocks of keys": ({}, {"attention": "blocked"}, -4 * (LAYERS - 1) * H * T * T),
    "chunks of logits": ({}, {"cross_entropy": "blocked"}, 0),  # one sequence is one chunk
    "full remat": ({}, {"remat": "full"}, 4 * (LAYERS * T * D + BLOCK - LAYERS * BLOCK)),
    "dots": ({}, {"remat": "dots"}, 4 * (
        LAYERS * (T * D + T * 2 * D + 2 * T * D + T * F) + BLOCK - LAYERS * BLOCK)),
    "gated dots": ({"activation": "geglu", "d_ff": F, "n_kv_heads": 1}, {"remat": "dots"}, 4 * (
        LAYERS * (T * D + T * 2 * D + 2 * T * D // H + 2 * T * F)
        + BLOCK + 2 * T * F - LAYERS * BLOCK)),
    # Four experts with eight slots each, for 16 tokens that go to two of them.
    "experts": ({"experts": {"count": 4, "top_k": 2, "every": 1, "capacity_factor": 1}}, {}, 4 * (
        LAYERS * (3 * 16 * F + 2 * 32 * D + 2 * T * D) + 16 * F)),
    # Of 24 tokens of an encoder; the decoder has a third branch, with keys and values of them.
    "encoder": ({"mode": "encoder-decoder", "source_context": 24}, {}, 4 * LAYERS * (
        FORMS * BRANCHES * 24 * D + 5 * 24 * D + H * 24 * 24 + 3 * 24 * F
        + FORMS * T * D + 3 * T * D + 2 * 24 * D + H * T * 24)),
    # The blocks of both sides keep their input; one block at a time, the larger, is computed again.
    "rematerialised encoder": ({"mode": "encoder-decoder", "source_context": 64}, {
        "remat": "full"}, 4 * (LAYERS * (64 + T) * D - LAYERS * BLOCK + (
            FORMS * BRANCHES * 64 * D + 5 * 64 * D + H * 64 * 64 + 3 * 64 * F))),
}


@pytest.mark.parametrize("name", ADDED)
def test_what_is_kept_by_hand(name):
    """The comparison with XLA sees errors of half only."""
    changes, how, added = ADDED[name]
    model = ModelConfig(**NARROW | changes)
    assert training_memory(model, sequences=1, **how)["activations"] == WHOLE + added


def test_what_grows_with_the_batch():
    model = ModelConfig(**NARROW)
    assert training_memory(model, sequences=3)["activations"] == 3 * WHOLE
    # 2,048 predictions at a time are two of each of 1,024 sequences.
    blocked = training_memory(model, sequences=1024, cross_entropy="blocked")["activations"]
    assert blocked == 1024 * (WHOLE - 4 * 2 * (T - 2) * V)
    parts = training_memory(model, sequences=1024, microbatch=1, cross_entropy="blocked")
    assert parts["activations"] == WHOLE  # all of a microbatch at a time
    long = ModelConfig(**NARROW | {"context": 600})
    plain, by_keys = (training_memory(long, sequences=1, attention=kernel)["activations"]
                      for kernel in ("plain", "blocked"))
    assert plain - by_keys == 4 * H * 600 * (LAYERS * 600 - 512)
    one = training_memory(model, sequences=1, moments=1)
    assert one["moments"] == one["parameters"] == 4 * count_parameters(model).total


GRAPHICS = {
    # what changes, and the bytes of one device in those of the state and of a sequence
    "plain": ({}, lambda state, each: state + 8 * each),
    "data": ({"mesh": {"data": 4}}, lambda state, each: state + 2 * each),
    "uneven": ({"mesh": {"data": 3}}, lambda state, each: state + 3 * each),
    "sharded": ({"mesh": {"fsdp": 2, "data": 2}}, lambda state, each: state // 2 + 2 * each),
    "tensor": ({"mesh": {"tensor": 4}}, lambda state, each: state // 4 + 8 * each),
    "parts": ({"microbatch_sequences": 2}, lambda state, each: state * 5 // 4 + 2 * each),
}


def run_of(execution, **changes):
    return validate(RunConfig, {
        "model": NARROW, "data": {"store": "none"}, "tokens": 10**7, "batch_sequences": 8,
        "execution": execution, **changes}, "test")


@pytest.mark.parametrize("name", GRAPHICS)
def test_the_memory_of_a_run_by_hand(name):
    """State is parameters, gradients and two moments; gradients are held twice where they are
    added up."""
    execution, expected = GRAPHICS[name]
    run = run_of(execution)
    state = 16 * count_parameters(run.model).total
    assert estimate_run_bytes(run) == expected(state, WHOLE)


@pytest.mark.parametrize("changes", [
    {"precision": "bfloat16"}, {"execution": {"remat": "full"}},
    {"execution": {"attention": "blocked"}}, {"execution": {"cross_entropy": "blocked"}},
    {"optimizer": {"kind": "lion"}}, {"trainable": {"layers": [1]}},
])
def test_what_else_changes_the_memory_of_a_run(changes):
    usual = estimate_run_bytes(run_of({}, batch_sequences=1024))
    found = estimate_run_bytes(run_of(**{"execution": {}, "batch_sequences": 1024} | changes))
    assert found > usual if "precision" in changes else found < usual


def test_the_memory_of_the_device_that_is_planned_for(monkeypatch):
    assert device_bytes("H100 PCIe", "3", 7) == 80e9
    pages = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(run_memory.os, "sysconf", pages.__getitem__)
    assert device_bytes(None, None, 4) == 1_024_000
    asked = []
    monkeypatch.setattr(run_memory.subprocess, "check_output",
                        lambda command, **_: asked.append(command) or "81559\n")
    assert device_bytes(None, "GPU-5", 4) == 81559 * 1024**2  # the driver's number is in MiB
    assert asked[0][1:3] == ["-i", "GPU-5"]
    monkeypatch.setattr(run_memory.subprocess, "check_output", lambda *_, **__: "[N/A]")
    assert device_bytes(None, "GPU-5", 4) is None


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
