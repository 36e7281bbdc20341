"""Speed of a training step on this machine: ours against a plain decoder, in one run.

    python benchmarks/train_step.py [--threads 1] [--rounds 5] [--json FILE]
    python benchmarks/train_step.py --baseline TREE     # ours against another checkout's

Each contender has a process of its own; rounds alternate between them, so that a noisy machine is
noisy for all. Printed are medians over rounds: tokens and GFLOP (matrix products) a second, the
ratio to the plain decoder, and for scale the rate of a large matrix product in the same run.

    ours              scaling's step in a process set up as `scaling train` sets it up
    ours, one device  the same with all cores as one device (scaling/parallel/cpu_devices.py)
    ours, at once     the same as one device and with the whole batch at once (microbatch.py)
    ours, no malloc   the same without scaling.parallel.process.keep_freed_memory
    plain             benchmarks/plain.py in a process that is left as it is

and the gradients of two parts, each written both ways (see scaling/models):

    feed-forward      as products of plain matrices / as einsums over [batch, position, width]
    attention         positions last / positions before heads, as in the plain decoder
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
    # name: width, layers, heads, vocabulary, context, sequences in a batch
    "0.94M": (128, 4, 4, 1024, 128, 32),
    "5.8M": (256, 6, 8, 4096, 256, 16),
}
CONTENDERS = ("plain", "ours, no malloc", "ours, at once", "ours, one device", "ours")
PARTS = ("feed-forward", "feed-forward, einsum", "attention", "attention, plain")
CALLS = 3


def build(contender: str, shape: str) -> Any:
    """A function of no arguments that does one step and waits for it."""
    import jax
    import numpy as np

    d, layers, heads, vocab, context, batch = SHAPES[shape]
    random = np.random.default_rng(0)
    tokens = random.integers(0, vocab, (batch, context + 1)).astype(np.int32)
    if contender == "matmul":
        import jax.numpy as jnp

        square = jnp.asarray(random.standard_normal((2048, 2048)), jnp.float32)
        multiply = jax.jit(lambda a: a @ a)
        return lambda: multiply(square).block_until_ready()
    if contender in PARTS:
        return build_part(contender, shape, random)
    if contender == "plain":
        from benchmarks import plain

        init, step = plain.make_step()
        parameters = plain.init(d, layers, heads, vocab, jax.random.key(0))
        box = [(parameters, init(parameters))]

        def run() -> None:
            box[0], loss = step(box[0], tokens)
            float(loss)

        return run
    from scaling.config import RunConfig, validate
    from scaling.optim.optimizers import optimizer_numbers
    from scaling.parallel import batch_sharding, make_mesh
    from scaling.parallel.cpu_devices import divide_cores
    from scaling.parallel.process import keep_freed_memory
    from scaling.training.microbatch import sequences_at_once
    from scaling.training.step import init_state, make_train_step

    if contender != "ours, no malloc":
        keep_freed_memory()
    run_config = validate(RunConfig, {
        "model": {"d_model": d, "n_layers": layers, "n_heads": heads, "context": context,
                  "vocab_size": vocab},
        "data": {"store": "none"}, "tokens": 10**9, "batch_sequences": batch,
    }, "benchmark")
    if contender in ("ours", "ours, no malloc"):
        divide_cores([run_config])
    mesh = make_mesh(run_config.execution.mesh)
    jax.set_mesh(mesh)
    batch_of_ids = jax.device_put({"ids": tokens}, batch_sharding(mesh))
    states = [init_state(run_config)]
    at_once = None if contender == "ours, at once" else sequences_at_once(run_config)
    step = make_train_step(run_config.objective, at_once)
    numbers = optimizer_numbers(run_config.optimizer, 1e-3)

    def run() -> None:
        states[0], metrics = step(states[0], batch_of_ids, numbers)
        float(metrics.loss)

    return run


def build_part(part: str, shape: str, random: Any) -> Any:
    """The gradient of one layer's part by its input and its parameters."""
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
    x = jnp.asarray(random.standard_normal((batch, context, d)), jnp.float32)
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

        def forward(w: Any, x: jax.Array) -> jax.Array:
            q, k, v = (jnp.einsum("btd,dhk->bthk", x, w[name]) for name in "qkv")
            scores = jnp.einsum("bthk,bshk->bhts", plain.turn(q), plain.turn(k))
            scores = jnp.where(mask, scores / q.shape[-1] ** 0.5, -1e30)
            mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores, axis=-1), v)
            return jnp.einsum("bthk,hkd->btd", mixed, w["o"])

    @jax.jit
    def pull_back(w: Any, x: jax.Array) -> Any:
        y, back = jax.vjp(forward, w, x)
        return back(y)

    return lambda: jax.block_until_ready(pull_back(weights, x))


