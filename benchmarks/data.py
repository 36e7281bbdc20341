"""Throughput of batch construction on this machine, for each objective at sequence length 512.

    python benchmarks/data.py [--rounds 5] [--json FILE]

A store of the standard library's bytes is prepared, and each objective makes batches of 64
sequences from it, on one core and on all of them (one thread per core; steps are assigned
round-robin). Each round measures all objectives, so that other load on the machine affects them
alike. Printed are medians over rounds of millions of text tokens per second, and the ratio to
copying random rows of the store, which every batch requires. Then a model of one layer of width 64
is trained with each objective, and the share of the time for which the training loop waited for
batches is printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from scaling.config import RunConfig, validate
from scaling.data.prepare import prepare
from scaling.data.store import TokenStore
from scaling.objectives import Examples
from scaling.parallel.cpu_devices import available_cores
from scaling.runs.folder import RunFolder
from scaling.training.loop import train

LENGTH, SEQUENCES = 512, 64
TRAIN_SEQUENCES, TRAIN_STEPS = 4, 50
"""Sequences per batch, and steps, for which the small model is trained."""
DECODER = {"d_model": 64, "n_layers": 1, "n_heads": 1, "context": LENGTH}
ENCODER = DECODER | {"mode": "encoder-only"}
ENCODER_DECODER = DECODER | {"mode": "encoder-decoder"}
OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "causal": (DECODER, {"kind": "causal"}),
    "prefix": (DECODER | {"attention": "prefix"}, {"kind": "prefix"}),
    "masked": (ENCODER, {"kind": "masked"}),
    "masked words": (ENCODER, {"kind": "masked", "unit": "word"}),
    "masked spans": (ENCODER, {"kind": "masked", "unit": "span"}),
    "masked, next sentence": (
        ENCODER | {"n_token_types": 2, "heads": [{"kind": "masked_lm"}, {"kind": "next_sentence"}]},
        {"kind": "masked", "pairs": "next_sentence"}),
    "replaced tokens": (
        ENCODER | {"n_heads": 4, "heads": [{"kind": "replaced_token"}]},
        {"kind": "replaced_tokens"}),
    "span corruption": (ENCODER_DECODER | {"source_context": LENGTH, "context": 114},
                        {"kind": "span_corruption"}),
    "denoising": (ENCODER_DECODER | {"source_context": LENGTH + 1}, {"kind": "denoising"}),
    "mixture": (ENCODER_DECODER, {"kind": "mixture"}),
}
"""Configuration of the model and of the objective, by the name that is printed."""

BatchFunction = Callable[[int], object]
"""Makes the batch of a step."""


def runs(store: TokenStore, **changes: Any) -> dict[str, RunConfig]:
    """The configuration of a run for each objective, by name."""
    return {name: validate(RunConfig, {
        "model": model | {"vocab_size": store.vocab_size}, "objective": objective,
        "data": {"store": str(store.path)}, "tokens": 10**9, "batch_sequences": SEQUENCES,
        **changes,
    }, name) for name, (model, objective) in OBJECTIVES.items()}


def data_wait_share(run: RunConfig, store: TokenStore, folder: Path) -> float:
    """Share of the training time for which the loop waited for batches, between the first and the
    last line of metrics. Trains the run in `folder`."""
    train(run, store, folder)
    first, *others = [line for line in RunFolder(folder).metrics() if "loss" in line]
    waiting: float = sum(line["data_wait_seconds"] for line in others)
    return waiting / (others[-1]["seconds"] - first["seconds"])


def batch_functions(store: TokenStore) -> dict[str, tuple[int, BatchFunction]]:
    """Text tokens per batch, and the function that makes the batches, by name."""
    train = store.split("train")
    count = train.count(LENGTH, LENGTH)

    def copy(step: int) -> object:
        rows = np.random.default_rng(step).integers(0, count, SEQUENCES)
        return train.rows(rows, LENGTH, LENGTH).astype(np.int32)

    functions: dict[str, tuple[int, BatchFunction]] = {"rows copied": (SEQUENCES * LENGTH, copy)}
    for name, run in runs(store).items():
        functions[name] = run.batch_tokens, Examples.of(run, store).at
    return functions


def tokens_per_second(
    tokens: int, make: BatchFunction, threads: int, seconds: float
) -> float:
    """Text tokens per second of all threads together.

    Args:
        tokens: text tokens per batch.
        make: makes the batch of a step.
        threads: number of threads.
        seconds: length of the measurement; each thread finishes its last batch.
    """
    start = time.perf_counter()
    stop = start + seconds

    def count_batches(first: int) -> int:
        step = first
        while time.perf_counter() < stop:
            make(step)
            step += threads
        return (step - first) // threads

    with ThreadPoolExecutor(threads) as pool:
        batches = sum(pool.map(count_batches, range(threads)))
    return tokens * batches / (time.perf_counter() - start)


def main() -> None:
    """Measure, print and write the figures; see the docstring of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5,
                        help="Number of rounds; %(default)s by default.")
    parser.add_argument("--seconds", type=float, default=1.0,
                        help="Seconds per measurement; %(default)s by default.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write the figures to FILE.")
    arguments = parser.parse_args()
    cores = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        store = prepare("stdlib", "byte", None, Path(folder, "store"),
                        special=("cls", "sep", "mask", "pad"), sentinels=100)
        functions = batch_functions(store)
        for _, make in functions.values():
            make(0)
        measured: dict[tuple[str, int], list[float]] = {}
        for _ in range(arguments.rounds):
            for name, (tokens, make) in functions.items():
                for threads in sorted({1, cores}):
                    speed = tokens_per_second(tokens, make, threads, arguments.seconds)
                    measured.setdefault((name, threads), []).append(speed)
        short = {"batch_sequences": TRAIN_SEQUENCES,
                 "tokens": TRAIN_STEPS * TRAIN_SEQUENCES * LENGTH,
                 "logging": {"every_steps": TRAIN_STEPS // 5}, "evaluation": {"sequences": 2},
                 "schedule": {"kind": "wsd", "warmup_steps": 1}}
        shares = {name: data_wait_share(run, store, Path(folder, "runs", name.replace(" ", "-")))
                  for name, run in runs(store, **short).items()}
    speeds = {key: median(values) / 1e6 for key, values in measured.items()}
    print(f"millions of text tokens per second; {LENGTH} tokens per sequence, {SEQUENCES} "
          "sequences per batch")
    print(f"{'':24}{'1 core':>10}{f'{cores} cores':>10}{'ratio':>8}{'wait':>9}")
    figures = {}
    for name in functions:
        one_core, all_cores = speeds[name, 1], speeds[name, cores]
        ratio = all_cores / speeds["rows copied", cores]
        share = f"{shares[name]:9.2%}" if name in shares else ""
        print(f"{name:24}{one_core:10.1f}{all_cores:10.1f}{ratio:8.3f}{share}")
        figures[name] = {"one_core": round(one_core, 2), "all_cores": round(all_cores, 2),
                         "ratio_to_copying": round(ratio, 4)}
        if name in shares:
            figures[name]["data_wait_share"] = round(shares[name], 5)
    if arguments.json is not None:
        content = {"length": LENGTH, "sequences": SEQUENCES, "cores": cores,
                   "rounds": arguments.rounds, "millions_of_tokens_per_second": figures}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
