"""How fast batches are made on this machine, for each objective, at 512 tokens a sequence.

    python benchmarks/data.py [--rounds 5] [--json FILE]

A store of the standard library's bytes is prepared; each objective makes batches of 64 sequences
from it, on one core and on all of them (a thread each, steps dealt out in turn). Rounds go through
all contenders, so that a noisy machine is noisy for all. Printed are medians over rounds of
millions of text tokens a second, and the ratio to copying rows of the store at random, which is the
least that any batch takes. Then a model of that objective, far smaller than any of interest, is
trained, and the share of the time printed for which the loop waited for a batch.
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
TRAINED, STEPS = 4, 50  # sequences of a batch, and batches, that the small model is trained on
SIZES = {"d_model": 64, "n_layers": 1, "n_heads": 1, "context": LENGTH}
ENCODER = SIZES | {"mode": "encoder-only"}
BOTH = SIZES | {"mode": "encoder-decoder"}
OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "causal": (SIZES, {"kind": "causal"}),
    "prefix": (SIZES | {"attention": "prefix"}, {"kind": "prefix"}),
    "masked": (ENCODER, {"kind": "masked"}),
    "masked words": (ENCODER, {"kind": "masked", "unit": "word"}),
    "masked spans": (ENCODER, {"kind": "masked", "unit": "span"}),
    "masked, next sentence": (
        ENCODER | {"n_token_types": 2, "heads": [{"kind": "masked_lm"}, {"kind": "next_sentence"}]},
        {"kind": "masked", "pairs": "next_sentence"}),
    "replaced tokens": (
        ENCODER | {"n_heads": 4, "heads": [{"kind": "replaced_token"}]},
        {"kind": "replaced_tokens"}),
    "span corruption": (BOTH | {"source_context": LENGTH, "context": 114},
                        {"kind": "span_corruption"}),
    "denoising": (BOTH | {"source_context": LENGTH + 1}, {"kind": "denoising"}),
    "mixture": (BOTH, {"kind": "mixture"}),
}


def runs(store: TokenStore, **changes: Any) -> dict[str, RunConfig]:
    """A run for each objective."""
    return {name: validate(RunConfig, {
        "model": model | {"vocab_size": store.vocab_size}, "objective": objective,
        "data": {"store": str(store.path)}, "tokens": 10**9, "batch_sequences": SEQUENCES,
        **changes,
    }, name) for name, (model, objective) in OBJECTIVES.items()}


def waited(run: RunConfig, store: TokenStore, folder: Path) -> float:
    """Share of the time between the first line of metrics and the last for which the loop waited
    for batches."""
    train(run, store, folder)
    first, *others = [line for line in RunFolder(folder).metrics() if "loss" in line]
    waiting: float = sum(line["data_wait_seconds"] for line in others)
    return waiting / (others[-1]["seconds"] - first["seconds"])


def contenders(store: TokenStore) -> dict[str, tuple[int, Callable[[int], object]]]:
    """By name: tokens of text in a batch, and what makes the batch of a step."""
    train = store.split("train")
    count = train.count(LENGTH, LENGTH)

    def copy(step: int) -> object:
        rows = np.random.default_rng(step).integers(0, count, SEQUENCES)
        return train.rows(rows, LENGTH, LENGTH).astype(np.int32)

    made: dict[str, tuple[int, Callable[[int], object]]] = {
        "rows copied": (SEQUENCES * LENGTH, copy)}
    for name, run in runs(store).items():
        made[name] = run.batch_tokens, Examples.of(run, store).at
    return made


def tokens_per_second(
    tokens: int, make: Callable[[int], object], threads: int, seconds: float
) -> float:
    """Tokens of the batches that so many threads make in about so many seconds."""
    start = time.perf_counter()
    stop = start + seconds

    def work(first: int) -> int:
        step = first
        while time.perf_counter() < stop:
            make(step)
            step += threads
        return (step - first) // threads

    with ThreadPoolExecutor(threads) as pool:
        batches = sum(pool.map(work, range(threads)))
    return tokens * batches / (time.perf_counter() - start)


def main() -> None:
    """Measure and print; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure of a round")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    cores = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        store = prepare("stdlib", "byte", None, Path(folder, "store"),
                        special=("cls", "sep", "mask", "pad"), sentinels=100)
        made = contenders(store)
        for _, make in made.values():
            make(0)
        times: dict[tuple[str, int], list[float]] = {}
        for _ in range(arguments.rounds):
            for name, (tokens, make) in made.items():
                for threads in sorted({1, cores}):
                    speed = tokens_per_second(tokens, make, threads, arguments.seconds)
                    times.setdefault((name, threads), []).append(speed)
        few = {"batch_sequences": TRAINED, "tokens": STEPS * TRAINED * LENGTH,
               "logging": {"every_steps": STEPS // 5}, "evaluation": {"sequences": 2},
               "schedule": {"kind": "wsd", "warmup_steps": 1}}
        shares = {name: waited(run, store, Path(folder, "runs", name.replace(" ", "-")))
                  for name, run in runs(store, **few).items()}
    speeds = {key: median(values) / 1e6 for key, values in times.items()}
    print(f"millions of tokens a second, {LENGTH} a sequence, {SEQUENCES} sequences a batch")
    print(f"{'':24}{'1 core':>10}{f'{cores} cores':>10}{'ratio':>8}{'waited':>9}")
    figures = {}
    for name in made:
        one, all_of_them = speeds[name, 1], speeds[name, cores]
        ratio = all_of_them / speeds["rows copied", cores]
        share = f"{shares[name]:9.2%}" if name in shares else ""
        print(f"{name:24}{one:10.1f}{all_of_them:10.1f}{ratio:8.3f}{share}")
        figures[name] = {"one_core": round(one, 2), "all_cores": round(all_of_them, 2),
                         "ratio_to_copying": round(ratio, 4)}
        if name in shares:
            figures[name]["share_of_training_waited"] = round(shares[name], 5)
    if arguments.json is not None:
        content = {"length": LENGTH, "sequences": SEQUENCES, "cores": cores,
                   "rounds": arguments.rounds, "millions_of_tokens_a_second": figures}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
