"""What the three modes of a Transformer cost to compile and to run on this machine.

    python benchmarks/models.py [--threads 1] [--rounds 5] [--json FILE]

Each mode at two sizes, its layers scanned or unrolled, has a process of its own, with no compile
cache. A process traces and compiles the forward pass and the gradient once; then rounds alternate
between the processes of a size, so that a noisy machine is noisy for all. Printed are the seconds
of trace plus compile, and medians over rounds of the milliseconds of one call; a batch holds 1,024
tokens, in an encoder-decoder 512 for the encoder and 512 for the decoder.
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
    # width, layers (an encoder-decoder has half of them on each side), heads, vocabulary
    "1M": (128, 4, 4, 1024),
    "10M": (320, 8, 5, 4096),
}
TOKENS, CONTEXT = 1024, 128
LAYERS = ("unrolled", "scanned")
PASSES = ("forward", "gradient")
CALLS = 3


def model_of(mode: str, size: str) -> Any:
    """The configuration of one contender."""
    from scaling.config import ModelConfig

    d_model, n_layers, n_heads, vocab_size = SIZES[size]
    both = mode == "encoder-decoder"
    return ModelConfig(
        mode=mode, d_model=d_model, n_layers=n_layers // 2 if both else n_layers,
        n_heads=n_heads, vocab_size=vocab_size, context=CONTEXT, positions="learned",
    )


def build(mode: str, size: str, layers: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A function of no arguments for each pass that waits for its result; and the parameters and
    the seconds of compiling."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from scaling.config import ExecutionConfig
    from scaling.models import Transformer
    from scaling.parallel.process import keep_freed_memory

    keep_freed_memory()
    config, execution = model_of(mode, size), ExecutionConfig(scan_layers=layers == "scanned")
    model = jax.jit(lambda key: Transformer(config, key, execution=execution))(jax.random.key(0))
    sides = 2 if mode == "encoder-decoder" else 1
    ids = np.random.default_rng(0).integers(
        0, config.vocabulary, (sides, TOKENS // sides // CONTEXT, CONTEXT)).astype(np.int32)

    def loss(model: Any, ids: Any) -> Any:
        logits = model(*ids)
        return -jax.nn.log_softmax(logits)[..., 0].mean()

    functions = {"forward": jax.jit(lambda model, ids: model(*ids)),
                 "gradient": jax.jit(jax.value_and_grad(loss))}
    facts: dict[str, Any] = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(model))}
    runs, ids = {}, jnp.asarray(ids)
    for name, function in functions.items():
        start = time.perf_counter()
        compiled = function.lower(model, ids).compile()
        facts[f"{name}_compile_seconds"] = time.perf_counter() - start
        runs[name] = lambda compiled=compiled: jax.block_until_ready(compiled(model, ids))
    return runs, facts


def serve(mode: str, size: str, layers: str) -> None:
    """Compile; then for every line on standard input time CALLS calls of each pass."""
    runs, facts = build(mode, size, layers)
    for run in runs.values():
        run()
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        seconds = {}
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                run()
            seconds[name] = (time.perf_counter() - start) / CALLS
        print(json.dumps(seconds), flush=True)


def measure(size: str, rounds: int, threads: int) -> dict[str, dict[str, dict[str, Any]]]:
    """For each mode, scanned and unrolled: parameters, seconds of compiling (one process after the
    other) and median seconds of a call (rounds alternating between them)."""
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
            server.stdin.write("go\n")
            server.stdin.flush()
            seconds[key].append(json.loads(server.stdout.readline()))
    for (mode, layers), server in servers.items():
        server.communicate()
        for name in PASSES:
            results[mode][layers][f"{name}_seconds"] = median(
                times[name] for times in seconds[mode, layers])
    return results


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=0, help="1: a single thread; 0: all cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=MODES)
    parser.add_argument("--size", choices=SIZES, action="append")
    parser.add_argument("--layers", choices=LAYERS)
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
        for mode, kinds in results[size].items():
            for layers, said in kinds.items():
                who = f"{mode} {said['parameters'] / 1e6:.1f}M {layers}"
                compiled = [said[f"{name}_compile_seconds"] for name in PASSES]
                called = [said[f"{name}_seconds"] * 1e3 for name in PASSES]
                print(f"{who:35}{compiled[0]:10.2f}{compiled[1]:10.2f}"
                      f"{called[0]:10.1f}{called[1]:10.1f}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
