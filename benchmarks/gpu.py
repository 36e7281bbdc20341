"""Speed of training on an accelerator: tokens per second, model FLOPs utilisation, compile time.

    python benchmarks/gpu.py [--out results/gpu] [--quick] [--packs]

Needs jax, flax, optax, numpy, PyYAML, jaxtyping and pydantic, but neither TensorFlow nor Orbax. It
runs on the default device of JAX, so that `--quick` tests the script on a CPU.

Each row of train_step.json is one model with one batch size, precision and layout of its layers
(scanned or unrolled); seconds are medians over steps, each of which is waited for. The compile time
is the time of the first step minus the median. Each row of pack.json is a pack of `width` runs of
one small model, trained concurrently in one program (scaling/training/packed.py); `gain` is its
tokens per second relative to a pack of one run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.accounting import count_parameters, run_flops_per_token
from scaling.accounting.hardware import peak_flops_of_kind
from scaling.config import MeshConfig, RunConfig, validate
from scaling.optim.optimizers import optimizer_numbers
from scaling.parallel import batch_sharding, make_mesh
from scaling.training.microbatch import sequences_at_once
from scaling.training.step import init_state, make_train_step, step_seeds

CASES = [(64, 3, 2, 128, 64), (512, 8, 8, 1024, 32), (1024, 16, 8, 1024, 32),
         (2048, 16, 16, 2048, 8)]
"""Width, layers, heads, context and sequences per batch of the models of train_step.json."""
QUICK_CASES = [(32, 2, 2, 64, 4)]
VOCAB_SIZE = 32_768
PACK_CASES = [(32, 2, 2, 128, 32), (64, 3, 2, 256, 64), (128, 4, 4, 256, 64)]
"""The same for the models of pack.json."""
QUICK_PACK_CASES = [(16, 1, 1, 32, 8), (32, 2, 2, 64, 8), (64, 3, 2, 128, 8)]
PACK_VOCAB_SIZE = 257  # that of a byte tokenizer
PACK_WIDTHS = [1, 2, 4, 8, 16, 32]
"""Numbers of runs that are trained concurrently."""
QUICK_PACK_WIDTHS = [1, 2, 4, 8]
WARMUP_STEPS, STEPS = 2, 20
"""Steps that are not timed, the first of which compiles, and steps that are."""


def measure(case: tuple[int, ...], precision: str, scan: bool) -> dict[str, Any]:
    """One row of train_step.json.

    Args:
        case: width, layers, heads, context and sequences per batch.
        precision: of the computation, as in RunConfig.
        scan: whether the layers are scanned; unrolled otherwise.
    """
    d_model, n_layers, n_heads, context, batch = case
    run = validate(RunConfig, {
        "model": {"d_model": d_model, "n_layers": n_layers, "n_heads": n_heads,
                  "context": context, "vocab_size": VOCAB_SIZE},
        "data": {"store": "none"}, "tokens": 10**9, "batch_sequences": batch,
        "precision": precision,
        "execution": {"scan_layers": scan, "remat": "full" if d_model >= 1024 else "none"},
    }, "benchmark")
    mesh = make_mesh(run.execution.mesh)
    ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, (batch, context + 1)).astype(np.int32)
    seconds = []
    with jax.set_mesh(mesh):
        state = init_state(run)
        step = make_train_step(run.objective, sequences_at_once(run))
        numbers = optimizer_numbers(run.optimizer, 1e-4)
        batch_of_ids = jax.device_put({"ids": ids}, batch_sharding(mesh))
        for _ in range(WARMUP_STEPS + STEPS):
            start = time.perf_counter()
            state, metrics = step(state, batch_of_ids, numbers)
            loss = float(metrics.loss)
            seconds.append(time.perf_counter() - start)
    step_seconds = median(seconds[WARMUP_STEPS:])
    device = jax.devices()[0]
    peak = peak_flops_of_kind(device.device_kind)
    speed = run.batch_tokens / step_seconds
    flops = speed * run_flops_per_token(run)
    return {
        "device": device.device_kind, "devices": len(jax.devices()),
        "params": count_parameters(run.model).total, "shape": case, "precision": precision,
        "scan_layers": scan, "remat": run.execution.remat, "step_seconds": step_seconds,
        "tokens_per_second": speed, "tflops": flops / 1e12,
        "mfu": flops / (peak * len(jax.devices())) if peak else None,
        "compile_seconds": seconds[0] - step_seconds, "loss": loss,
    }


def measure_packs(case: tuple[int, ...], widths: list[int]) -> list[dict[str, Any]]:
    """Rows of pack.json for one model, each of which is also printed.

    Args:
        case: width, layers, heads, context and sequences per batch.
        widths: numbers of runs that are trained concurrently.
    """
    d_model, n_layers, n_heads, context, batch = case
    run = validate(RunConfig, {
        "model": {"d_model": d_model, "n_layers": n_layers, "n_heads": n_heads,
                  "context": context, "vocab_size": PACK_VOCAB_SIZE},
        "data": {"store": "none"}, "tokens": 10**9, "batch_sequences": batch,
    }, "benchmark")
    rows: list[dict[str, Any]] = []
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    ids = np.random.default_rng(0).integers(
        0, PACK_VOCAB_SIZE, (batch, context + 1)).astype(np.int32)
    with jax.set_mesh(mesh):
        step = make_train_step(run.objective, sequences_at_once(run), packed=True)
        for width in widths:
            states = jax.tree.map(lambda x, width=width: jnp.stack([x] * width), init_state(run))
            packed_ids, numbers, seeds = (
                np.stack([x] * width) for x in
                (ids, optimizer_numbers(run.optimizer, 1e-4), step_seeds(run, 0)))
            seconds = []
            for _ in range(WARMUP_STEPS + STEPS):
                start = time.perf_counter()
                states, metrics = step(states, {"ids": packed_ids}, numbers, seeds, None)
                jax.block_until_ready(metrics)
                seconds.append(time.perf_counter() - start)
            step_seconds = median(seconds[WARMUP_STEPS:])
            speed = width * run.batch_tokens / step_seconds
            rows.append({
                "device": jax.devices()[0].device_kind,
                "params": count_parameters(run.model).total, "shape": case, "width": width,
                "flops_per_step": width * run_flops_per_token(run) * run.batch_tokens,
                "step_seconds": step_seconds, "tokens_per_second": speed,
            })
            rows[-1]["gain"] = speed / rows[0]["tokens_per_second"]
            print(f"{rows[-1]['params']:>13,} parameters  pack of {width:2}  {speed:>12,.0f} "
                  f"tokens/s  {rows[-1]['gain']:.2f} x", flush=True)
    return rows


def main() -> None:
    """Measure every case, print the rows, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), metavar="DIR",
                        help="Folder of train_step.json and pack.json; %(default)s by default.")
    parser.add_argument("--quick", action="store_true", help="Measure smaller models, for a CPU.")
    parser.add_argument("--packs", action="store_true", help="Measure only packs, for pack.json.")
    arguments = parser.parse_args()
    rows = []
    for case in () if arguments.packs else QUICK_CASES if arguments.quick else CASES:
        for precision in ("bfloat16", "float32"):
            for scan in (False, True):
                row = measure(case, precision, scan)
                rows.append(row)
                mfu = f"{row['mfu']:.1%}" if row["mfu"] else "unknown"
                print(f"{row['params']:>13,} parameters  {precision:8}  "
                      f"{'scanned ' if scan else 'unrolled'}  {row['tokens_per_second']:>12,.0f} "
                      f"tokens/s  {row['tflops']:7.2f} TFLOP/s  MFU {mfu}  compile "
                      f"{row['compile_seconds']:.1f} s", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if rows:
        (arguments.out / "train_step.json").write_text(json.dumps(rows, indent=2) + "\n")
    cases, widths = ((QUICK_PACK_CASES, QUICK_PACK_WIDTHS) if arguments.quick
                     else (PACK_CASES, PACK_WIDTHS))
    packs = [row for case in cases for row in measure_packs(case, widths)]
    (arguments.out / "pack.json").write_text(json.dumps(packs, indent=2) + "\n")


if __name__ == "__main__":
    main()