def serve(contender: str, shape: str) -> None:
    """Time CALLS steps for every line on standard input; print seconds for one."""
    step = build(contender, shape)
    step()
    step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(CALLS):
            step()
        print((time.perf_counter() - start) / CALLS, flush=True)


def start(contender: str, shape: str, threads: int, tree: Path = ROOT) -> subprocess.Popen[str]:
    """The process of a contender, with the code of a checkout."""
    environment = dict(os.environ, PYTHONPATH=str(tree))
    if threads == 1:
        environment["XLA_FLAGS"] = (
            "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    script = tree / "benchmarks" / "train_step.py"
    return subprocess.Popen(
        [sys.executable, str(script), "--serve", contender, "--shape", shape],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )


def measure(servers: dict[str, subprocess.Popen[str]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender's call, rounds alternating between them."""
    seconds: dict[str, list[float]] = {name: [] for name in servers}
    for server in servers.values():
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
    for _ in range(rounds):
        for name, server in servers.items():
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write("go\n")
            server.stdin.flush()
            seconds[name].append(float(server.stdout.readline()))
    for server in servers.values():
        server.communicate()
    return {name: median(times) for name, times in seconds.items()}


def flops_per_token(shape: str) -> int:
    """Matrix products of training, per token."""
    from scaling.accounting import training_flops_per_token
    from scaling.config import ModelConfig

    d, layers, heads, vocab, context, _ = SHAPES[shape]
    return training_flops_per_token(ModelConfig(
        d_model=d, n_layers=layers, n_heads=heads, context=context, vocab_size=vocab
    ))


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=0, help="1: a single thread; 0: all cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--baseline", type=Path, metavar="TREE",
                        help="another checkout, whose step ours is compared with")
    parser.add_argument("--serve")
    parser.add_argument("--shape", choices=SHAPES)
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
        names = [*CONTENDERS, "matmul"]
        times = {}
        for group in (names, PARTS):
            times |= measure(
                {name: start(name, shape, arguments.threads) for name in group}, arguments.rounds)
        flops = flops_per_token(shape)
        product = 2 * 2048**3 / times["matmul"] / 1e9
        print(f"{shape} (a 2048^3 float32 product: {product:.0f} GFLOP/s)")
        for name in CONTENDERS:
            speed = context * batch / times[name]
            print(f"  {name:22} {speed:10,.0f} tokens/s  {speed * flops / 1e9:6.1f} GFLOP/s  "
                  f"{times['plain'] / times[name]:.2f} x plain")
        for part, other in (PARTS[:2], PARTS[2:]):
            print(f"  {part + ' gradient':22} {times[part] * 1e3:7.1f} ms, written the other way "
                  f"{times[other] * 1e3:.1f} ms: {times[other] / times[part]:.2f} x")
        results[shape] = {
            "seconds": times,
            "tokens_per_second": {n: context * batch / times[n] for n in CONTENDERS},
            "matmul_gflops": product,
        }
    _write(arguments.json, results)


def _write(path: Path | None, results: dict[str, Any]) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
