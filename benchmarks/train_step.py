"""Speed of a training step on this machine, compared with that of a decoder in plain jax.numpy.

    python benchmarks/train_step.py [--threads 1] [--rounds 5] [--json FILE]
    python benchmarks/train_step.py --baseline TREE     # compare with the step of another checkout

Each variant is measured in a separate process, and each round measures all variants in turn, so
that other load on the machine affects them alike. Printed are medians over rounds: tokens and GFLOP
(of matrix products) per second, the ratio to the plain decoder, and for reference the speed of a
large matrix product in the same rounds.

    ours                  the step of `scaling` in a process that is set up as by `scaling train`
    ours, one device      with all cores as one device (scaling/parallel/cpu_devices.py)
    ours, full batch      as one device, without microbatches (scaling/training/microbatch.py)
    ours, default malloc  without scaling.parallel.process.keep_freed_memory
    plain                 the step of benchmarks/plain.py in a process with default settings

It also measures the gradients of two parts of a layer, in two implementations each (see
scaling/models):

    feed-forward          products of two-dimensional matrices
    feed-forward, einsum  einsums over [batch, position, width]
    attention             arrays with the positions last
    attention, plain      arrays with the positions before the heads, as in the plain decoder
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

ROOT = Path(__file__).parents[1]

SHAPES = {
    "0.94M": (128, 4, 4, 1024, 128, 32),
    "5.8M": (256, 6, 8, 4096, 256, 16),
}
"""Width, layers, heads, vocabulary size, context and sequences per batch, by parameters."""
STEP_VARIANTS = ("plain", "ours, default malloc", "ours, full batch", "ours, one device", "ours")
PART_VARIANTS = ("feed-forward", "feed-forward, einsum", "attention", "attention, plain")
MATMUL_WIDTH = 2048
CALLS = 3
"""Calls that are timed together in a round."""


def build(variant: str, shape: str) -> Any:
    """A function without arguments that does one step and waits for its result.

    Args:
        variant: one of STEP_VARIANTS or PART_VARIANTS, or "matmul".
        shape: a key of SHAPES.
    """
    import jax
    import numpy as np

    d, layers, heads, vocab, context, batch = SHAPES[shape]
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocab, (batch, context + 1)).astype(np.int32)
    if variant == "matmul":
        import jax.numpy as jnp

        square = jnp.asarray(rng.standard_normal((MATMUL_WIDTH, MATMUL_WIDTH)), jnp.float32)
        multiply = jax.jit(lambda a: a @ a)
        return lambda: multiply(square).block_until_ready()
    if variant in PART_VARIANTS:
        return build_part(variant, shape, rng)
    if variant == "plain":
        from benchmarks import plain

        init, plain_step = plain.make_step()
        parameters = plain.init(d, layers, heads, vocab, jax.random.key(0))
        plain_state = parameters, init(parameters)

        def call_plain() -> None:
            nonlocal plain_state
            plain_state, loss = plain_step(plain_state, tokens)
            float(loss)

        return call_plain
    from scaling.config import RunConfig, validate
    from scaling.optim.optimizers import optimizer_numbers
    from scaling.parallel import batch_sharding, make_mesh
    from scaling.parallel.cpu_devices import divide_cores
    from scaling.parallel.process import keep_freed_memory
    from scaling.training.microbatch import sequences_at_once
    from scaling.training.step import init_state, make_train_step

    if variant != "ours, default malloc":
        keep_freed_memory()
    run = validate(RunConfig, {
        "model": {"d_model": d, "n_layers": layers, "n_heads": heads, "context": context,
                  "vocab_size": vocab},
        "data": {"store": "none"}, "tokens": 10**9, "batch_sequences": batch,
    }, "benchmark")
    if variant in ("ours", "ours, default malloc"):
        divide_cores([run])
    mesh = make_mesh(run.execution.mesh)
    jax.set_mesh(mesh)
    batch_of_ids = jax.device_put({"ids": tokens}, batch_sharding(mesh))
    state = init_state(run)
    at_once = None if variant == "ours, full batch" else sequences_at_once(run)
    step = make_train_step(run.objective, at_once)
    numbers = optimizer_numbers(run.optimizer, 1e-3)

    def call() -> None:
        nonlocal state
        state, metrics = step(state, batch_of_ids, numbers)
        float(metrics.loss)

    return call


def build_part(part: str, shape: str, rng: Any) -> Any:
    """A function without arguments that computes the gradient of a part of a layer with respect to
    its input and its parameters, and waits for the result.

    Args:
        part: one of PART_VARIANTS.
        shape: a key of SHAPES.
        rng: numpy's generator of the input.
    """
    import jax
    import jax.numpy as jnp

    from benchmarks import plain
    from scaling.config import ModelConfig
    from scaling.models import Tokens
    from scaling.models.attention import Attention
    from scaling.models.feed_forward import FeedForward
    from scaling.models.kernels.attention import AttentionInputs
    from scaling.models.positions import rotary_angles
    from scaling.models.tokens import AttentionMask
    from scaling.parallel.process import keep_freed_memory

    keep_freed_memory()
    d, layers, heads, vocab, context, batch = SHAPES[shape]
    config = ModelConfig(
        d_model=d, n_layers=layers, n_heads=heads, context=context, vocab_size=vocab
    )
    x = jnp.asarray(rng.standard_normal((batch, context, d)), jnp.float32)
    key, dtype = jax.random.key(0), jnp.dtype("float32")
    block = plain.init(d, 1, heads, vocab, key)["blocks"][0]
    mask = AttentionMask.within(Tokens(jnp.zeros((batch, context), int)), "causal", None)
    rotation = rotary_angles(context, config.head_width, config.rotary_base)
    weights: Any
    if part == "feed-forward":
        weights = FeedForward(config, dtype, key)
        forward = lambda w, x: w(x)  # noqa: E731
    elif part == "feed-forward, einsum":
        weights = (block["up"], block["down"])
        forward = lambda w, x: jax.nn.gelu(x @ w[0]) @ w[1]  # noqa: E731
    elif part == "attention":
        weights = Attention(config, dtype, key)
        forward = lambda w, x: w(x, x, AttentionInputs(mask, rotation))  # noqa: E731
    else:
        weights = {name: block[name] for name in "qkvo"}
        causal = jnp.tril(jnp.ones((context, context), bool))

        def forward(w: Any, x: jax.Array) -> jax.Array:
            q, k, v = (jnp.einsum("btd,dhk->bthk", x, w[name]) for name in "qkv")
            scores = jnp.einsum("bthk,bshk->bhts", plain.rotate(q), plain.rotate(k))
            scores = jnp.where(causal, scores / q.shape[-1] ** 0.5, -1e30)
            mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores, axis=-1), v)
            return jnp.einsum("bthk,hkd->btd", mixed, w["o"])

    @jax.jit
    def gradient(w: Any, x: jax.Array) -> Any:
        y, vjp = jax.vjp(forward, w, x)
        return vjp(y)

    return lambda: jax.block_until_ready(gradient(weights, x))


def serve(variant: str, shape: str) -> None:
    """For every line on standard input, time CALLS calls and print the seconds per call."""
    call = build(variant, shape)
    call()
    call()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        print((time.perf_counter() - start) / CALLS, flush=True)


def start(variant: str, shape: str, threads: int, tree: Path = ROOT) -> subprocess.Popen[str]:
    """Start the process that measures a variant (`serve`), with the code of the checkout `tree`."""
    environment = dict(os.environ, PYTHONPATH=str(tree))
    if threads == 1:
        environment["XLA_FLAGS"] = (
            "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    script = tree / "benchmarks" / "train_step.py"
    return subprocess.Popen(
        [sys.executable, str(script), "--serve", variant, "--shape", shape],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )


def measure(servers: dict[str, subprocess.Popen[str]], rounds: int) -> dict[str, float]:
    """Median seconds per call of each variant; each round measures all of them in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in servers}
    for server in servers.values():
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
    for _ in range(rounds):
        for name, server in servers.items():
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write("measure\n")
            server.stdin.flush()
            seconds[name].append(float(server.stdout.readline()))
    for server in servers.values():
        server.communicate()
    return {name: median(times) for name, times in seconds.items()}


