"""Compile time and execution time of the three modes of the Transformer on this machine.

    python benchmarks/models.py [--threads 1] [--rounds 5] [--json FILE]

Each mode is measured at two sizes, with scanned and with unrolled layers, in a separate process
without a compile cache. A process traces and compiles the forward pass and the gradient once; then
each round measures all processes of a size in turn, so that other load on the machine affects them
alike. Printed are the seconds of tracing and compilation together, and medians over rounds of the
milliseconds per call. A batch has 1,024 tokens; in an encoder-decoder, 512 for the encoder and 512
for the decoder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

MODES = ("encoder-only", "encoder-decoder", "decoder-only")
SIZES = {
    "1M": (128, 4, 4, 1024),
    "10M": (320, 8, 5, 4096),
}
"""Width, layers, heads and vocabulary size. An encoder-decoder has half of the layers in the
encoder and half in the decoder."""
TOKENS, CONTEXT = 1024, 128
LAYERS = ("unrolled", "scanned")
PASSES = ("forward", "gradient")
CALLS = 3
"""Calls that are timed together in a round."""


def model_of(mode: str, size: str) -> Any:
    """The configuration of the model of a mode and size."""
    from scaling.config import ModelConfig

    d_model, n_layers, n_heads, vocab_size = SIZES[size]
    halved = mode == "encoder-decoder"
    return ModelConfig(
        mode=mode, d_model=d_model, n_layers=n_layers // 2 if halved else n_layers,
        n_heads=n_heads, vocab_size=vocab_size, context=CONTEXT, positions="learned",
    )


def build(mode: str, size: str, layers: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """For each pass, a function without arguments that runs it and waits for its result; and the
    number of parameters and the seconds of tracing and compiling each pass."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from scaling.config import ExecutionConfig
    from scaling.models import Transformer
    from scaling.parallel.process import keep_freed_memory

    keep_freed_memory()
    config, execution = model_of(mode, size), ExecutionConfig(scan_layers=layers == "scanned")
    model = jax.jit(lambda key: Transformer(config, key, execution=execution))(jax.random.key(0))
    n_inputs = 2 if mode == "encoder-decoder" else 1
    ids = np.random.default_rng(0).integers(
        0, config.vocabulary, (n_inputs, TOKENS // n_inputs // CONTEXT, CONTEXT)).astype(np.int32)

    def loss(model: Any, ids: Any) -> Any:
        logits = model(*ids)
        return -jax.nn.log_softmax(logits)[..., 0].mean()

    functions = {"forward": jax.jit(lambda model, ids: model(*ids)),
                 "gradient": jax.jit(jax.value_and_grad(loss))}
    figures: dict[str, Any] = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(model))}
    calls, ids = {}, jnp.asarray(ids)
    for name, function in functions.items():
        start = time.perf_counter()
        compiled = function.lower(model, ids).compile()
        figures[f"{name}_compile_seconds"] = time.perf_counter() - start
        calls[name] = lambda compiled=compiled: jax.block_until_ready(compiled(model, ids))
    return calls, figures


def serve(mode: str, size: str, layers: str) -> None:
    """Compile and print the figures of `build`; then, for every line on standard input, time CALLS
    calls of each pass and print the seconds per call. Each line of output is a JSON object."""
    calls, figures = build(mode, size, layers)
    for call in calls.values():
        call()
    print(json.dumps(figures), flush=True)
    for _ in sys.stdin:
        seconds = {}
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            seconds[name] = (time.perf_counter() - start) / CALLS
        print(json.dumps(seconds), flush=True)


def measure(size: str, rounds: int, threads: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Number of parameters, seconds of compilation and median seconds per call, by mode and layout
    of the layers. The processes compile one after the other, and are then measured in rounds.

    Args:
        size: a key of SIZES.
        rounds: number of rounds.
        threads: 1 for a single thread; all cores otherwise.
    """
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1]),
                       JAX_ENABLE_COMPILATION_CACHE="false")
    if threads == 1:
        environment["XLA_FLAGS"] = (
            "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    servers: dict[tuple[str, str], subprocess.Popen[str]] = {}
    results: dict[str, dict[str, dict[str, Any]]] = {mode: {} for mode in MODES}
    for mode in MODES:
        for layers in LAYERS:
            server = subprocess.Popen(
                [sys.executable, __file__, "--serve", mode, "--size", size, "--layers", layers],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            )
            assert server.stdout is not None
            results[mode][layers] = json.loads(server.stdout.readline())
            servers[mode, layers] = server
    seconds: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in servers}
    for _ in range(rounds):
        for key, server in servers.items():
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write("measure\n")
            server.stdin.flush()
            seconds[key].append(json.loads(server.stdout.readline()))
    for (mode, layers), server in servers.items():
        server.communicate()
        for name in PASSES:
            results[mode][layers][f"{name}_seconds"] = median(
                times[name] for times in seconds[mode, layers])
    return results


def main() -> None:
    """Measure, print and write the figures; see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=0,
                        help="1 for a single thread; 0, the default, for all cores.")
    parser.add_argument("--rounds", type=int, default=5,
                        help="Number of rounds; %(default)s by default.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write the figures to FILE.")
    parser.add_argument("--size", choices=SIZES, action="append",
                        help="Size to measure; may be repeated; all by default.")
    parser.add_argument("--serve", choices=MODES,
                        help="Internal: measure this mode in this process, on request.")
    parser.add_argument("--layers", choices=LAYERS, help="Internal: layout of layers for --serve.")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.size[0], arguments.layers)
        return
    results: dict[str, Any] = {"threads": arguments.threads or os.cpu_count(),
                               "rounds": arguments.rounds, "tokens": TOKENS}
    print(f"{'':35}{'compile, s':>20}{'call, ms':>20}")
    print(f"{'':35}{'forward  gradient':>20}{'forward  gradient':>20}")
    for size in arguments.size or SIZES:
        results[size] = measure(size, arguments.rounds, arguments.threads)
        for mode, by_layers in results[size].items():
            for layers, figures in by_layers.items():
                label = f"{mode} {figures['parameters'] / 1e6:.1f}M {layers}"
                compile_s = [figures[f"{name}_compile_seconds"] for name in PASSES]
                call_ms = [figures[f"{name}_seconds"] * 1e3 for name in PASSES]
                print(f"{label:35}{compile_s[0]:10.2f}{compile_s[1]:10.2f}"
                      f"{call_ms[0]:10.1f}{call_ms[1]:10.1f}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