def flops_per_token(shape: str) -> int:
    """FLOPs per token of the matrix products of training."""
    from scaling.accounting import training_flops_per_token
    from scaling.config import ModelConfig

    d, layers, heads, vocab, context, _ = SHAPES[shape]
    return training_flops_per_token(ModelConfig(
        d_model=d, n_layers=layers, n_heads=heads, context=context, vocab_size=vocab
    ))


def main() -> None:
    """Measure, print and write the figures; see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=0,
                        help="1 for a single thread; 0, the default, for all cores.")
    parser.add_argument("--rounds", type=int, default=5,
                        help="Number of rounds; %(default)s by default.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write the figures to FILE.")
    parser.add_argument("--baseline", type=Path, metavar="TREE",
                        help="Compare only our step with that of another checkout of this "
                             "repository.")
    parser.add_argument("--serve", metavar="VARIANT",
                        help="Internal: measure this variant in this process, on request.")
    parser.add_argument("--shape", choices=SHAPES, help="Internal: shape of the model for --serve.")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.shape)
        return
    results: dict[str, Any] = {"threads": arguments.threads or os.cpu_count()}
    if arguments.baseline:
        for shape in SHAPES:
            times = measure({
                "ours": start("ours", shape, arguments.threads),
                "baseline": start("ours", shape, arguments.threads, arguments.baseline.resolve()),
            }, arguments.rounds)
            results[shape] = {"seconds": times}
            print(f"{shape}: {times['baseline'] / times['ours']:.3f} times as fast as the baseline")
        _write(arguments.json, results)
        return
    for shape, (_, _, _, _, context, batch) in SHAPES.items():
        times = {}
        for group in ([*STEP_VARIANTS, "matmul"], PART_VARIANTS):
            times |= measure(
                {name: start(name, shape, arguments.threads) for name in group}, arguments.rounds)
        flops = flops_per_token(shape)
        matmul_gflops = 2 * MATMUL_WIDTH**3 / times["matmul"] / 1e9
        print(f"{shape} parameters (a {MATMUL_WIDTH}^3 float32 matrix product: "
              f"{matmul_gflops:.0f} GFLOP/s)")
        for name in STEP_VARIANTS:
            speed = context * batch / times[name]
            print(f"  {name:22} {speed:10,.0f} tokens/s  {speed * flops / 1e9:6.1f} GFLOP/s  "
                  f"{times['plain'] / times[name]:.2f} x plain")
        for part, other in (PART_VARIANTS[:2], PART_VARIANTS[2:]):
            print(f"  {part + ' gradient':22} {times[part] * 1e3:7.1f} ms; {other}: "
                  f"{times[other] * 1e3:.1f} ms, {times[other] / times[part]:.2f} x")
        results[shape] = {
            "seconds": times,
            "tokens_per_second": {n: context * batch / times[n] for n in STEP_VARIANTS},
            "matmul_gflops": matmul_gflops,
        }
    _write(arguments.json, results)


def _write(path: Path | None, results: dict[str, Any]) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
